"""What a search sees: one exact, immutable state of a shard. Lock-free; see `segment.py` for why.

A search asks each segment for a few more neighbours than k, drops those that are dead or filtered out, and is done if
k remain. If they don't, or if most rows are filtered out, that segment is scanned exactly over the rows that match.
So k neighbours come back whenever k matching rows live, and ties go to the lower Pin id, however rows lie in segments.

Shapes: N rows, M visible and matching rows, Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bools, Bytes, Int64s
from index_sync.faiss_scan import distances, distances_of_rows
from index_sync.segment import CodeRows, Rows, SearchFilter, Segment
from index_sync.top_k import PAD_DISTANCE, PAD_PIN_ID, Neighbors, best_of, merge_neighbors

_FETCH_LIMIT: Final = 8192
"""Beyond this a heap costs more than an exact scan."""
_SPARE: Final = 32
"""Fetched beyond the estimate, for dead rows and for ties at the k-th place."""
_GATHER_SHARE: Final = 8
"""Below 1/8 of the rows matching, copying their codes together is cheaper than scanning all."""
_ITEMS_ROWS: Final = 16_384


@dataclass(frozen=True, slots=True)
class PinRow:
    """What a shard holds for one Pin."""

    pin_id: int
    source_offset: int
    event_time_ms: int
    domain: int
    flags: int
    code_W: Bytes


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

    def visible(self) -> Bools:
        """bool [N]: which rows live in this view."""
        alive: Bools = self.died_at[: self.row_count] > self.sequence
        return alive

    def visible_rows(self) -> Rows:
        return np.flatnonzero(self.visible())

    def dead_row_numbers(self) -> npt.NDArray[np.uint32]:
        return np.flatnonzero(~self.visible()).astype(np.uint32)

    def rows_of(self, pin_id: Int64s) -> Rows:
        """The visible rows of those of the Pins that live in this segment, in any order."""
        rows = self.segment.find_any(pin_id, self.row_count)
        return rows[self.died_at[rows] > self.sequence]

    def search(self, code_QW: Bytes, k: int, where: SearchFilter | None) -> Neighbors:
        """The k nearest visible rows that match, of each query, exactly."""
        matches = None if where is None else self._matches(where)
        matching = self.live_rows if matches is None else int(np.count_nonzero(matches))
        if matching == 0:
            return Neighbors.none(len(code_QW), k)
        fetch = self._fetch_count(k, matching)
        if fetch > _FETCH_LIMIT or matching * _GATHER_SHARE < self.row_count:
            return self._search_exactly(code_QW, k, matches)
        distance_QF, row_QF = self.segment.nearest(code_QW, fetch, self.row_count)
        good = (row_QF >= 0) & (self.died_at[row_QF] > self.sequence)
        if matches is not None:
            good &= matches[row_QF]
        if fetch < self.row_count:
            # A row at the last distance may have an equal, not fetched, with a lower Pin id.
            certain = good if self.segment.is_sealed else good & (distance_QF < distance_QF[:, -1:])
            complete = np.count_nonzero(certain, axis=1) >= k
        else:
            complete = (row_QF >= 0).all(axis=1)
        pin_id_QF = np.where(good, self.segment.rows.pin_id[row_QF], PAD_PIN_ID)
        best = best_of(np.where(good, distance_QF, PAD_DISTANCE).astype(np.int32), pin_id_QF, k)
        if not complete.all():
            missed = np.flatnonzero(~complete)
            exact = self._search_exactly(np.ascontiguousarray(code_QW[missed]), k, matches)
            best.distance_QK[missed] = exact.distance_QK
            best.pin_id_QK[missed] = exact.pin_id_QK
        return best

    def _matches(self, where: SearchFilter) -> Bools:
        rows = self.segment.rows
        return where.matches(rows.domain[: self.row_count], rows.flags[: self.row_count]) & self.visible()

    def _fetch_count(self, k: int, matching: int) -> int:
        if self.segment.is_sealed and matching == self.row_count:
            return min(k, self.row_count)
        return min(-(-k * self.row_count * 5 // (matching * 4)) + _SPARE, self.row_count)

    def _search_exactly(self, code_QW: Bytes, k: int, matches: Bools | None) -> Neighbors:
        """Every matching row's distance, one query after the other: memory of 4 bytes a row."""
        rows_M = self.visible_rows() if matches is None else np.flatnonzero(matches)
        codes = self.segment.rows.code_NW[: self.row_count]
        pin_id_M = self.segment.rows.pin_id[rows_M]
        found = Neighbors.none(len(code_QW), k)
        for query, code_W in enumerate(code_QW):
            if len(rows_M) * _GATHER_SHARE < self.row_count:
                distance_M = distances_of_rows(code_W, codes, rows_M)
            else:
                distance_M = distances(code_W, codes)[rows_M]
            if len(distance_M) > k:
                worst = np.partition(distance_M, k - 1)[k - 1]
                near = np.flatnonzero(distance_M <= worst)
            else:
                near = np.arange(len(distance_M))
            best = best_of(distance_M[np.newaxis, near], pin_id_M[np.newaxis, near], k)
            found.distance_QK[query], found.pin_id_QK[query] = best.distance_QK[0], best.pin_id_QK[0]
        return found


