"""Codes of images that this model has embedded before, by image signature, in Redis.

Most Pins repeat an image. Redis is only a cache: away, slow or wrong, it costs a model call and a metric, never a Pin.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final

from pinstream import metrics
from pinstream.codes import Fingerprint
from pinstream.redis_client import REDIS_AWAY, connect_if_set

log = logging.getLogger(__name__)

TTL_S: Final = 30 * 86_400
HOLD_OFF_S: Final = (1.0, 2.0, 5.0, 10.0)
"""How long Redis is left alone after the first, second, … failure in a row."""


class RedisCodeCache:
    """`url` empty: there is no cache. Thread-safe. Each call blocks at most `timeout_s`, and not at all while Redis is
    known to be away."""

    def __init__(self, url: str, model: Fingerprint, bits: int, timeout_s: float) -> None:
        self._prefix = f"pinstream:code:{model.short}:".encode()
        self._code_bytes = bits // 8
        self._lock = threading.Lock()
        self._failures = 0
        self._away_until_s = 0.0
        self._redis = connect_if_set(url, timeout_s, "embed")
        if self._redis is None:
            log.warning("no Redis is set: every image is embedded, also those that were embedded before")
            metrics.REDIS_UP.set(0)

    def lookup(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The code of each key, or None; one MGET. An entry of the wrong length is nobody's code: None."""
        if not keys:
            return []
        found: list[bytes | None] | None = None
        if self._redis is not None and self._available():
            try:
                found = self._redis.mget([self._prefix + key for key in keys])  # type: ignore[assignment]  # sync client
                self._answered()
            except REDIS_AWAY as error:
                self._failed(error)
        if found is None:
            metrics.CACHE_LOOKUPS.labels("unavailable").inc(len(keys))
            return [None] * len(keys)
        codes = [code if code is not None and len(code) == self._code_bytes else None for code in found]
        misses = codes.count(None)
        metrics.CACHE_LOOKUPS.labels("hit").inc(len(keys) - misses)
        metrics.CACHE_LOOKUPS.labels("miss").inc(misses)
        return codes

    def store(self, codes: Iterable[tuple[bytes, bytes]]) -> None:
        """Remember (key, code) pairs; one round trip. Nothing happens if Redis is away."""
        if self._redis is None or not self._available():
            return
        pipeline = self._redis.pipeline(transaction=False)
        for key, code in codes:
            pipeline.set(self._prefix + key, code, ex=TTL_S)
        try:
            pipeline.execute()
            self._answered()
        except REDIS_AWAY as error:
            self._failed(error)

    def _available(self) -> bool:
        return time.monotonic() >= self._away_until_s

    def _answered(self) -> None:
        with self._lock:
            if self._failures:
                log.info("Redis answers again: images are looked up before they are embedded")
            self._failures = 0
        metrics.REDIS_UP.set(1)

    def _failed(self, error: Exception) -> None:
        with self._lock:
            if self._failures == 0:
                log.warning("Redis is away (%s): every image is embedded until it answers", error)
            hold_off_s = HOLD_OFF_S[min(self._failures, len(HOLD_OFF_S) - 1)]
            self._failures += 1
            self._away_until_s = time.monotonic() + hold_off_s
        metrics.REDIS_UP.set(0)
