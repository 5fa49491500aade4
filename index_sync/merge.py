"""Rewrites the living rows of some segments as one sealed segment. Pure, and touches only what never changes.

It runs in any thread while the shard goes on applying and searching. Deaths after the plan are replayed when the
result is installed. A row's list is computed once, when it is first sealed: later merges copy it with the row.
Memory: the result, 32 bytes a row, and one chunk of codes.

Shapes: N rows of the result, M chosen rows of one input.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from index_sync.faiss_quantizer import CoarseQuantizer
from index_sync.faiss_segment import SealedSegment
from index_sync.segment import CodeRows, Rows
from index_sync.segment_view import SegmentView

_CHUNK_ROWS = 16_384
"""Codes copied at once: 4 MiB at 2048 bits."""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Segments that nothing is appended to any more, as of the plan."""

    inputs: tuple[SegmentView, ...]
    quantizer: CoarseQuantizer | None = None
    """By whose lists to group the result; None: by Pin id only."""

    @property
    def rows(self) -> int:
        return sum(one.live_rows for one in self.inputs)

    def run(self) -> MergeResult:
        """Copy the living rows, sorted by list and Pin id. Blocks: call it off the apply thread.

        About 1 s a million rows, and ~25 ns × lists for each row that has no list yet.
        """
        chosen = [one.visible_rows() for one in self.inputs]
        pin_id = np.concatenate([one.segment.rows.pin_id[rows] for one, rows in zip(self.inputs, chosen, strict=True)])
        if not len(pin_id):
            return MergeResult(self, None)
        cell_N = self._cells(chosen)
        target = np.empty(len(pin_id), dtype=np.intp)
        target[np.lexsort((pin_id, cell_N)) if cell_N is not None else np.argsort(pin_id)] = np.arange(len(pin_id))
        merged = CodeRows.empty(len(pin_id), self.inputs[0].segment.rows.code_NW.shape[1])
        start = 0
        for one, rows in zip(self.inputs, chosen, strict=True):
            for first in range(0, len(rows), _CHUNK_ROWS):
                chunk = rows[first : first + _CHUNK_ROWS]
                into = target[start + first : start + first + len(chunk)]
                for column, source in zip(merged.columns, one.segment.rows.columns, strict=True):
                    column[into] = source[chunk]
            start += len(rows)
        if cell_N is None or self.quantizer is None:
            return MergeResult(self, SealedSegment(uuid4().hex, merged))
        list_end = np.bincount(cell_N, minlength=self.quantizer.lists).cumsum()
        return MergeResult(self, SealedSegment(uuid4().hex, merged, list_end, self.quantizer.digest))

    def _cells(self, chosen: list[Rows]) -> npt.NDArray[np.int32] | None:
        """int32 [N]: the list of every chosen row; None without a quantizer."""
        if self.quantizer is None:
            return None
        cells = []
        for one, row_M in zip(self.inputs, chosen, strict=True):
            segment = one.segment
            if isinstance(segment, SealedSegment) and segment.quantizer == self.quantizer.digest:
                cells.append(segment.cells()[row_M])
                continue
            chunks = np.split(row_M, range(_CHUNK_ROWS, len(row_M), _CHUNK_ROWS))
            cells += [self.quantizer.assign(segment.rows.code_NW[chunk]) for chunk in chunks]
        return np.concatenate(cells)


@dataclass(frozen=True, slots=True)
class MergeResult:
    plan: MergePlan
    segment: SealedSegment | None
    """None if no row lived."""
