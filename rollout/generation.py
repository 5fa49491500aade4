"""A generation's life, and everything that operators decide about generations. Pure: documents in, documents out.

    created → replaying → caught_up → validated → live ⇄ standby → (released:) validated → retired

Each application (Flashlight, Lens, Shop the Look) has an alias of its own, so that a swap is judged and flipped for one
or for all. A generation is `live` while any alias names it, `standby` once it was live and none does. A rollback goes
to what was live before the last flip, once: two operators who both roll back don't flip forth again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pinstream.errors import FatalError

Model = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A model's fingerprint, which names its generation."""
_Text = Annotated[str, Field(max_length=500)]
_TimeMs = Annotated[int, Field(ge=0, lt=2**53)]
_Offset = Annotated[int, Field(ge=0, lt=2**63)]


class Application(StrEnum):
    """The three products that one embedding serves."""

    FLASHLIGHT = "flashlight"
    LENS = "lens"
    SHOP_THE_LOOK = "shop_the_look"


class State(StrEnum):
    CREATED = "created"
    REPLAYING = "replaying"
    CAUGHT_UP = "caught_up"
    VALIDATED = "validated"
    LIVE = "live"
    STANDBY = "standby"
    RETIRED = "retired"


ALLOWED: Final[Mapping[State, frozenset[State]]] = {
    State.CREATED: frozenset({State.REPLAYING, State.RETIRED}),
    State.REPLAYING: frozenset({State.CAUGHT_UP, State.RETIRED}),
    State.CAUGHT_UP: frozenset({State.REPLAYING, State.VALIDATED, State.RETIRED}),
    State.VALIDATED: frozenset({State.CAUGHT_UP, State.LIVE, State.RETIRED}),
    State.LIVE: frozenset({State.STANDBY}),
    State.STANDBY: frozenset({State.LIVE, State.VALIDATED}),
    State.RETIRED: frozenset({State.CREATED}),
}
"""From each state, the states that it may go to. Standby is released to validated before it can be retired; a retired
generation may be started anew, from nothing."""

SERVABLE: Final = frozenset({State.CAUGHT_UP, State.VALIDATED, State.LIVE, State.STANDBY})
"""Front doors keep the models of these loaded and their leaves in sight."""
_RETIRED_KEPT: Final = 20


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Replay(_Document):
    """How a generation reads the Pins topic until it has caught up."""

    paused: bool = False
    max_records_per_s: Annotated[float, Field(gt=0)] | None = None
    """None: as fast as live freshness allows."""
    from_time_ms: _TimeMs | None = None
    """Only Pins of this time and later (a partial backfill); None: from offset 0."""
    partitions: tuple[int, ...] | None = None
    """None: all."""
    domains: tuple[Literal["camera", "pin", "product"], ...] = ()
    """Of a partial backfill; empty: all."""
    starts: Annotated[tuple[_Offset, ...], Field(max_length=4096)] = ()
    """By partition, where a partial backfill starts, as those options mean it. Empty: at 0."""
    ends: Annotated[tuple[_Offset, ...], Field(max_length=4096)] = ()
    """By partition, where the Pins topic ended when the replay was planned: what comes later is never left out."""
    force: bool = False
    """Go on though it takes longer than the topic keeps deletes."""


class Step(_Document):
    """One transition, and who made it."""

    state: State
    at_ms: _TimeMs
    by: _Text
    why: _Text = ""


class Generation(_Document):
    model: Model
    bits: Annotated[int, Field(ge=256, le=4096, multiple_of=8)]
    artifact: _Text
    """Where workers of this generation find the model: a path or URL as the operator gave it."""
    state: State = State.CREATED
    replay: Replay = Replay()
    judged: tuple[Application, ...] = ()
    """The applications that the gates were passed for: it can be flipped to for these. Empty: for all."""
    history: Annotated[tuple[Step, ...], Field(max_length=200)] = ()

    def moved(self, to: State, *, at_ms: int, by: str, why: str = "") -> Generation:
        """In another state. To the state that it is in already: unchanged, so that a repeated command is harmless.

        Raises:
            FatalError: there is no such transition; says which there are.
        """
        if to is self.state:
            return self
        if to not in ALLOWED[self.state]:
            possible = ", ".join(sorted(ALLOWED[self.state])) or "nothing"
            raise FatalError(f"generation {self.model[:12]} is {self.state} and can't be {to}; it can be: {possible}")
        step = Step(state=to, at_ms=at_ms, by=by, why=why)
        again = to in (State.CREATED, State.REPLAYING, State.CAUGHT_UP)
        judged = () if again else self.judged
        return self.model_copy(update={"state": to, "judged": judged, "history": (*self.history, step)[-200:]})


