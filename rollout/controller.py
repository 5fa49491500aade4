"""`pinstream rollout run`: moves generations on by what is seen of them. Any number may run: each move is a CAS.

Holds no state that matters: killed at any moment, its next start, or another one, goes on from the registry.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from pinstream.clock import Clock, SystemClock
from pinstream.codes import Fingerprint
from pinstream.errors import PinstreamError, RetryableError
from pinstream.kafka_clients import reachable_admin, redis_url
from pinstream.kafka_topics import codes_topic, ensure_topics, pins_topics
from pinstream.settings import Settings
from rollout.catch_up import CatchUp
from rollout.commands import Commands, operator
from rollout.front_door import registry_store
from rollout.generation import Generation, Registry, State
from rollout.kafka_offsets import GroupOffsets, embed_group, index_group
from rollout.redis_signal import RedisSignal
from rollout.store_registry import RegistryConflictError

log = logging.getLogger(__name__)

_MOVING = frozenset({State.CREATED, State.REPLAYING, State.CAUGHT_UP, State.VALIDATED})


class Controller:
    """One thread: `run` blocks until `stop` (from any thread or a signal handler).

    Args:
        beside: called in every round with the newest registry: the pace of replays, say.
    """

    def __init__(
        self,
        settings: Settings,
        beside: Sequence[Callable[[Registry], None]] = (),
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._store = registry_store(settings)
        self._signal = RedisSignal(redis_url(settings), settings.topics.pins, settings.redis.timeout_s)
        self._commands = Commands(self._store, self._signal, f"controller {operator()}", self._clock)
        self._offsets = GroupOffsets(settings)
        self._ways: dict[str, CatchUp] = {}
        self._beside = beside
        self._fault = ""
        self._number: int | None = None
        """Of the registry that the last whole round ended with; None: there was none yet."""
        self._stop = threading.Event()

    def run(self) -> None:
        """Whatever is away is waited for; errors are logged once and tried again."""
        try:
            while not self._stop.is_set():
                try:
                    self._number = self.run_once().number
                    self._fault = ""
                except RegistryConflictError as error:
                    log.info("%s", error)  # another controller, or an operator; the next round sees it
                except PinstreamError as error:
                    if str(error) != self._fault:
                        log.warning("%s", error)
                    self._fault = str(error)
                self._stop.wait(self._settings.rollout.controller_interval_s)
        finally:
            self._offsets.close()
            self._signal.close()

    def stop(self) -> None:
        self._stop.set()

    def why_not_ready(self) -> str | None:
        """What the last round failed by; None: it looked at every generation."""
        return self._fault or ("it has not looked yet" if self._number is None else None)

    def info(self) -> dict[str, object]:
        return {"registry": self._number, "interval_s": self._settings.rollout.controller_interval_s}

    def run_once(self) -> Registry:
        """Look once at every generation that may move by itself, and move it. Returns the newest registry.

        Raises:
            RetryableError: the store or Kafka is away.
            RegistryConflictError: somebody else changed the registry meanwhile.
        """
        registry = self._store.read()
        try:
            if registry.number and not self._signal.is_mirrored(registry.number):
                self._signal.announce(registry)  # Redis was emptied, or a command died before it could say so
        except RetryableError:
            pass  # front doors look at the store as well
        for generation in registry.generations.values():
            if generation.state in _MOVING:
                registry = self._move(generation, registry)
        for one in self._beside:
            one(registry)
        return registry

    def _move(self, generation: Generation, registry: Registry) -> Registry:
        if generation.state is State.CREATED:
            prepare(self._settings, generation.model)
            return self._commands.move(generation.model, State.CREATED, State.REPLAYING)
        if any(split.model == generation.model for split in registry.splits):
            return registry  # people look at it: they decide
        way, topics = self._look(generation)
        rollout, now_ms = self._settings.rollout, self._clock.wall_ms()
        to = way.next_state(
            generation, topics, now_ms, caught_up_s=rollout.caught_up_s, fallen_behind_s=rollout.fallen_behind_s
        )
        if to is None:
            return registry
        why = f"{way.behind_s(topics, now_ms)[0]:.1f} s behind"
        log.info("generation %s: %s → %s, %s", generation.model[:12], generation.state, to, why)
        self._ways.pop(generation.model, None)
        return self._commands.move(generation.model, generation.state, to, why)

    def _look(self, generation: Generation) -> tuple[CatchUp, dict[str, frozenset[int]]]:
        """What is known of its way, and the partitions that count, by topic."""
        model, pins = generation.model, self._settings.topics.pins
        codes = Fingerprint(model).codes_topic
        way = self._ways.setdefault(model, CatchUp(self._clock.wall_ms()))
        for group_id, topic in ((embed_group(model), pins), (index_group(model), codes)):
            way.saw(self._offsets.see(group_id, topic), self._clock.wall_ms())
        counted = frozenset(generation.replay.partitions or range(self._settings.topics.partitions))
        return way, {pins: counted, codes: counted}


def prepare(settings: Settings, model: str) -> list[str]:
    """Make the topics of a generation; returns those that were missing. Idempotent. Blocks."""
    topics = (*pins_topics(settings.topics), codes_topic(settings.topics, Fingerprint(model)))
    return ensure_topics(reachable_admin(settings), topics, settings.topics)
