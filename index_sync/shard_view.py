"""What a search sees: one immutable state of a shard. Lock-free; see `segment.py` for why.

A search is cut into scans, which any threads may run, and whose neighbours are merged:

- *exact* scans of ranges of rows: all rows if the search asks for no `Effort`, else the fresh and ungrouped ones;
- *probes* of the grouped segments' lists, as far from the query as the calibration says.

A scan skips what is dead or filtered out. If the lists hold fewer than k of what matches, the query is scanned exactly.
So k neighbours come back whenever k matching rows live; ties go to the lower Pin id, however rows lie in segments.

Shapes: N rows, M Pins, Q queries, C lists, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from index_sync.calibration import DEPTH, Calibration, Effort
from index_sync.code_batch import Bytes, Int64s
from index_sync.device_scan import DeviceScan
from index_sync.list_probe import ListProbe, ListStack, probe_lists
from index_sync.segment import CodeRows, SearchFilter
from index_sync.segment_view import SegmentView
from index_sync.top_k import PAD_PIN_ID, Candidates, Neighbors, merge_neighbors

_MIN_SCAN_ROWS: Final = 16_384
"""Fewer rows, of a range or of lists, are not worth a thread of their own."""
_FEW_MATCHES: Final = 32_768
"""So few matching rows are scanned exactly faster than lists are probed for them."""
_ITEMS_ROWS: Final = 16_384

Scan = Callable[[], Candidates]
_Range = tuple[SegmentView, int, int]
"""Some rows of a segment: from, to before."""


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
class ShardView:
    """A shard as of one apply. Immutable; every method may be called by any thread, and none waits for a writer."""

    segments: tuple[SegmentView, ...]
    """Oldest first; the last one is the fresh segment that grows."""
    code_bytes: int
    checkpoint: int
    """Offset in the codes topic of the first record that is not in this view."""
    newest_event_time_ms: int | None
    """Greatest event time applied; None before the first record."""
    stack: ListStack | None = None
    """The grouped ones of `segments`."""
    calibration: Calibration | None = None

    @property
    def live_rows(self) -> int:
        return sum(one.live_rows for one in self.segments)

    @property
    def dead_rows(self) -> int:
        return sum(one.dead_rows for one in self.segments)

    @property
    def grouped(self) -> tuple[SegmentView, ...]:
        """The segments that are in the stack, in its order."""
        if self.stack is None:
            return ()
        by_id = {one.segment.segment_id: one for one in self.segments}
        return tuple(by_id[one.segment_id] for one in self.stack.segments)

    def search(
        self, code_QW: Bytes, k: int, where: SearchFilter | None = None, effort: Effort | None = None
    ) -> Neighbors:
        """The k nearest Pins of each query, padded if fewer match; exactly, unless an `effort` is given.

        Blocks for the scan, on this thread.

        Raises:
            ValueError: `code_QW` is not uint8 [Q, W] in C order, or k < 1.
        """
        self.check_query(code_QW, k)
        parts = [scan() for scan in self.scans(code_QW, k, where, effort, 1)]
        return self.complete(code_QW, k, where, effort, parts)

    def scans(
        self,
        code_QW: Bytes,
        k: int,
        where: SearchFilter | None,
        effort: Effort | None,
        ways: int,
        device: DeviceScan | None = None,
    ) -> list[Scan]:
        """The search as at most `ways` independent scans, and those of the device; give their answers to `complete`."""
        probe = self._probe(code_QW, k, where, effort)
        skipped = self.stack.segment_ids if probe is not None and self.stack is not None else frozenset()
        scans: list[Scan] = []
        exact = []
        for one in self.segments:
            if not one.live_rows or one.segment.segment_id in skipped:
                continue
            if device is not None and device.takes(one):
                scans.append(partial(device.search, one, code_QW, k, where))
            else:
                exact.append(one)
        pieces = _cut(exact, ways)
        probe_ways = 0 if probe is None else min(ways, max(1, probe.rows // _MIN_SCAN_ROWS))
        for way in range(max(probe_ways, len(pieces))):
            ranges = pieces[way] if way < len(pieces) else []
            part = probe if way < probe_ways else None
            scans.append(partial(_scan, code_QW, k, where, ranges, part, way, probe_ways))
        return scans

    def complete(
        self, code_QW: Bytes, k: int, where: SearchFilter | None, effort: Effort | None, parts: list[Candidates]
    ) -> Neighbors:
        """Merge what the scans found; a query whose lists held fewer than k of the matching Pins is scanned exactly."""
        found = merge_neighbors(parts, k) if parts else Neighbors.none(len(code_QW), k)
        if effort is None or self.stack is None:
            return found
        short = np.flatnonzero(found.pin_id_QK[:, -1] == PAD_PIN_ID)
        if len(short):
            exact = self.search(np.ascontiguousarray(code_QW[short]), k, where)
            found.distance_QK[short], found.pin_id_QK[short] = exact.distance_QK, exact.pin_id_QK
        return found

    def _probe(self, code_QW: Bytes, k: int, where: SearchFilter | None, effort: Effort | None) -> ListProbe | None:
        """What to read of the lists; None if the search wants, or is better off with, exact scans."""
        stack, calibration = self.stack, self.calibration
        if effort is None or stack is None or calibration is None or effort.recall_target == 1:
            return None
        views = self.grouped
        depth = k
        if where is not None:
            living = sum(one.live_rows for one in views)
            matching = sum(one.match_share(where) * one.row_count for one in views)
            depth = int(k * living / max(matching, 1.0))
            if matching < _FEW_MATCHES or depth > DEPTH:
                return None
        return ListProbe(views, probe_lists(stack.quantizer, calibration, code_QW, depth, effort))

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


def _scan(
    code_QW: Bytes,
    k: int,
    where: SearchFilter | None,
    ranges: list[_Range],
    probe: ListProbe | None,
    way: int,
    ways: int,
) -> Candidates:
    heap = Candidates.none(len(code_QW), k)
    if probe is not None:
        probe.scan(code_QW, where, way, ways, heap)
    for one, first, end in ranges:
        one.scan(code_QW, where, first, end, heap)
    return heap


def _cut(views: Sequence[SegmentView], ways: int) -> list[list[_Range]]:
    """All rows of the segments as up to `ways` parts of about as many rows."""
    rows = sum(one.row_count for one in views)
    step = max(_MIN_SCAN_ROWS, -(-rows // ways))
    parts: list[list[_Range]] = [[] for _ in range(-(-rows // step))]
    start = 0
    for one in views:
        first = 0
        while first < one.row_count:
            part, used = divmod(start + first, step)
            end = min(one.row_count, first + step - used)
            parts[part].append((one, first, end))
            first = end
        start += one.row_count
    return parts
