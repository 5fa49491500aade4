"""What operators and the controller do to the registry: each is one compare-and-set, then said to Redis.

Every command is harmless when it is repeated. Of two at once, one wins and the other raises who, what and when.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TypedDict

from pinstream.clock import Clock, SystemClock
from pinstream.errors import FatalError, RetryableError
from rollout.generation import Application, Generation, Registry, Replay, Split, State, Step
from rollout.redis_signal import FrontStatus, RedisSignal
from rollout.store_registry import RegistryStore

log = logging.getLogger(__name__)

ALL = frozenset(Application)
_LOOK_EVERY_S = 0.005


def operator() -> str:
    """user@host, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class _Who(TypedDict):
    at_ms: int
    by: str


class Commands:
    """Thread-safe. Every method blocks for the store, then tells Redis if that answers.

    Args:
        by: who does it, for the history and for whoever comes second.

    Raises:
        RegistryConflictError: from every method: somebody else was first.
        RetryableError: from every method: the store is away; repeat it.
        FatalError: from every method: it can't be done in this state; says why.
    """

    def __init__(self, store: RegistryStore, signal: RedisSignal, by: str, clock: Clock | None = None) -> None:
        self._store = store
        self._signal = signal
        self._by = by
        self._clock: Clock = clock or SystemClock()

    def start(self, model: str, bits: int, artifact: str, replay: Replay) -> Registry:
        """Register a generation (`created`). One that is there already stays as it is; a retired one begins anew."""

        def change(registry: Registry) -> Registry:
            held = registry.generations.get(model)
            if held is None:
                created = (Step(state=State.CREATED, **self._who()),)
                return registry.with_generation(
                    Generation(model=model, bits=bits, artifact=artifact, replay=replay, history=created)
                )
            if held.state is State.RETIRED:
                again = held.moved(State.CREATED, **self._who())
                return registry.with_generation(again.model_copy(update={"artifact": artifact, "replay": replay}))
            return registry

        return self._do(f"start {model[:12]}", change)

    def adopt(self, model: str, bits: int, artifact: str) -> Registry:
        """Make the generation whose workers run already the first live one, for all applications.

        Raises:
            FatalError: another one is live.
        """

        def change(registry: Registry) -> Registry:
            others = {name[:12] for name in registry.live.values() if name != model}
            if others:
                raise FatalError(f"{', '.join(sorted(others))} is live already: start, validate and flip instead")
            one = registry.generations.get(model) or Generation(model=model, bits=bits, artifact=artifact)
            for state in (State.REPLAYING, State.CAUGHT_UP, State.VALIDATED):
                if one.state is not State.LIVE:
                    one = one.moved(state, **self._who(), why="adopted")
            return registry.with_generation(one).flipped(model, ALL, **self._who())

        return self._do(f"adopt {model[:12]}", change)

    def move(self, model: str, before: State, to: State, why: str = "") -> Registry:
        """Into another state, if it is still in `before`; else nothing happens."""

        def change(registry: Registry) -> Registry:
            if registry.generation(model).state is not before:
                return registry
            return registry.with_state(model, to, **self._who(), why=why)

        return self._do(f"{to.value} {model[:12]}", change)

    def flip(self, model: str, applications: frozenset[Application] = ALL, *, expected: int | None = None) -> Registry:
        """Serve these applications from this generation."""
        action = f"flip {_named(applications)} to {model[:12]}"
        return self._do(action, lambda registry: registry.flipped(model, applications, **self._who()), expected)

    def rollback(self, applications: frozenset[Application] = frozenset(), *, expected: int | None = None) -> Registry:
        """Serve these applications (none given: those of the last flip) from what served them before it."""
        action = f"rollback {_named(applications) or 'the last flip'}"
        return self._do(
            action,
            lambda registry: registry.rolled_back(applications or registry.last_changed(), **self._who()),
            expected,
        )

    def release(self, model: str) -> Registry:
        """Give up a standing-by generation as a target of rollbacks: it is `validated` again, and may be retired."""

        def change(registry: Registry) -> Registry:
            one = registry.generation(model)
            if one.state is State.VALIDATED:
                return registry
            if one.state is not State.STANDBY:
                raise FatalError(f"generation {one.model[:12]} is {one.state}, expected standby")
            return registry.with_state(one.model, State.VALIDATED, **self._who(), why="released")

        return self._do(f"release {model[:12]}", change)

    def retire(self, model: str) -> Registry:
        """Mark a generation as retired; what it owns is removed afterwards (`retire.py`)."""
        return self._do(
            f"retire {model[:12]}", lambda registry: registry.with_state(model, State.RETIRED, **self._who())
        )

    def split(self, model: str, share: float, applications: frozenset[Application], salt: str) -> Registry:
        """Show this generation to a share of the requesters of these applications."""

        def change(registry: Registry) -> Registry:
            chosen = registry.generation(model).model
            for application in sorted(applications):
                held = next((one for one in registry.splits if one.application is application), None)
                if held and (held.model, held.salt) == (chosen, salt):  # a larger share goes on with the same test
                    split = held.model_copy(update={"share": share})
                else:
                    split = Split(
                        application=application,
                        model=chosen,
                        share=share,
                        salt=salt,
                        started_ms=self._clock.wall_ms(),
                    )
                if split != held:
                    registry = registry.with_split(split)
            return registry

        return self._do(f"split {share:.3g} of {_named(applications)} to {model[:12]}", change)

    def end_split(self, applications: frozenset[Application]) -> Registry:
        """End the A/B tests of these applications: everybody is control."""
        return self._do(f"split off {_named(applications)}", lambda registry: registry.without_splits(applications))

    def seen_by_all(self, number: int, timeout_s: float) -> tuple[float, list[FrontStatus]]:
        """Wait until every front door in Redis goes by this registry.

        Returns:
            Seconds that it took, and the front doors that have not seen it by then.
        """
        started_s = time.monotonic()
        while True:
            late = [front for front in self._signal.fronts() if front.number < number]
            passed_s = time.monotonic() - started_s
            if not late or passed_s > timeout_s:
                return passed_s, late
            time.sleep(_LOOK_EVERY_S)

    def _who(self) -> _Who:
        return {"at_ms": self._clock.wall_ms(), "by": self._by}

    def _do(self, action: str, change: Callable[[Registry], Registry], expected: int | None = None) -> Registry:
        registry = self._store.update(
            change, by=self._by, action=action, at_ms=self._clock.wall_ms(), expected=expected
        )
        try:
            self._signal.announce(registry)
        except RetryableError as error:
            log.warning("%s: front doors see the change when they next look at the store", error)
        return registry


def _named(applications: frozenset[Application]) -> str:
    return "all" if applications == ALL else ", ".join(sorted(applications))
