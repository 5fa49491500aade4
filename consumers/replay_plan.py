"""What the workers of a generation are told of its replay: where to start, what to leave out, how fast. Pure.

The registry of generations holds it (`rollout`); Redis mirrors it under `replay_key`, and what comes from there is not
trusted. Where to start and what to leave out never change once the replay was planned; the pace does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pinstream.codes import Fingerprint
from pinstream.events import Domain

MAX_PLAN_BYTES: Final = 512 * 1024
"""4096 partitions with two offsets of 20 digits each fit."""

_Offset = Annotated[int, Field(ge=0, lt=2**63)]
_Offsets = Annotated[tuple[_Offset, ...], Field(max_length=4096)]


class ReplayPlan(BaseModel):
    """The default is that of an ordinary worker: from the group's offsets or 0, everything, as fast as it can."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    paused: bool = False
    max_records_per_s: Annotated[float, Field(gt=0)] | None = None
    """Of all workers of the generation together, and only until they have reached the log's end."""
    starts: _Offsets = ()
    """By partition: where a group that has committed nothing yet starts. Empty: at 0."""
    ends: _Offsets = ()
    """By partition: where the log ended when the replay was planned. From there on everything is embedded."""
    domains: tuple[Domain, ...] = ()
    """Before `ends`, only Pins of these domains are embedded. Empty: all."""

    def start_offsets(self, partitions: list[int], committed: Mapping[int, int]) -> dict[int, int]:
        """Where to start those of `partitions` that shall not start at the group's committed offset or at 0."""
        return {p: self.starts[p] for p in partitions if p not in committed and p < len(self.starts)}

    def leaves_out(self, partition: int, offset: int, domain: Domain | None) -> bool:
        """Whether this upsert is history of a domain that is not replayed."""
        if not self.domains or domain in self.domains:
            return False
        return partition < len(self.ends) and offset < self.ends[partition]

    def rate_per_s(self, assigned: int, behind: int, partitions: int) -> float:
        """How fast a worker may poll that has `assigned` of the topic's `partitions`, `behind` of them not yet read to
        the end: its share of the pace. 0: not at all; inf: as fast as it can.

        A worker that has reached the end of all its partitions embeds what is new, and no pace holds that back: it may
        be the live generation soon, and Redis may be away when it is.
        """
        if self.paused:
            return 0.0
        if self.max_records_per_s is None or not behind:
            return float("inf")
        return self.max_records_per_s * assigned / partitions


def replay_key(model: Fingerprint) -> str:
    """Where Redis mirrors the plan of this model's generation."""
    return f"pinstream:replay:{model.short}"


def parse_plan(value: bytes | None) -> ReplayPlan | None:
    """What Redis holds under `replay_key` → a plan. None: nothing, or nothing that can be read."""
    if value is None or len(value) > MAX_PLAN_BYTES:
        return None
    try:
        return ReplayPlan.model_validate_json(value)
    except ValidationError:
        return None
