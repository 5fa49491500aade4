"""All that a shard must remember across a restart, as plain arrays. Pure.

Shapes: N rows, D dead rows, G remembered deletes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_sync.calibration import Calibration
from index_sync.code_batch import Int64s
from index_sync.faiss_segment import SealedSegment
from index_sync.segment import CodeRows, concatenate_rows
from index_sync.shard_view import ShardView


@dataclass(frozen=True, slots=True)
class SealedState:
    segment: SealedSegment
    dead_row: npt.NDArray[np.uint32]
    """uint32 [D], ascending row numbers."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """A shard as of its checkpoint. Immutable."""

    sealed: tuple[SealedState, ...]
    fresh: CodeRows
    """The living rows that are in no sealed segment."""
    graveyard_pin_id: Int64s
    """int64 [G], the oldest delete first."""
    graveyard_source_offset: Int64s
    """int64 [G]"""
    checkpoint: int
    """Offset in the codes topic of the first record that is not in it."""
    newest_event_time_ms: int | None
    calibration: Calibration | None = None
    """How far its searches look; None: not known yet."""

    @classmethod
    def empty(cls, code_bytes: int) -> ShardState:
        none = np.empty(0, dtype=np.int64)
        return cls((), CodeRows.empty(0, code_bytes), none, none, 0, None)

    @property
    def live_rows(self) -> int:
        return len(self.fresh) + sum(len(one.segment.rows) - len(one.dead_row) for one in self.sealed)


@dataclass(frozen=True, slots=True)
class ShardCapture:
    """A shard frozen at one apply, cheap to take. Immutable."""

    view: ShardView
    graveyard_pin_id: Int64s
    graveyard_source_offset: Int64s

    def state(self) -> ShardState:
        """Copy out what a snapshot saves. Blocks for the copy of the fresh rows; any thread."""
        sealed = []
        fresh = [CodeRows.empty(0, self.view.code_bytes)]
        for one in self.view.segments:
            if isinstance(one.segment, SealedSegment):
                sealed.append(SealedState(one.segment, one.dead_row_numbers()))
            else:
                fresh.append(one.segment.rows[one.visible_rows()])
        return ShardState(
            tuple(sealed),
            concatenate_rows(fresh),
            self.graveyard_pin_id,
            self.graveyard_source_offset,
            self.view.checkpoint,
            self.view.newest_event_time_ms,
            self.view.calibration,
        )
