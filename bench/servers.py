"""A Kafka and a Redis of a benchmark's own, in a temporary folder; or those that the settings name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pinstream.local import LocalServers
from pinstream.settings import Settings, load_settings


@contextmanager
def bench_servers() -> Iterator[Settings]:
    """Settings that reach a running Kafka and Redis; servers that this started end with the block."""
    settings = load_settings()
    if settings.kafka.bootstrap_servers:
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="pinstream-bench-") as folder, LocalServers(Path(folder)) as servers:
        yield load_settings(
            kafka=settings.kafka.model_copy(update={"bootstrap_servers": servers.bootstrap_servers}),
            redis=settings.redis.model_copy(update={"url": servers.redis_url}),
        )
