"""Finds rows by Pin id in columns of any order, for 5.25 bytes a row. Immutable; any thread.

Rows sorted by Pin id are searched directly. Otherwise a permutation sorts them, and in that order every 32nd Pin id and
one byte of each one's hash are kept: a look-up finds its block of 32, compares their bytes at once, and reads the Pin
ids of the few that agree. So an id costs a cache miss or two, and one that isn't there costs no more.

Shapes: N rows, M wanted ids, G blocks.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Int64s
from index_sync.row_loops import loops

_BLOCK: Final = 32
SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
"""2^64 ÷ the golden ratio: multiplied by it, ids that follow one another, or end alike, differ in their top bits."""


class PinLookup:
    """Raises ValueError if a Pin id comes twice.

    Args:
        pin_id: int64 [N]; kept, not copied.
    """

    def __init__(self, pin_id: Int64s) -> None:
        self._pin_id = pin_id
        self._by_pin: npt.NDArray[np.uint32] | None = None
        self._first = pin_id
        if not (pin_id[1:] > pin_id[:-1]).all():
            self._by_pin = np.argsort(pin_id).astype(np.uint32)
            ascending = pin_id[self._by_pin]
            if (ascending[1:] == ascending[:-1]).any():
                raise ValueError("a Pin id comes twice")
            self._first = ascending[::_BLOCK].copy()
            self._hash_GB = np.zeros((len(self._first), _BLOCK), dtype=np.uint8)
            self._hash_GB.ravel()[: len(ascending)] = _hash_byte(ascending)

    def rows(self, wanted: Int64s) -> npt.NDArray[np.intp]:
        """intp [M]: the row of each Pin id, −1 where there is none. Fastest if `wanted` ascends."""
        row = np.empty(len(wanted), dtype=np.intp)
        if not len(self._pin_id):
            row[:] = -1
        elif self._by_pin is None:
            loops().find_ascending(self._pin_id, wanted, row)
        else:
            loops().find_in_blocks(self._first, self._hash_GB, self._by_pin, self._pin_id, wanted, row)
        return row


def _hash_byte(pin_id: Int64s) -> npt.NDArray[np.uint8]:
    top: npt.NDArray[np.uint8] = (pin_id.view(np.uint64) * SPREAD >> np.uint64(56)).astype(np.uint8)
    return top
