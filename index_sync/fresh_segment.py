"""The fresh segment: a preallocated array that is appended to and never rewritten, searched exactly.

One thread appends. Searches read only rows that existed when their view was taken, so neither waits for the other.
"""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bools, Int64s
from index_sync.row_loops import loops
from index_sync.row_table import RowTable
from index_sync.segment import CodeRows, Rows, SearchFilter

_LOW_BITS: Final = 2**16 - 1


class FreshSegment:
    """Rows in the order in which they came. `append` and `find` belong to the writer; the rest to any thread."""

    is_sealed = False

    def __init__(self, segment_id: str, capacity: int, code_bytes: int) -> None:
        self.segment_id = segment_id
        self.rows = _reserved(capacity, code_bytes)
        self.row_count = 0
        self._table = RowTable(self.rows.pin_id)

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


def _reserved(capacity: int, code_bytes: int) -> CodeRows:
    """Columns that take up no memory before they are written to, and give it back when they go.

    `numpy.empty` may take them from the heap, from pages that other arrays have used: they would count from the start.
    Private, because a page of shared memory costs twice as much to get; not in huge pages, because where the host has
    to find one first (seen in a virtual machine) an append waits ten times as long.
    """

    def column(dtype: npt.DTypeLike, *width: int) -> npt.NDArray[Any]:
        shape = (capacity, *width)
        memory = mmap.mmap(-1, int(np.prod(shape)) * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
        return np.frombuffer(memory, dtype).reshape(shape)

    return CodeRows(
        column(np.int64),
        column(np.int64),
        column(np.int64),
        column(np.uint8),
        column(np.uint32),
        column(np.uint8, code_bytes),
    )
