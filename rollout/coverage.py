"""Does a generation hold exactly the living Pins? A fold of the Pins topic against its shards' rows. Pure.

The topic moves meanwhile, so the order matters: fold up to some offset (the mark); wait until the generation has done
everything before the mark; take the shard's rows; fold on to where the topic ends by then. A Pin with a record at or
beyond the mark is "moving" and not judged; of every other one the rows must show the newest event.

A Pin whose newest event could not be read or embedded is a dead letter: whatever the shard holds of it is accepted,
because compaction may have taken its older events away.

Shapes: N records or rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

MAX_EXAMPLES: Final = 10
_REDUCE_ROWS: Final = 500_000

PIN: Final = np.dtype([("pin_id", "<i8"), ("offset", "<i8"), ("kind", "u1")])
"""A record of the Pins topic."""
ROW: Final = np.dtype([("pin_id", "<i8"), ("source_offset", "<i8")])
"""A row of a shard."""
Records = npt.NDArray[np.void]


class Kind(IntEnum):
    LIVING = 0
    DELETED = 1
    UNREADABLE = 2
    """Not an event: a dead letter of every model."""


class PinFold:
    """The newest record of each Pin of one partition; 17 bytes a Pin. Not thread-safe."""

    def __init__(self) -> None:
        self._newest: Records = np.empty(0, dtype=PIN)
        self._new: list[tuple[int, int, int]] = []

    def add(self, records: Iterable[tuple[int, int, Kind]]) -> None:
        """Pin id, offset and kind of the next records of the partition, in order."""
        self._new += records
        if len(self._new) >= _REDUCE_ROWS:
            self.result()

    def result(self) -> Records:
        """[N] of `PIN`, ascending by Pin id."""
        if self._new:
            both = np.concatenate([self._newest, np.array(self._new, dtype=PIN)])
            self._new.clear()
            order = np.lexsort((both["offset"], both["pin_id"]))
            ends = np.ones(len(order), dtype=bool)
            ends[:-1] = both["pin_id"][order][1:] != both["pin_id"][order][:-1]
            self._newest = both[order[ends]]
        return self._newest


@dataclass(frozen=True, slots=True)
class Faults:
    count: int
    examples: tuple[str, ...]
    """Up to ten, a sentence each."""

    def __add__(self, other: Faults) -> Faults:
        return Faults(self.count + other.count, (*self.examples, *other.examples)[:MAX_EXAMPLES])


NONE: Final = Faults(0, ())


@dataclass(frozen=True, slots=True)
class Coverage:
    living: int = 0
    """Pins that live by the topic."""
    missing: Faults = NONE
    stale: Faults = NONE
    """In the shard with an older event."""
    extra: Faults = NONE
    """In the shard: deleted, never on the topic, or twice."""
    dead_lettered: Faults = NONE
    """Living Pins whose newest event this model could not embed."""
    moving: int = 0
    """Changed while they were judged."""

    @property
    def faults(self) -> int:
        return self.missing.count + self.stale.count + self.extra.count

    def __add__(self, other: Coverage) -> Coverage:
        return Coverage(
            self.living + other.living,
            self.missing + other.missing,
            self.stale + other.stale,
            self.extra + other.extra,
            self.dead_lettered + other.dead_lettered,
            self.moving + other.moving,
        )


def compare(fold: Records, rows: Records, mark: int, dead_offsets: Set[int]) -> Coverage:
    """Judge one shard's rows, in any order, by the fold of its partition.

    Args:
        mark: everything before this offset was done before the rows were taken.
        dead_offsets: the partition's events that are dead letters of this model.
    """
    rows = rows[np.argsort(rows["pin_id"], kind="stable")]
    twice = np.zeros(len(rows), dtype=bool)
    twice[1:] = rows["pin_id"][1:] == rows["pin_id"][:-1]
    doubles, rows = rows[twice], rows[~twice]

    is_moving = fold["offset"] >= mark
    dead = np.fromiter(dead_offsets, dtype=np.int64, count=len(dead_offsets))
    is_dead = (fold["kind"] == Kind.UNREADABLE) | np.isin(fold["offset"], dead)
    living = fold["kind"] == Kind.LIVING
    judged = ~is_moving & ~is_dead

    at, held = _places(fold["pin_id"], rows["pin_id"])
    row_offset = np.where(held, rows["source_offset"][at] if len(rows) else 0, -1)
    missing = fold[judged & living & ~held]
    stale = judged & living & held & (row_offset != fold["offset"])
    ghosts = fold[judged & ~living & held]
    _, known = _places(rows["pin_id"], fold["pin_id"])
    unknown = rows[~known]
    dead_living = fold[is_dead & living]
    return Coverage(
        living=int(np.count_nonzero(living)),
        missing=_faults(missing, lambda one: f"pin {one['pin_id']} is missing: event at offset {one['offset']}"),
        stale=Faults(
            int(np.count_nonzero(stale)),
            tuple(
                f"pin {one['pin_id']} is stale: it shows the event of offset {offset}, the newest is {one['offset']}"
                for one, offset in zip(_few(fold[stale]), _few(row_offset[stale]), strict=True)
            ),
        ),
        extra=_faults(doubles, lambda one: f"pin {one['pin_id']} is there twice")
        + _faults(ghosts, lambda one: f"pin {one['pin_id']} is there, deleted at offset {one['offset']}")
        + _faults(unknown, lambda one: f"pin {one['pin_id']} is there and not on the Pins topic"),
        dead_lettered=_faults(
            dead_living, lambda one: f"pin {one['pin_id']}: the event at offset {one['offset']} is a dead letter"
        ),
        moving=int(np.count_nonzero(is_moving)),
    )


def unserved(fold: Records) -> Coverage:
    """Of a shard that no worker serves: every living Pin is missing."""
    return compare(fold, np.empty(0, dtype=ROW), mark=2**63 - 1, dead_offsets=frozenset())


def _places(
    wanted: npt.NDArray[np.int64], pin_id: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Where each wanted Pin is among ascending ones, and whether it is there at all."""
    if not len(pin_id):
        return np.zeros(len(wanted), dtype=np.intp), np.zeros(len(wanted), dtype=bool)
    at = np.minimum(np.searchsorted(pin_id, wanted), len(pin_id) - 1)
    return at, pin_id[at] == wanted


def _faults(rows: Records, sentence: Callable[[np.void], str]) -> Faults:
    return Faults(len(rows), tuple(sentence(one) for one in rows[:MAX_EXAMPLES]))


def _few(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return rows[:MAX_EXAMPLES]
