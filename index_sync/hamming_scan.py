"""Nearest rows by Hamming distance: what lives and matches, by (distance, Pin id), exactly.

Scans write into `Candidates` that are heaps: many scans may fill the same ones, one after the other. Nothing else is
mutated, so any thread may scan rows while others append beyond them. A scan runs on the thread that calls it, without
the interpreter's lock.

The compiled loops (`numba_hamming.py`) are loaded by the first call, or by `load`.

Shapes: N rows, Q queries, K places, C lists, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import time
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bytes, Int64s
from index_sync.row_loops import loops
from index_sync.segment import CodeRows, SearchFilter
from index_sync.top_k import Candidates

if TYPE_CHECKING:
    from index_sync.numba_hamming import Kernels

_NO_FILTER: Final = (False, np.ones(256, dtype=np.uint8), 0)


@cache
def _kernels() -> Kernels:
    from index_sync.numba_hamming import KERNELS  # noqa: PLC0415 (numba takes a second to load, and most need none)

    return KERNELS


def load() -> float:
    """Load all compiled loops now, so that no search or apply need. Blocks for the seconds that it returns."""
    started_s = time.monotonic()
    _kernels()
    loops()
    return time.monotonic() - started_s


def scan_rows(
    code_QW: Bytes,
    rows: CodeRows,
    died_at: npt.NDArray[np.uint32],
    sequence: int,
    where: SearchFilter | None,
    first: int,
    end: int,
    heap: Candidates,
) -> None:
    """Offer the rows `first` … `end` − 1 that live at `sequence` and match to each query. Blocks for the scan."""
    _kernels().scan_rows(
        _words(code_QW),
        rows.code_NW.view(np.uint64),
        (rows.pin_id, died_at, rows.domain, rows.flags),
        (sequence, *_terms(where)),
        first,
        end,
        heap.distance_QK,
        heap.pin_id_QK,
    )


def scan_lists(
    code_QW: Bytes,
    rows: CodeRows,
    died_at: npt.NDArray[np.uint32],
    sequence: int,
    where: SearchFilter | None,
    list_end_C: Int64s,
    cell_QC: npt.NDArray[np.int32],
    share: tuple[int, int, int, int],
    heap: Candidates,
) -> None:
    """Offer those rows of lists that live at `sequence` and match. Blocks for the scan.

    Args:
        list_end_C: int64 [C], the row after each list's last.
        cell_QC: from `choose_lists`.
        share: (first query, end, first of its lists, step from list to list): what this scan reads of it.
    """
    _kernels().scan_lists(
        _words(code_QW),
        rows.code_NW.view(np.uint64),
        (rows.pin_id, died_at, rows.domain, rows.flags),
        (sequence, *_terms(where)),
        list_end_C,
        cell_QC,
        share,
        heap.distance_QK,
        heap.pin_id_QK,
    )


def choose_lists(code_QW: Bytes, centroid_CW: Bytes, *, margin: int = 0, probes: int = 0) -> npt.NDArray[np.int32]:
    """The lists that each query reads, nearest first: int32 [Q, C], −1 after the last.

    All whose centroid is at most `margin` bits farther than the nearest; with `probes`, that many and all that are as
    near as the last of them.
    """
    cell_QC = np.empty((len(code_QW), len(centroid_CW)), dtype=np.int32)
    _kernels().choose_lists(_words(code_QW), _words(centroid_CW), margin, min(probes, len(centroid_CW)), cell_QC)
    return cell_QC


def nearest_centroid(code_NW: Bytes, centroid_CW: Bytes) -> npt.NDArray[np.int32]:
    """int32 [N]: the nearest centroid of each code, the lower number of equals. Blocks for ~10 ns × C a code."""
    cell_N = np.empty(len(code_NW), dtype=np.int32)
    _kernels().nearest(_words(code_NW), _words(centroid_CW), cell_N)
    return cell_N


def _words(code_NW: Bytes) -> npt.NDArray[np.uint64]:
    """Codes as the loops take them; a copy only if they are read-only or not aligned."""
    return np.require(code_NW, requirements=("C", "A", "W")).view(np.uint64)


@lru_cache(maxsize=64)
def _terms(where: SearchFilter | None) -> tuple[bool, Bytes, int]:
    if where is None:
        return _NO_FILTER
    domains = np.ones(256, dtype=np.uint8)
    if where.domains is not None:
        domains[:] = 0
        domains[list(where.domains)] = 1
    return True, domains, where.flags
