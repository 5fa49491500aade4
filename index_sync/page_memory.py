"""Memory for columns that grow: it counts only as it is used, and can be at hand before it is needed.

The first write to a page of memory waits for the system to find and clear one: 2 to 4 µs in a virtual machine, as much
as applying two records.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_MADV_POPULATE_WRITE: Final = 23
"""Linux 5.14: as if every page had been written to, without changing any."""


def reserve(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that take up no memory before they are written to, and give it back when the last view of them goes.

    `numpy.zeros` may take them from the heap, from pages that other arrays have used: they would count from the start.
    Private, because a page of shared memory costs twice as much to get; not in huge pages, because where the host has
    to find one first (seen in a virtual machine) a write waits ten times as long.
    """
    memory = mmap.mmap(-1, int(np.prod(shape)) * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    return np.frombuffer(memory, dtype).reshape(shape)


def bring(column: npt.NDArray[Any], first: int, end: int) -> None:
    """Have the memory of rows `first` … `end` − 1 at hand. Changes nothing in it, so others may write to it meanwhile.

    Blocks for ~2 µs a page, without the interpreter's lock; any thread. Where the system has no means for it, nothing
    happens, and the first write to each page waits.

    Args:
        column: from `reserve`.
    """
    if sys.platform != "linux" or first >= end:
        return
    start = column.ctypes.data + first * column.strides[0]
    start -= start % mmap.PAGESIZE
    length = column.ctypes.data + end * column.strides[0] - start
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_POPULATE_WRITE)
