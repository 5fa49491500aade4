"""Who serves which shards, in Redis: each node renews a short lease, and any node can be the root of a search.

Redis is only the signal. While it is away the last leases that were seen go on being used, and a leaf that does not
answer is a missing shard, said so in the answer.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from pinstream import metrics
from pinstream.codes import Fingerprint

log = logging.getLogger(__name__)

LEASE_S: Final = 5
RENEW_S: Final = 0.5
MAX_LEASE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Lease:
    """A node of this generation, where it answers and what it serves."""

    instance: str
    url: str
    partitions: tuple[int, ...]


class LeaseBook:
    """Publishes this node's lease and reads the others', in a thread of its own. Thread-safe."""

    def __init__(self, url: str, generation: Fingerprint, instance: str, own_url: str, timeout_s: float) -> None:
        self._instance = instance
        self._own_url = own_url
        self._index_key = f"pinstream:leaves:{generation.short}"
        self._lock = threading.Lock()
        self._partitions: tuple[int, ...] = ()
        self._leases: tuple[Lease, ...] = ()
        self._up: bool | None = None
        self._redis: Redis | None = None
        if url:
            self._redis = Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
            )
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        if self._redis is None:
            log.warning("no Redis is set: this node finds no other leaves and answers from its own shards only")
            return
        self._thread.start()

    def stop(self) -> None:
        """Give the lease back, so that roots stop asking this node at once."""
        self._stop.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

    def serve(self, partitions: set[int]) -> None:
        """These are the shards that this node serves from now on."""
        with self._lock:
            self._partitions = tuple(sorted(partitions))
        self._changed.set()

    def others(self) -> tuple[Lease, ...]:
        """The other nodes, as last seen."""
        with self._lock:
            return self._leases

    def _run(self) -> None:
        while not self._stop.is_set():
            started_s = time.monotonic()
            self._exchange()
            self._changed.wait(max(0.0, RENEW_S - (time.monotonic() - started_s)))
            self._changed.clear()
        self._release()

    def _exchange(self) -> None:
        assert self._redis is not None
        with self._lock:
            partitions = self._partitions
        lease = json.dumps({"url": self._own_url, "partitions": partitions})
        try:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.set(self._key(self._instance), lease, ex=LEASE_S)
            pipeline.sadd(self._index_key, self._instance)
            pipeline.smembers(self._index_key)
            names = sorted(name.decode("utf-8", "replace") for name in pipeline.execute()[2])
            values: Any = self._redis.mget([self._key(name) for name in names])
            expired = [name for name, value in zip(names, values, strict=True) if value is None]
            if expired:
                self._redis.srem(self._index_key, *expired)
        except (RedisError, OSError) as error:
            self._say_up(False, error)
            return
        found = [_parse(name, value) for name, value in zip(names, values, strict=True) if name != self._instance]
        with self._lock:
            self._leases = tuple(lease for lease in found if lease is not None)
        self._say_up(True, None)

    def _release(self) -> None:
        assert self._redis is not None
        try:
            self._redis.delete(self._key(self._instance))
            self._redis.srem(self._index_key, self._instance)
        except (RedisError, OSError):
            return  # it runs out by itself

    def _key(self, instance: str) -> str:
        return f"{self._index_key}:{instance}"

    def _say_up(self, up: bool, error: Exception | None) -> None:
        if up != self._up:
            if not up:
                log.warning("Redis is away (%s): going on with the %d leaves seen last", error, len(self._leases))
            elif self._up is not None:
                log.info("Redis answers again")
            self._up = up
        metrics.REDIS_UP.set(1 if up else 0)


def _parse(instance: str, value: bytes | None) -> Lease | None:
    """What another node wrote; anything else is no lease."""
    if value is None or len(value) > MAX_LEASE_BYTES:
        return None
    try:
        fields = json.loads(value)
        partitions = tuple(int(partition) for partition in fields["partitions"])
        url = str(fields["url"])
    except (ValueError, KeyError, TypeError):
        log.warning("the lease of %s is not readable: ignoring it", instance)
        return None
    if not url.startswith(("http://", "https://")):
        return None
    return Lease(instance, url, partitions)
