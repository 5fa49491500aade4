"""The sealed segment: immutable rows, grouped by the lists of the generation's quantizer once there is one.

Rows of one list lie together, by Pin id, so a list is a range of the code array and is read where it lies
(`list_probe.py`). Without a quantizer the rows ascend by Pin id and are scanned exactly.

Shapes: N rows, C lists, M ids, Q queries, W = bits / 8 bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bools, Bytes, Int64s
from index_sync.pin_lookup import PinLookup
from index_sync.segment import CodeRows, Rows, SearchFilter
from pinstream.errors import CorruptStateError

_KEPT_FILTERS: Final = 16
"""Filters whose answer is kept, at 1 bit a row."""


class SealedSegment:
    """Never changes. Any thread.

    Args:
        list_end: int64 [C], the row after each list's last; None: not grouped.
        quantizer: digest of the quantizer whose lists they are; None: not grouped.

    Raises:
        CorruptStateError: there is no row, a Pin comes twice, or the lists don't cover the rows in order.
    """

    is_sealed = True

    def __init__(
        self, segment_id: str, rows: CodeRows, list_end: Int64s | None = None, quantizer: bytes | None = None
    ) -> None:
        if not len(rows):
            raise CorruptStateError(f"segment {segment_id} has no rows: rebuild it")
        try:
            self._lookup = PinLookup(rows.pin_id)
        except ValueError as error:
            raise CorruptStateError(f"segment {segment_id} can't be: {error}; rebuild it") from error
        if (list_end is None) != (quantizer is None):
            raise CorruptStateError(f"segment {segment_id} has lists without a quantizer, or the reverse: rebuild it")
        if list_end is not None:
            ascend = bool(len(list_end)) and list_end[0] >= 0 and bool((list_end[1:] >= list_end[:-1]).all())
            if not ascend or list_end[-1] != len(rows):
                raise CorruptStateError(f"segment {segment_id} has lists that don't cover its rows: rebuild it")
        self.segment_id = segment_id
        self.rows = rows
        self.row_count = len(rows)
        self.list_end = list_end
        self.quantizer = quantizer
        self._filters: OrderedDict[SearchFilter, tuple[Bytes, int]] = OrderedDict()

    def find(self, pin_id: Int64s) -> Rows:
        return self._lookup.rows(pin_id)

    def find_any(self, pin_id: Int64s, row_count: int) -> Rows:
        rows = self.find(pin_id)
        return rows[(rows >= 0) & (rows < row_count)]

    def cells(self) -> npt.NDArray[np.int32]:
        """int32 [N]: the list of each row. For a grouped segment."""
        assert self.list_end is not None
        return np.repeat(np.arange(len(self.list_end), dtype=np.int32), np.diff(self.list_end, prepend=0))

    def matches(self, where: SearchFilter, row_count: int) -> Bools:
        """bool [N]; asked again, from memory. Treat as immutable."""
        bits, _ = self._filter(where)
        return np.unpackbits(bits, count=row_count).view(bool)

    def match_count(self, where: SearchFilter, row_count: int) -> int:
        """How many rows match, dead ones included."""
        del row_count
        return self._filter(where)[1]

    def _filter(self, where: SearchFilter) -> tuple[Bytes, int]:
        kept = self._filters.get(where)
        if kept is None:
            fits = where.matches(self.rows.domain, self.rows.flags)
            kept = (np.packbits(fits), int(np.count_nonzero(fits)))
            # Two threads may do the same work; each operation here is atomic.
            self._filters[where] = kept
            while len(self._filters) > _KEPT_FILTERS:
                try:
                    self._filters.popitem(last=False)
                except KeyError:
                    break
        return kept
