"""A Kafka and a Redis of a benchmark's own, in a temporary folder; or those that the settings name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from pinstream.local import LocalServers
from pinstream.settings import Settings, load_settings


@contextmanager
def bench_servers() -> Iterator[Settings]:
    """Settings that reach a running Kafka and Redis, with a Pins topic, snapshots and logs of this run's own.

    Servers that this started end with the block, and the folder goes.
    """
    settings = load_settings()
    with tempfile.TemporaryDirectory(prefix="pinstream-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        if not settings.kafka.bootstrap_servers:
            servers = stack.enter_context(LocalServers(folder))
            settings = load_settings(
                kafka=settings.kafka.model_copy(update={"bootstrap_servers": servers.bootstrap_servers}),
                redis=settings.redis.model_copy(update={"url": servers.redis_url}),
            )
        yield settings.model_copy(
            update={
                "topics": settings.topics.model_copy(update={"pins": f"pins.{uuid4().hex[:8]}"}),
                "index": settings.index.model_copy(update={"snapshot_url": (folder / "snapshots").as_uri()}),
                "local_dir": folder,
            }
        )
