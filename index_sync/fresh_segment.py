"""The fresh segment: a preallocated array that is appended to and never rewritten, searched exactly.

One thread appends. Searches read only rows that existed when their view was taken, so neither waits for the other.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from index_sync.code_batch import Bools, Int64s
from index_sync.page_memory import bring, reserve
from index_sync.row_loops import loops
from index_sync.row_table import RowTable
from index_sync.segment import CodeRows, Rows, SearchFilter

_LOW_BITS: Final = 2**16 - 1
_READY_ROWS: Final = 4096
"""Rows for which memory is kept at hand at least: 1.2 MB at 2048 bits."""


class FreshSegment:
    """Rows in the order in which they came. `append` and `find` belong to the writer, `prepare` to one other thread;
    the rest to any thread."""

    is_sealed = False

    def __init__(self, segment_id: str, capacity: int, code_bytes: int) -> None:
        self.segment_id = segment_id
        self.rows = CodeRows.empty(capacity, code_bytes, reserve)
        self.row_count = 0
        self._table = RowTable(self.rows.pin_id)
        self._prepared_at = 0
        self._ready = 0

    @property
    def free_rows(self) -> int:
        return len(self.rows) - self.row_count

    def append(self, rows: CodeRows, chosen: Rows) -> None:
        """Add the chosen rows, in their order, after the last one. At most `free_rows`."""
        start, end = self.row_count, self.row_count + len(chosen)
        if end > len(self.rows):
            raise ValueError(f"{len(chosen)} rows for a fresh segment with {self.free_rows} free")
        loops().copy_rows(rows.columns, chosen, self.rows.columns, start)
        self._table.add(end)
        self.row_count = end

    def prepare(self) -> None:
        """Have memory at hand for twice as many rows as came since the last call. Blocks for it, and no writer."""
        count = self.row_count
        end = min(len(self.rows), count + max(_READY_ROWS, 2 * (count - self._prepared_at)))
        for column in self.rows.columns:
            bring(column, max(count, self._ready), end)
        self._prepared_at, self._ready = count, max(end, self._ready)

    def find(self, pin_id: Int64s) -> Rows:
        return self._table.find(pin_id)

    def find_any(self, pin_id: Int64s, row_count: int) -> Rows:
        # The table is the writer's, and forgets the row that an older view sees. So scan, by the low bits first.
        wanted = np.zeros(_LOW_BITS + 1, dtype=bool)
        wanted[pin_id & _LOW_BITS] = True
        rows = np.flatnonzero(wanted[self.rows.pin_id[:row_count] & _LOW_BITS])
        return rows[np.isin(self.rows.pin_id[rows], pin_id)]

    def matches(self, where: SearchFilter, row_count: int) -> Bools:
        return where.matches(self.rows.domain[:row_count], self.rows.flags[:row_count])

    def match_count(self, where: SearchFilter, row_count: int) -> int:
        return int(np.count_nonzero(self.matches(where, row_count)))