@dataclass(frozen=True, slots=True)
class ShardView:
    """A shard as of one apply. Immutable; every method may be called by any thread, and none waits for a writer."""

    segments: tuple[SegmentView, ...]
    """Oldest first; the last one is the fresh segment that grows."""
    code_bytes: int
    checkpoint: int
    """Offset in the codes topic of the first record that is not in this view."""
    newest_event_time_ms: int | None
    """Greatest event time applied; None before the first record."""

    @property
    def live_rows(self) -> int:
        return sum(one.live_rows for one in self.segments)

    @property
    def dead_rows(self) -> int:
        return sum(one.dead_rows for one in self.segments)

    def search(self, code_QW: Bytes, k: int, where: SearchFilter | None = None) -> Neighbors:
        """The k nearest Pins of each query, exactly; padded if fewer match. Blocks for the scan.

        Raises:
            ValueError: `code_QW` is not uint8 [Q, W] in C order, or k < 1.
        """
        self.check_query(code_QW, k)
        parts = [one.search(code_QW, k, where) for one in self.segments if one.live_rows]
        return merge_neighbors(parts, k) if parts else Neighbors.none(len(code_QW), k)

    def check_query(self, code_QW: Bytes, k: int) -> None:
        """Raises ValueError unless the query fits this shard."""
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        if code_QW.dtype != np.uint8 or code_QW.ndim != 2 or code_QW.shape[1] != self.code_bytes:
            raise ValueError(f"query codes are {code_QW.dtype} {code_QW.shape}, expected uint8 [Q, {self.code_bytes}]")
        if not code_QW.flags.c_contiguous:
            raise ValueError("query codes are not contiguous: pass numpy.ascontiguousarray of them")

    def get(self, pin_id: int) -> PinRow | None:
        """What the shard holds for a Pin; None if it has none."""
        return self.get_many(np.array([pin_id], dtype=np.int64)).get(pin_id)

    def get_many(self, pin_id: Int64s) -> dict[int, PinRow]:
        """What the shard holds for those of M Pins that live in it. One pass, ~0.2 ms for each fresh segment."""
        found = {}
        for one in self.segments:
            rows = one.segment.rows
            for row in one.rows_of(pin_id).tolist():
                found[int(rows.pin_id[row])] = PinRow(
                    int(rows.pin_id[row]),
                    int(rows.source_offset[row]),
                    int(rows.event_time_ms[row]),
                    int(rows.domain[row]),
                    int(rows.flags[row]),
                    rows.code_NW[row].copy(),
                )
        return found

    def ids(self) -> Int64s:
        """The Pin ids that live, ascending: int64 [M]."""
        parts = [one.segment.rows.pin_id[one.visible_rows()] for one in self.segments]
        return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)

    def items(self) -> Iterator[CodeRows]:
        """All living rows for an audit, at most 16,384 at a time, in no particular order."""
        for one in self.segments:
            rows = one.visible_rows()
            for start in range(0, len(rows), _ITEMS_ROWS):
                yield one.segment.rows[rows[start : start + _ITEMS_ROWS]]
