"""Rewrites the living rows of some segments as one sealed segment. Pure, and touches only what never changes.

It runs in any thread while the shard goes on applying and searching. Deaths after the plan are replayed when the
result is installed. Memory: the result, 24 bytes a row, and one chunk of codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from index_sync.faiss_segment import SealedSegment
from index_sync.segment import CodeRows
from index_sync.shard_view import SegmentView

_CHUNK_ROWS = 16_384
"""Codes copied at once: 4 MiB at 2048 bits."""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Segments that nothing is appended to any more, as of the plan."""

    inputs: tuple[SegmentView, ...]

    @property
    def rows(self) -> int:
        return sum(one.live_rows for one in self.inputs)

    def run(self) -> MergeResult:
        """Copy the living rows, sorted by Pin id. Blocks for about 1 s a million rows; call it off the apply thread."""
        chosen = [one.visible_rows() for one in self.inputs]
        pin_id = np.concatenate([one.segment.rows.pin_id[rows] for one, rows in zip(self.inputs, chosen, strict=True)])
        if not len(pin_id):
            return MergeResult(self, None)
        target = np.empty(len(pin_id), dtype=np.intp)
        target[np.argsort(pin_id, kind="stable")] = np.arange(len(pin_id))
        merged = CodeRows.empty(len(pin_id), self.inputs[0].segment.rows.code_NW.shape[1])
        start = 0
        for one, rows in zip(self.inputs, chosen, strict=True):
            for first in range(0, len(rows), _CHUNK_ROWS):
                chunk = rows[first : first + _CHUNK_ROWS]
                into = target[start + first : start + first + len(chunk)]
                for column, source in zip(merged.columns, one.segment.rows.columns, strict=True):
                    column[into] = source[chunk]
            start += len(rows)
        return MergeResult(self, SealedSegment(uuid4().hex, merged))


@dataclass(frozen=True, slots=True)
class MergeResult:
    plan: MergePlan
    segment: SealedSegment | None
    """None if no row lived."""
