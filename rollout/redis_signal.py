"""The registry in Redis: a mirror of the newest document, an announcement of each change, and who serves by it.

Redis is only the signal. The registry beside the snapshots is the truth; what is lost here is written again by whoever
looks next.

    pinstream:registry:<pins topic>            hash: number, document; also the name of the pub/sub channel
    pinstream:fronts:<pins topic>              set of front doors' names
    pinstream:fronts:<pins topic>:<name>       what that front door serves; runs out after 5 s
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis

from pinstream.redis_client import connect_if_set, redis_errors, required
from rollout.generation import Registry
from rollout.store_registry import MAX_REGISTRY_BYTES

log = logging.getLogger(__name__)

FRONT_S: Final = 5
_MAX_FRONT_BYTES: Final = 64 * 1024
_ANNOUNCE: Final = """
local held = tonumber(redis.call('HGET', KEYS[1], 'number') or '-1')
if ARGV[3] == '1' or held == nil or held < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'number', ARGV[1], 'document', ARGV[2])
  redis.call('PUBLISH', KEYS[1], ARGV[1])
  return 1
end
return 0
"""
"""An older registry never replaces a newer one, unless it is forced to."""
_NEWER: Final = """
local held = tonumber(redis.call('HGET', KEYS[1], 'number') or '-1')
if held ~= nil and held > tonumber(ARGV[1]) then
  return redis.call('HGET', KEYS[1], 'document')
end
return false
"""
"""One round trip, which carries the document only if it is news."""


class FrontStatus(BaseModel):
    """A front door, as it says itself."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=200)]
    url: Annotated[str, Field(max_length=500)]
    number: Annotated[int, Field(ge=0)]
    """Of the registry that it serves by."""
    models: tuple[str, ...]
    """Fingerprints of the generations that it can answer from."""
    faults: dict[str, str] = {}
    """Fingerprint → why it can't answer from that one."""


class RedisSignal:
    """Thread-safe. Every method blocks at most about the time-out.

    Args:
        pins_topic: whose generations these are; names the keys.
        url: of Redis; empty: there is none, and every method raises.

    Raises:
        RetryableError: from every method: Redis is away.
    """

    def __init__(self, url: str, pins_topic: str, timeout_s: float) -> None:
        self._key = f"pinstream:registry:{pins_topic}"
        self._fronts = f"pinstream:fronts:{pins_topic}"
        self._redis = connect_if_set(url, timeout_s, "registry")

    @redis_errors()
    def announce(self, registry: Registry, *, force: bool = False) -> bool:
        """Mirror the registry and wake whoever listens, if it is newer than the mirror; says whether it was.

        Args:
            force: even if it is older: the mirror is wrong.
        """
        told = self._client().eval(
            _ANNOUNCE, 1, self._key, str(registry.number), registry.model_dump_json(), "1" if force else "0"
        )
        return bool(told)

    @redis_errors()
    def newer_than(self, number: int) -> Registry | None:
        """The mirrored registry if it has a higher number. What can't be read is none, and logged."""
        document: Any = self._client().eval(_NEWER, 1, self._key, str(number))
        if document is None or len(document) > MAX_REGISTRY_BYTES:
            return None
        try:
            registry = Registry.model_validate_json(document)
        except ValidationError as error:
            log.warning("the registry in Redis is not readable: ignoring it (%s)", error.errors()[0]["msg"])
            return None
        return registry if registry.number > number else None

    @redis_errors()
    def is_mirrored(self, number: int) -> bool:
        """Whether the mirror holds this number or a higher one."""
        held: Any = self._client().hget(self._key, "number")
        return held is not None and held.isdigit() and int(held) >= number

    def wakes(self, every_s: float) -> Iterator[None]:
        """Comes round at each announcement, and at least every so often; endless."""
        pubsub = self._client().pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis leaves it so
        with redis_errors(), closing(pubsub):
            pubsub.subscribe(self._key)
            while True:
                yield
                until_s = time.monotonic() + every_s
                while (left_s := until_s - time.monotonic()) > 0:
                    if pubsub.get_message(timeout=left_s) is not None:
                        break

    @redis_errors()
    def say_front(self, status: FrontStatus) -> None:
        """This front door is there; repeat within 5 s."""
        pipeline = self._client().pipeline(transaction=False)
        pipeline.set(f"{self._fronts}:{status.name}", status.model_dump_json(), ex=FRONT_S)
        pipeline.sadd(self._fronts, status.name)
        pipeline.execute()

    @redis_errors()
    def drop_front(self, name: str) -> None:
        """This front door is going."""
        self._client().delete(f"{self._fronts}:{name}")
        self._client().srem(self._fronts, name)

    @redis_errors()
    def fronts(self) -> list[FrontStatus]:
        """The front doors that said something within 5 s, by name."""
        client = self._client()
        members: Any = client.smembers(self._fronts)
        names = sorted(member.decode("utf-8", "replace") for member in members)
        values: Any = client.mget([f"{self._fronts}:{name}" for name in names]) if names else []
        gone = [name for name, value in zip(names, values, strict=True) if value is None]
        if gone:
            client.srem(self._fronts, *gone)
        return [front for value in values if (front := _front(value)) is not None]

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()

    def _client(self) -> Redis:
        return required(self._redis)


def _front(value: bytes | None) -> FrontStatus | None:
    if value is None or len(value) > _MAX_FRONT_BYTES:
        return None
    try:
        return FrontStatus.model_validate_json(value)
    except ValidationError:
        return None
