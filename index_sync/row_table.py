"""Finds the newest row of a Pin among rows that are only appended to: an open hash table of row numbers. One thread.

At most half of it is taken, and it doubles: 8 to 16 bytes a row. The place of a Pin id depends on a seed, so that ids
can't be chosen to meet.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Int64s
from index_sync.row_loops import loops

_LEAST: Final = 1024


class RowTable:
    """Args: pin_id: int64 [N], the column that is appended to; kept, not copied."""

    def __init__(self, pin_id: Int64s) -> None:
        self._pin_id = pin_id
        self._seed = secrets.randbits(64)
        self._taken = 0
        self._rows = 0
        self._table = np.zeros(_LEAST, dtype=np.uint32)

    def add(self, end: int) -> None:
        """Learn the rows up to `end`, which are set now. A Pin's later row replaces its earlier one."""
        if 2 * (self._taken + end - self._rows) > len(self._table):
            self._grow(end)
        self._taken += loops().insert(self._table, self._seed, self._pin_id, self._rows, end)
        self._rows = end

    def find(self, wanted: Int64s) -> npt.NDArray[np.intp]:
        """intp [M]: the newest row of each Pin id, −1 where there is none."""
        row = np.empty(len(wanted), dtype=np.intp)
        loops().find_in_table(self._table, self._seed, self._pin_id, wanted, row)
        return row

    def _grow(self, end: int) -> None:
        places = len(self._table)
        while 2 * (self._taken + end - self._rows) > places:
            places *= 2
        self._table = np.zeros(places, dtype=np.uint32)
        self._taken = loops().insert(self._table, self._seed, self._pin_id, 0, self._rows)
