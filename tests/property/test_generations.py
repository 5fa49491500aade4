"""Random commands to generations, from two operators: the registry never says what can't be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from obstore.store import MemoryStore

from pinstream.clock import Clock
from pinstream.errors import FatalError
from rollout.commands import ALL, Commands
from rollout.generation import ALLOWED, Application, Registry, Replay, State
from rollout.redis_signal import RedisSignal
from rollout.store_registry import RegistryConflictError, RegistryStore

MODELS = [f"{number:02x}" * 32 for number in range(3)]
models = st.sampled_from(MODELS)
some = st.frozensets(st.sampled_from(list(Application)), min_size=1)


class Ticks(Clock):
    now_ms = 0

    def monotonic_s(self) -> float:
        return self.now_ms / 1000

    def wall_ms(self) -> int:
        self.now_ms += 1
        return self.now_ms


class Generations(RuleBasedStateMachine):
    """The model: what is live, what was before, and whether that was a rollback."""

    def __init__(self) -> None:
        super().__init__()
        self.store = RegistryStore(MemoryStore())
        self.anna = Commands(self.store, RedisSignal("", "pins", 1), "anna", Ticks())
        self.live: dict[Application, str] = {}
        self.before: dict[Application, str | None] = {}
        self.seen = Registry()

    def state(self, model: str) -> State | None:
        held = self.store.read().generations.get(model)
        return held.state if held else None

    @rule(model=models)
    def start(self, model: str) -> None:
        self.anna.start(model, 256, "here", Replay())

    @rule(model=models)
    def move_on(self, model: str) -> None:
        """By one state, as a controller or a validation would."""
        to = {
            State.CREATED: State.REPLAYING,
            State.REPLAYING: State.CAUGHT_UP,
            State.CAUGHT_UP: State.VALIDATED,
        }
        before = self.state(model)
        if before in to:
            self.anna.move(model, before, to[before])

    @initialize()
    def judge_all(self) -> None:
        for model in MODELS[:-1]:
            self.anna.start(model, 256, "here", Replay())
            for _ in range(3):
                self.move_on(model)

    @rule(model=models, applications=some)
    def flip(self, model: str, applications: frozenset[Application]) -> None:
        possible = self.state(model) in (State.VALIDATED, State.LIVE, State.STANDBY)
        try:
            first = self.anna.flip(model, applications)
            assert self.anna.flip(model, applications).number == first.number, "again changes nothing"
        except FatalError:
            assert not possible
            return
        assert possible
        for application in applications:
            if self.live.get(application) != model:
                self.before[application] = self.live.get(application)
                self.live[application] = model

    @rule(applications=some)
    def rollback(self, applications: frozenset[Application]) -> None:
        targets = {application: self.before.get(application) for application in applications}
        possible = all(
            target is not None and self.state(target) in (State.STANDBY, State.LIVE) for target in targets.values()
        )
        try:
            self.anna.rollback(applications)
        except FatalError:
            assert not possible
            return
        assert possible
        for application, target in targets.items():
            assert target is not None
            self.live[application] = target
            self.before[application] = None  # once

    @rule(model=models)
    def release(self, model: str) -> None:
        was = self.state(model)
        if was is not None:
            try:
                self.anna.release(model)
            except FatalError:
                assert was not in (State.STANDBY, State.VALIDATED)

    @rule(model=models, share=st.floats(0.01, 0.9), applications=some)
    def split(self, model: str, share: float, applications: frozenset[Application]) -> None:
        if self.state(model) is not None:
            try:
                first = self.anna.split(model, share, applications, "test")
                assert self.anna.split(model, share, applications, "test").number == first.number
            except FatalError:
                return

    @rule(model=models)
    def retire(self, model: str) -> None:
        before = self.store.read()
        if model not in before.generations:
            return
        used = model in before.live.values() or any(split.model == model for split in before.splits)
        try:
            self.anna.retire(model)
            assert not used
            assert before.generations[model].state is not State.STANDBY
        except FatalError:
            assert used or before.generations[model].state is State.STANDBY

    @rule(model=models)
    def one_of_two_wins(self, model: str) -> None:
        """Ben decides on what he saw; Anna was quicker, so he is told that it was her."""
        seen = self.store.read()
        self.anna.start(model, 256, "elsewhere", Replay())
        ben = Commands(self.store, RedisSignal("", "pins", 1), "ben", Ticks())
        if self.store.read().number != seen.number:
            with pytest.raises(RegistryConflictError, match="anna did 'start"):
                ben.flip(model, ALL, expected=seen.number)

    @invariant()
    def consistent(self) -> None:
        registry = self.store.read()
        assert registry.live == self.live
        assert registry.number >= self.seen.number
        for model, one in registry.generations.items():
            assert (one.state is State.LIVE) == (model in registry.live.values())
            steps = [step.state for step in one.history]
            assert steps[-1] is one.state
            assert all(after in ALLOWED[before] for before, after in pairwise(steps))
        for split in registry.splits:
            treatment = registry.generations[split.model].state
            assert treatment in (State.VALIDATED, State.LIVE, State.STANDBY)
        self.seen = registry


TestGenerations = Generations.TestCase
TestGenerations.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
