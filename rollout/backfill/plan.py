"""What a backfill covers, how it is cut into parts, and what of it must be embedded. Pure.

Shapes: N records of one partition, in the order of their offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pinstream.errors import FatalError

BAD: Final = 0
"""`kind` of a record that is no Pin event: it has no effect on any Pin."""
UPSERT: Final = 1
DELETE: Final = 2
TAIL_SHARE: Final = 0.2
"""Of `delete.retention.ms`, kept for the workers that read the tail after the backfill."""

Kinds = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_Offset = Annotated[int, Field(ge=0, lt=2**63)]


class BackfillPlan(BaseModel):
    """Written once, before anything is read: whoever repeats the command goes on with the same one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    topic: str
    topic_id: str
    """Kafka's own: a topic of the same name that was made anew has another one."""
    starts: Annotated[tuple[_Offset, ...], Field(min_length=1, max_length=4096)]
    """By partition: what the generation's group had committed, else 0."""
    ends: Annotated[tuple[_Offset, ...], Field(min_length=1, max_length=4096)]
    """By partition: where the topic ended. From there on the tail is embedded by ordinary workers."""
    created_ms: Annotated[int, Field(ge=0)]
    """Before `ends` were asked for."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.starts) != len(self.ends):
            raise ValueError(f"{len(self.starts)} starts and {len(self.ends)} ends, expected as many")
        return self

    def is_done(self, committed: Mapping[int, int]) -> bool:
        """Whether the group has passed the end of every partition."""
        return all(committed.get(partition, 0) >= end for partition, end in enumerate(self.ends))


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Consecutive records of one partition, `start` ≤ offset < `end`: what is embedded and repeated as a whole."""

    partition: int
    start: int
    end: int

    @property
    def name(self) -> str:
        return f"{self.partition:05d}/{self.start:020d}-{self.end:020d}"

    @classmethod
    def named(cls, name: str) -> Part:
        """Raises ValueError: it is no part's name."""
        partition, _, span = name.partition("/")
        start, _, end = span.partition("-")
        return cls(int(partition), int(start), int(end))


def chain(parts: list[Part], start: int) -> list[Part]:
    """The parts that follow each other from `start` on. Two commands at once may have cut the topic differently."""
    shortest: dict[int, Part] = {}
    for part in sorted(parts, reverse=True):
        shortest[part.start] = part
    found = []
    while (part_ := shortest.get(start)) is not None and part_.end > part_.start:
        found.append(part_)
        start = part_.end
    return found


def to_embed(pin_id: Int64s, kind: Kinds, failed: Bools, failed_before: Bools) -> Bools:
    """[N] Which upserts the next round embeds: the newest of each Pin that nothing later replaces, and which the round
    before had no reason to embed.

    A record that failed has no effect, so that an older one of its Pin counts again, as in a replay.

    Args:
        failed: could not be embedded in any round so far.
        failed_before: the same, as the last round began; all True before the first one.
    """
    chosen = newest_upserts(pin_id, kind, failed)
    if not failed_before.all():
        chosen &= ~newest_upserts(pin_id, kind, failed_before)
    return chosen


def newest_upserts(pin_id: Int64s, kind: Kinds, failed: Bools) -> Bools:
    """[N] The last record of each Pin that has an effect, if that is an upsert."""
    effective = np.flatnonzero((kind != BAD) & ~failed)
    order = effective[np.argsort(pin_id[effective], kind="stable")]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = pin_id[order[1:]] != pin_id[order[:-1]]
    chosen = np.zeros(len(pin_id), dtype=bool)
    chosen[order[last]] = True
    chosen &= kind == UPSERT
    return chosen


def check_age(plan: BackfillPlan, now_ms: int, delete_retention_ms: int) -> None:
    """Raises FatalError: deletes that came after the plan may be gone from the topic before the tail is read."""
    age_ms = now_ms - plan.created_ms
    allowed_ms = (1 - TAIL_SHARE) * delete_retention_ms
    if age_ms > allowed_ms:
        raise FatalError(
            f"this backfill was begun {age_ms / 3_600_000:.1f} h ago and {plan.topic} keeps deletes for "
            f"{delete_retention_ms / 3_600_000:.1f} h (delete.retention.ms), of which a fifth is left to the tail: "
            "raise that setting of the topic, or begin anew with --anew and more machines"
        )
