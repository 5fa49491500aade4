"""Finds rows by Pin id in a column that never changes, for 5.33 bytes a row. Immutable; any thread.

A hash table of row numbers, three quarters full. The bits of a word that no row number needs hold a tag, more bits of
the same hash, so that a Pin id that isn't there costs a cache miss and hardly ever reads the column: 14 bits of tag for
200,000 rows, 9 for 8 million. An id that is there costs two. Neither depends on the number of rows otherwise.

Shapes: N rows, M wanted ids.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Int64s
from index_sync.row_loops import loops

MAX_ROWS: Final = 2**31 - 1


class PinLookup:
    """Raises ValueError if a Pin id comes twice, or there are more than `MAX_ROWS` rows.

    Args:
        pin_id: int64 [N]; kept, not copied.
    """

    def __init__(self, pin_id: Int64s) -> None:
        if len(pin_id) > MAX_ROWS:
            raise ValueError(f"{len(pin_id)} rows, expected at most {MAX_ROWS}")
        self._pin_id = pin_id
        self._seed = secrets.randbits(64)  # ids can't be chosen to meet
        self._row_bits = len(pin_id).bit_length()
        self._table = np.zeros(len(pin_id) * 4 // 3 + 1, dtype=np.uint32)
        if loops().build_tagged(self._table, self._seed, self._row_bits, pin_id):
            raise ValueError("a Pin id comes twice")

    def rows(self, wanted: Int64s) -> npt.NDArray[np.intp]:
        """intp [M]: the row of each Pin id, −1 where there is none."""
        row = np.empty(len(wanted), dtype=np.intp)
        loops().find_tagged(self._table, self._seed, self._row_bits, self._pin_id, wanted, row)
        return row
