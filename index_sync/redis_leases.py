"""Who serves which shards, in Redis: each node renews a short lease, and any node can be the root of a search.

Redis is only the signal. While it is away the last leases that were seen go on being used, and a leaf that does not
answer is a missing shard, said so in the answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis

from index_sync.leaf import LeafStatus, ServedShard
from pinstream import metrics
from pinstream.codes import Fingerprint
from pinstream.redis_client import REDIS_AWAY, connect_if_set

log = logging.getLogger(__name__)

LEASE_S: Final = 5
RENEW_S: Final = 0.5
MAX_LEASE_BYTES: Final = 512 * 1024
"""4096 shards of ~70 bytes fit."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A node of this generation, where its leaf answers, what it serves, how fresh and how busy it is."""

    instance: str
    address: str
    """host:port of its gRPC server."""
    replica: int
    status: LeafStatus
    url: str = ""
    """Where it answers HTTP; empty: it did not say."""


class _Shard(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    checkpoint: Annotated[int, Field(ge=0, lt=2**63)]
    lag_s: Annotated[float, Field(ge=0)] | None


class _Body(BaseModel):
    """What is in Redis. Unknown fields are left to newer nodes."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    leaf: Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$")]
    """No other form: gRPC would take `unix:` and more."""
    replica: Annotated[int, Field(ge=0, le=63)]
    shards: Annotated[Mapping[Annotated[int, Field(ge=0, lt=4096)], _Shard], Field(max_length=4096)]
    in_flight: Annotated[int, Field(ge=0)]
    latency_s: Annotated[float, Field(ge=0)]
    url: Annotated[str, Field(pattern=r"^(https?://[!-~]{1,500})?$")] = ""


class LeaseBook:
    """Publishes this node's lease and reads the others', in a thread of its own. Thread-safe.

    Args:
        url: of Redis; empty: there is none.
        instance: this node's name, another one for each node.
        address: host:port of this node's leaf.
        status: what the leaf serves, asked at each renewal.
        url_of_http: where this node answers HTTP, asked at each renewal; None: nowhere.
    """

    def __init__(
        self,
        url: str,
        generation: Fingerprint,
        instance: str,
        *,
        address: str,
        replica: int,
        status: Callable[[], LeafStatus],
        timeout_s: float,
        url_of_http: Callable[[], str] | None = None,
    ) -> None:
        self._instance = instance
        self._address = address
        self._replica = replica
        self._status = status
        self._url_of_http = url_of_http or (lambda: "")
        self._index_key = _index_key(generation)
        self._lock = threading.Lock()
        self._leases: tuple[Lease, ...] = ()
        self._up: bool | None = None
        self._redis = connect_if_set(url, timeout_s, "leases")
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

    def renew(self) -> None:
        """Other shards are served from now on: say so at once. Does not block."""
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
        lease = _write(self._address, self._replica, self._status(), self._url_of_http())
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
        except REDIS_AWAY as error:
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
        except REDIS_AWAY:
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


def read_leases(redis: Redis, generation: Fingerprint) -> tuple[Lease, ...]:
    """The nodes of a generation, for one that is none of them. Blocks.

    Raises:
        RedisError: Redis is away.
    """
    key = _index_key(generation)
    members: Any = redis.smembers(key)
    names = sorted(name.decode("utf-8", "replace") for name in members)
    values: Any = redis.mget([f"{key}:{name}" for name in names]) if names else []
    found = [_parse(name, value) for name, value in zip(names, values, strict=True)]
    return tuple(lease for lease in found if lease is not None)


def _index_key(generation: Fingerprint) -> str:
    return f"pinstream:leaves:{generation.short}"


def _write(address: str, replica: int, status: LeafStatus, url: str = "") -> str:
    shards = {p: _Shard(checkpoint=one.checkpoint, lag_s=one.lag_s) for p, one in sorted(status.shards.items())}
    return _Body(
        leaf=address,
        replica=replica,
        shards=shards,
        in_flight=status.in_flight,
        latency_s=status.latency_s,
        url=url,
    ).model_dump_json()


def _parse(instance: str, value: bytes | None) -> Lease | None:
    """What another node wrote; anything else is no lease."""
    if value is None or not instance or len(value) > MAX_LEASE_BYTES:
        return None
    try:
        body = _Body.model_validate_json(value)
    except ValidationError as error:
        log.warning("the lease of %s is not readable: ignoring it (%s)", instance[:100], error.errors()[0]["msg"])
        return None
    shards = {p: ServedShard(one.checkpoint, one.lag_s) for p, one in body.shards.items()}
    return Lease(instance, body.leaf, body.replica, LeafStatus(shards, body.in_flight, body.latency_s), body.url)
