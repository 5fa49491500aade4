"""A real Kafka and a real Redis for the whole run; topics, groups and a model of its own for each test."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pinstream.codes import Fingerprint
from pinstream.local import LocalServers
from pinstream.settings import Settings, load_settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
_ASKED_FOR = dict(os.environ)
for name in [name for name in os.environ if name.startswith("PINSTREAM_") and name != "PINSTREAM_CACHE_DIR"]:
    del os.environ[name]  # a developer's own settings say nothing about the tests


def asked_for(name: str, default: int) -> int:
    """How long a soak shall be: a variable that is not a setting of pinstream's."""
    return int(_ASKED_FOR.get(name, default))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """One broker and one Redis; a machine that can't start them fails here, it does not skip."""
    with LocalServers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture
def settings(servers: LocalServers, tmp_path: Path) -> Settings:
    """Settings with topics, groups and folders of this test's own."""
    name = uuid.uuid4().hex[:8]
    return load_settings(
        kafka={"bootstrap_servers": servers.bootstrap_servers},
        redis={"url": servers.redis_url},
        topics={"pins": f"pins.{name}", "partitions": 3},
        embed={"instance_id": f"embed-{name}", "fetch_threads": 4, "max_batch_delay_ms": 5},
        index={
            "instance_id": f"index-{name}",
            "snapshot_url": f"file://{tmp_path / 'snapshots'}",
            "snapshot_interval_s": 1,
        },
        fetch={"allowed_folders": (str(tmp_path),), "timeout_s": 2},
    )


@pytest.fixture
def model() -> Fingerprint:
    """A fingerprint of this test's own, and so a codes topic of its own."""
    return Fingerprint((uuid.uuid4().hex + uuid.uuid4().hex)[:64])


def wait_for(condition: Callable[[], object], what: str | Callable[[], str], timeout_s: float = 60.0) -> None:
    """Wait until the condition is true; fail with what was awaited."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {timeout_s:g} s: {what() if callable(what) else what}")
        time.sleep(0.02)
