"""One segment as a search sees it: its rows up to a number, and which of them live. Exact scans of it.

Shapes: N rows, Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bools, Bytes, Int64s
from index_sync.hamming_scan import scan_rows
from index_sync.segment import Rows, SearchFilter, Segment
from index_sync.top_k import Candidates


@dataclass(frozen=True, slots=True)
class SegmentView:
    """One segment at one sequence."""

    segment: Segment
    died_at: npt.NDArray[np.uint32]
    row_count: int
    dead_rows: int
    sequence: int

    @property
    def live_rows(self) -> int:
        return self.row_count - self.dead_rows

    def visible(self, first: int = 0, end: int | None = None) -> Bools:
        """bool [N]: which rows live in this view."""
        alive: Bools = self.died_at[first : self.row_count if end is None else end] > self.sequence
        return alive

    def visible_rows(self) -> Rows:
        return np.flatnonzero(self.visible())

    def dead_row_numbers(self) -> npt.NDArray[np.uint32]:
        return np.flatnonzero(~self.visible()).astype(np.uint32)

    def rows_of(self, pin_id: Int64s) -> Rows:
        """The visible rows of those of the Pins that live in this segment, in any order."""
        rows = self.segment.find_any(pin_id, self.row_count)
        return rows[self.died_at[rows] > self.sequence]

    def match_share(self, where: SearchFilter | None) -> float:
        """About which share of the rows lives and matches."""
        if where is None or not self.row_count:
            return self.live_rows / max(1, self.row_count)
        return self.live_rows * self.segment.match_count(where, self.row_count) / self.row_count**2

    def search(self, code_QW: Bytes, k: int, where: SearchFilter | None, first: int, end: int) -> Candidates:
        """The k nearest visible rows among `first` … `end` − 1 that match, of each query, exactly."""
        heap = Candidates.none(len(code_QW), k)
        self.scan(code_QW, where, first, end, heap)
        return heap

    def scan(self, code_QW: Bytes, where: SearchFilter | None, first: int, end: int, heap: Candidates) -> None:
        """The same into a heap that other scans fill, too."""
        scan_rows(code_QW, self.segment.rows, self.died_at, self.sequence, where, first, end, heap)
