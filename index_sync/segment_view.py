"""One segment as a search sees it: its rows up to a number, and which of them live. Exact scans of it.

Shapes: N rows, M visible and matching rows, Q queries, F fetched, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bools, Bytes, Int64s
from index_sync.faiss_scan import distances, distances_of_rows
from index_sync.segment import Rows, SearchFilter, Segment
from index_sync.top_k import PAD_DISTANCE, PAD_PIN_ID, Candidates, Neighbors, best_of

_FETCH_LIMIT: Final = 8192
"""Beyond this a heap costs more than an exact scan."""
_SPARE: Final = 32
"""Fetched beyond the estimate, for dead rows and for ties at the k-th place."""
_GATHER_SHARE: Final = 8
"""Below 1/8 of the rows matching, copying their codes together is cheaper than scanning all."""


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
        matches = None
        matching = end - first
        if where is not None:
            matches = self.segment.matches(where, self.row_count)[first:end] & self.visible(first, end)
            matching = int(np.count_nonzero(matches))
        elif self.dead_rows:
            matching = int(np.count_nonzero(self.visible(first, end)))
        if matching == 0:
            return _none(len(code_QW), k)
        rows = end - first
        fetch = min(over_fetch(k, matching / rows), rows)
        if fetch > _FETCH_LIMIT or matching * _GATHER_SHARE < rows:
            return self._search_rows(code_QW, k, matches, first, end)
        distance_QF, row_QF = self.segment.nearest(code_QW, fetch, first, end)
        good = self.died_at[row_QF] > self.sequence
        if matches is not None:
            good &= matches[row_QF - first]
        complete = np.ones(len(code_QW), dtype=bool)
        if fetch < rows:
            # A row at the last distance may have an equal, not fetched, with a lower Pin id.
            complete = np.count_nonzero(good & (distance_QF < distance_QF[:, -1:]), axis=1) >= k
        pin_id_QF = np.where(good, self.segment.rows.pin_id[row_QF], PAD_PIN_ID)
        found = Candidates(np.where(good, distance_QF, np.int32(PAD_DISTANCE)), pin_id_QF)
        if not complete.all():
            found = _first(found, k)
            missed = np.flatnonzero(~complete)
            exact = self._search_rows(np.ascontiguousarray(code_QW[missed]), k, matches, first, end)
            found.distance_QK[missed] = exact.distance_QK
            found.pin_id_QK[missed] = exact.pin_id_QK
        return found

    def _search_rows(self, code_QW: Bytes, k: int, matches: Bools | None, first: int, end: int) -> Candidates:
        """Every matching row's distance, one query after the other: memory of 4 bytes a row."""
        rows_M = first + np.flatnonzero(self.visible(first, end) if matches is None else matches)
        code_NW = self.segment.rows.code_NW
        pin_id_M = self.segment.rows.pin_id[rows_M]
        found = _none(len(code_QW), k)
        for query, code_W in enumerate(code_QW):
            if len(rows_M) * _GATHER_SHARE < end - first:
                distance_M = distances_of_rows(code_W, code_NW, rows_M)
            else:
                distance_M = distances(code_W, code_NW[first:end])[rows_M - first]
            near = np.arange(len(distance_M))
            if len(distance_M) > k:
                worst = np.partition(distance_M, k - 1)[k - 1]
                near = np.flatnonzero(distance_M <= worst)
            best = best_of(distance_M[np.newaxis, near], pin_id_M[np.newaxis, near], k)
            found.distance_QK[query], found.pin_id_QK[query] = best.distance_QK[0], best.pin_id_QK[0]
        return found


def _none(queries: int, k: int) -> Candidates:
    none = Neighbors.none(queries, k)
    return Candidates(none.distance_QK, none.pin_id_QK)


def _first(found: Candidates, k: int) -> Candidates:
    best = best_of(found.distance_QK, found.pin_id_QK, k)
    return Candidates(best.distance_QK, best.pin_id_QK)


def over_fetch(k: int, share: float) -> int:
    """How many to fetch so that k of them are expected to live and match, with some to spare."""
    return int(k * 1.25 / share) + _SPARE if share < 1 else k + _SPARE