class AliasChange(_Document):
    """The last flip or rollback of one application."""

    before: Model | None
    """What served it until then; None: nothing did."""
    at_ms: _TimeMs
    by: _Text
    is_rollback: bool = False


class Split(_Document):
    """An A/B test: which share of the requesters of which application sees another generation."""

    application: Application
    model: Model
    """The treatment; the alias names the control."""
    share: Annotated[float, Field(gt=0, lt=1)]
    salt: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    """Names the test: another salt deals requesters anew."""
    started_ms: _TimeMs


class Registry(_Document):
    """All generations, what is live, and what is tested: one document, replaced as a whole."""

    number: Annotated[int, Field(ge=0, lt=10**10)] = 0
    """Grows by one with each change; whoever publishes a number first has made that change."""
    at_ms: _TimeMs = 0
    by: _Text = ""
    """Who made this change (user@host), and what it was:"""
    action: _Text = ""
    generations: Annotated[Mapping[Model, Generation], Field(max_length=64)] = Field(default_factory=dict)
    live: Mapping[Application, Model] = Field(default_factory=dict)
    changes: Mapping[Application, AliasChange] = Field(default_factory=dict)
    splits: Annotated[tuple[Split, ...], Field(max_length=len(Application))] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Registry:
        for application, model in self.live.items():
            if model not in self.generations:
                raise ValueError(f"{application} is served by {model[:12]}, which is no generation here")
        if len({split.application for split in self.splits}) != len(self.splits):
            raise ValueError("an application has two splits, expected at most one")
        return self

    def generation(self, model: str) -> Generation:
        """By fingerprint or an unambiguous beginning of it (at least 6 characters).

        Raises:
            FatalError: none, or several; names those there are.
        """
        found = [one for name, one in self.generations.items() if len(model) >= 6 and name.startswith(model)]
        if len(found) != 1:
            known = ", ".join(f"{one.model[:12]} ({one.state})" for one in self.generations.values()) or "none"
            raise FatalError(f"{model!r} names {len(found)} generations, expected one of: {known}")
        return found[0]

    def with_generation(self, generation: Generation) -> Registry:
        """With this one added or replaced; the longest retired are forgotten."""
        generations = {**self.generations, generation.model: generation}
        retired = [one for one in generations.values() if one.state is State.RETIRED]
        retired.sort(key=lambda one: one.history[-1].at_ms if one.history else 0)
        for one in retired[:-_RETIRED_KEPT]:
            del generations[one.model]
        return self.model_copy(update={"generations": generations})

    def uses(self, model: str) -> list[str]:
        """Why this generation can't be retired: what is answered from it, or would be after a rollback."""
        one = self.generation(model)
        reasons = [f"it is live for {application}" for application, name in self.live.items() if name == one.model]
        reasons += [
            f"{split.share:.0%} of {split.application} see it in test {split.salt!r}: "
            f"`pinstream rollout split off --application {split.application}` ends that"
            for split in self.splits
            if split.model == one.model
        ]
        if one.state is State.STANDBY:
            reasons.append(
                f"it stands by for a rollback: `pinstream rollout release {one.model[:12]}` gives that up first"
            )
        return reasons

    def flipped(
        self, model: str, applications: frozenset[Application], *, at_ms: int, by: str, is_rollback: bool = False
    ) -> Registry:
        """Serve these applications from this generation; what they were served from stands by if nothing else uses it.

        Ends the A/B tests of these applications. Of what is so already, nothing changes.

        Raises:
            FatalError: it is neither validated, live nor standing by.
        """
        chosen = self.generation(model)
        if chosen.state not in (State.VALIDATED, State.LIVE, State.STANDBY):
            raise FatalError(
                f"generation {chosen.model[:12]} is {chosen.state}, expected validated, live or standby: "
                "run `pinstream rollout validate` first"
            )
        unjudged = applications - set(chosen.judged) if chosen.judged else frozenset()
        if unjudged:
            raise FatalError(
                f"generation {chosen.model[:12]} was judged for {', '.join(sorted(chosen.judged))} only, not for "
                f"{', '.join(sorted(unjudged))}: run `pinstream rollout validate` first"
            )
        changed = [application for application in applications if self.live.get(application) != chosen.model]
        live = {**self.live, **dict.fromkeys(changed, chosen.model)}
        changes = dict(self.changes)
        for application in changed:
            before = self.live.get(application)
            changes[application] = AliasChange(before=before, at_ms=at_ms, by=by, is_rollback=is_rollback)
        generations = dict(self.generations)
        if changed:
            generations[chosen.model] = chosen.moved(State.LIVE, at_ms=at_ms, by=by)
        for name, one in self.generations.items():
            if one.state is State.LIVE and name not in live.values():
                generations[name] = one.moved(State.STANDBY, at_ms=at_ms, by=by)
        splits = tuple(split for split in self.splits if split.application not in applications)
        update = {"live": live, "changes": changes, "generations": generations, "splits": splits}
        return self.model_copy(update=update)

    def previous(self, application: Application) -> Generation:
        """What a rollback of this application goes to: what was live before the last flip.

        Raises:
            FatalError: it was not flipped yet, was rolled back already (says by whom), or that one was given up.
        """
        change = self.changes.get(application)
        if change is None or change.before is None:
            raise FatalError(f"{application} was not flipped yet: there is nothing to roll back to")
        if change.is_rollback:
            raise FatalError(
                f"{application} was rolled back already, by {change.by} at {utc(change.at_ms)}: "
                f"to serve {change.before[:12]} again, flip to it"
            )
        before = self.generations.get(change.before)
        if before is None or before.state not in (State.STANDBY, State.LIVE):
            state = "gone" if before is None else before.state
            raise FatalError(
                f"{application} was served from {change.before[:12]} before, which is {state} and stands by no more: "
                "flip to a validated generation instead"
            )
        return before

    def last_changed(self) -> frozenset[Application]:
        """The applications of the last flip or rollback: what a rollback that names none is about."""
        newest_ms = max((change.at_ms for change in self.changes.values()), default=0)
        return frozenset(name for name, change in self.changes.items() if change.at_ms == newest_ms)

    def rolled_back(self, applications: frozenset[Application], *, at_ms: int, by: str) -> Registry:
        """Serve each of these applications from what it was served from before its last flip.

        Raises:
            FatalError: one of them can't be rolled back; then none is. Or there is none.
        """
        if not applications:
            raise FatalError("nothing was flipped yet: there is nothing to roll back to")
        after = self
        for application in sorted(applications):
            to = self.previous(application).model
            after = after.flipped(to, frozenset({application}), at_ms=at_ms, by=by, is_rollback=True)
        return after

    def with_split(self, split: Split) -> Registry:
        """With this A/B test instead of the application's earlier one.

        Raises:
            FatalError: the treatment is not ready to serve, or is what the application is served from anyway.
        """
        treatment = self.generation(split.model)
        if treatment.state not in (State.VALIDATED, State.LIVE, State.STANDBY):
            raise FatalError(
                f"generation {treatment.model[:12]} is {treatment.state}, expected validated, live or standby: "
                "run `pinstream rollout validate` first"
            )
        if self.live.get(split.application) in (None, treatment.model):
            now = (self.live.get(split.application) or "nothing")[:12]
            raise FatalError(f"{split.application} is served from {now}: there is nothing to compare with")
        others = tuple(one for one in self.splits if one.application is not split.application)
        return self.model_copy(update={"splits": (*others, split)})

    def without_splits(self, applications: frozenset[Application]) -> Registry:
        kept = tuple(split for split in self.splits if split.application not in applications)
        return self.model_copy(update={"splits": kept})

    def with_state(self, model: str, to: State, *, at_ms: int, by: str, why: str = "") -> Registry:
        """With one generation in another state.

        Raises:
            FatalError: there is no such transition, or it is still used (to `retired` or from `standby`).
        """
        one = self.generation(model)
        if to is State.RETIRED and (reasons := self.uses(one.model)):
            raise FatalError(f"generation {one.model[:12]} can't be retired: {'; '.join(reasons)}")
        return self.with_generation(one.moved(to, at_ms=at_ms, by=by, why=why))


def utc(at_ms: int) -> str:
    """2026-11-21 05:43:10 UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
