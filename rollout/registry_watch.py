"""Follows the registry: told by Redis within milliseconds, by the store within a second, and by this disk at a start.

Two threads, so that a store that hangs does not hold up what Redis says.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from pinstream import metrics
from pinstream.errors import CorruptStateError, RetryableError
from rollout.generation import Registry
from rollout.newest_registry import NewestRegistry
from rollout.redis_signal import FrontStatus, RedisSignal
from rollout.store_registry import MAX_REGISTRY_BYTES, RegistryStore

log = logging.getLogger(__name__)

_SAY_EVERY_S: Final = 1.0


class RegistryWatch:
    """Thread-safe; `start` it, and `stop` it.

    Args:
        copy: where the last registry that was seen is kept, for a start without Redis and store.
        on_change: called with each newer registry, by one thread at a time; must be short.
        status: what this front door serves, said to Redis at once after a change and every second.
    """

    def __init__(
        self,
        store: RegistryStore,
        signal: RedisSignal,
        copy: Path,
        *,
        poll_redis_s: float,
        poll_store_s: float,
        on_change: Callable[[Registry], None],
        status: Callable[[], FrontStatus],
    ) -> None:
        self._store = store
        self._signal = signal
        self._copy = copy
        self._poll_redis_s = poll_redis_s
        self._poll_store_s = poll_store_s
        self._on_change = on_change
        self._status = status
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        """Around the copy on the disk, which nobody who waits for a change waits for."""
        self._newest = NewestRegistry()
        self._kept = self._newest.registry
        self._said: tuple[FrontStatus, float] | None = None
        self._up: dict[str, bool] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow_redis, name="registry-redis", daemon=True),
            threading.Thread(target=self._follow_store, name="registry-store", daemon=True),
        ]

    def start(self) -> None:
        """Read what the disk has, then what the store has if it answers, and follow from there. Blocks for one read."""
        copied = self._read_copy()
        if copied is not None:
            self._take(lambda now_s: self._newest.from_mirror(copied, now_s))
            self._kept = self._newest.registry
        self._look_at_store()
        self._keep_copy()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def registry(self) -> Registry:
        """The newest that is known; number 0 if there is none. Does not block."""
        return self._newest.registry

    def _follow_redis(self) -> None:
        while not self._stop.is_set():
            try:
                for _ in self._signal.wakes(self._poll_redis_s):
                    if self._stop.is_set():
                        self._signal.drop_front(self._status().name)
                        return
                    self._look_at_redis()
                    self._keep_copy()
            except RetryableError as error:
                self._say_up("Redis", error)
                metrics.REDIS_UP.set(0)
                self._stop.wait(self._poll_redis_s)

    def _look_at_redis(self) -> None:
        newer = self._signal.newer_than(self._newest.registry.number)
        if newer is not None:
            self._take(lambda now_s: self._newest.from_mirror(newer, now_s))
        status, now_s = self._status(), time.monotonic()
        if self._said is None or self._said[0] != status or now_s - self._said[1] >= _SAY_EVERY_S:
            self._signal.say_front(status)
            self._said = (status, now_s)
        self._say_up("Redis", None)
        metrics.REDIS_UP.set(1)

    def _follow_store(self) -> None:
        while not self._stop.wait(self._poll_store_s):
            self._look_at_store()
            self._keep_copy()

    def _look_at_store(self) -> None:
        asked_s = time.monotonic()
        before = self._newest.registry
        try:
            found = self._store.read()
        except (RetryableError, CorruptStateError) as error:
            self._say_up("the registry's store", error)
            return
        self._say_up("the registry's store", None)
        self._take(lambda now_s: self._newest.from_store(found, asked_s, now_s))
        try:  # Redis was emptied, or holds the mirror of another store
            if self._newest.registry == found and (
                found.number < before.number or not self._signal.is_mirrored(found.number)
            ):
                self._signal.announce(found, force=found.number < before.number)
        except RetryableError:
            return  # the other thread says so

    def _take(self, offer: Callable[[float], bool]) -> None:
        with self._lock:
            if not offer(time.monotonic()):
                return
            registry = self._newest.registry
            log.info("registry %d: %s did %r", registry.number, registry.by, registry.action)
            metrics.REGISTRY_NUMBER.set(registry.number)
            self._on_change(registry)

    def _read_copy(self) -> Registry | None:
        try:
            if self._copy.stat().st_size > MAX_REGISTRY_BYTES:
                return None
            return Registry.model_validate_json(self._copy.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("the copy of the registry at %s can't be read: going on without it (%s)", self._copy, error)
            return None

    def _keep_copy(self) -> None:
        with self._keeping:
            registry = self._newest.registry
            if registry is not self._kept:
                self._write_copy(registry)
                self._kept = registry

    def _write_copy(self, registry: Registry) -> None:
        half = self._copy.with_name(f"{self._copy.name}.{os.getpid()}.{uuid.uuid4().hex}")
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            half.write_text(registry.model_dump_json(), encoding="utf-8")
            half.replace(self._copy)
        except OSError as error:
            log.warning("the registry can't be kept at %s: a start needs Redis or the store (%s)", self._copy, error)

    def _say_up(self, what: str, error: Exception | None) -> None:
        up = error is None
        if self._up.get(what, True) != up:
            if error is None:
                log.info("%s answers again", what)
            else:
                log.warning("%s: going on with registry %d", error, self._newest.registry.number)
        self._up[what] = up
