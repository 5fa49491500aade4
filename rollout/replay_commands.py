"""What operators and the controller do to a replay: each is one compare-and-set of the registry, then said to Redis."""

from __future__ import annotations

import logging
from typing import Any

from pinstream.clock import Clock, SystemClock
from pinstream.errors import FatalError, RetryableError
from rollout.generation import Registry
from rollout.redis_signal import RedisSignal
from rollout.replay_plan import RUNNING
from rollout.store_registry import RegistryStore

log = logging.getLogger(__name__)


class ReplayCommands:
    """Thread-safe. Every method blocks for the store, and is harmless when it is repeated.

    Args:
        by: who does it, for whoever comes second.

    Raises:
        RegistryConflictError: from every method: somebody else was first.
        RetryableError: from every method: the store is away; repeat it.
        FatalError: from every method: there is no such generation, or it does not replay any more.
    """

    def __init__(self, store: RegistryStore, signal: RedisSignal, by: str, clock: Clock | None = None) -> None:
        self._store = store
        self._signal = signal
        self._by = by
        self._clock: Clock = clock or SystemClock()

    def pause(self, generation: str, why: str = "") -> Registry:
        return self._change(generation, "pause", why, paused=True)

    def resume(self, generation: str, *, force: bool) -> Registry:
        """Go on; with `force` although it takes longer than the topic keeps deletes."""
        return self._change(generation, "resume", "", paused=False, **({"force": True} if force else {}))

    def rate(self, generation: str, max_records_per_s: float | None, *, force: bool) -> Registry:
        """At most so fast; None: as live freshness allows."""
        forced = {"force": True} if force else {}
        return self._change(generation, "rate", "", max_records_per_s=max_records_per_s, **forced)

    def _change(self, generation: str, action: str, why: str, **update: Any) -> Registry:
        def changed(registry: Registry) -> Registry:
            one = registry.generation(generation)
            if one.state not in RUNNING:
                raise FatalError(f"generation {one.model[:12]} is {one.state}, expected replaying: nothing to {action}")
            return registry.with_generation(one.model_copy(update={"replay": one.replay.model_copy(update=update)}))

        did = f"{action} {generation[:12]}" + (f": {why}" if why else "")
        registry = self._store.update(changed, by=self._by, action=did[:500], at_ms=self._clock.wall_ms())
        try:
            self._signal.announce(registry)
        except RetryableError as error:
            log.warning("%s: whoever reads the registry from Redis sees the change later", error)
        return registry
