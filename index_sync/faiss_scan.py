"""Exact Hamming scans over contiguous codes with FAISS's kernels, without an index object.

Nothing here mutates anything, so any thread may scan rows while others append beyond them. FAISS releases the
interpreter's lock meanwhile. One query uses one thread; Q queries use up to OMP_NUM_THREADS.

Shapes: N rows, Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bytes, Int64s

_GATHER_ROWS = 16_384
"""Rows copied at once for a scan of scattered rows: 4 MiB at 2048 bits."""


def nearest_rows(
    code_QW: Bytes, code_NW: Bytes, fetch: int, first: int = 0, end: int | None = None
) -> tuple[npt.NDArray[np.int32], Int64s]:
    """The `fetch` nearest of the rows `first` … `end` − 1 by (distance, row), exactly, as two [Q, fetch] arrays.

    1 ≤ fetch ≤ end − first.

    Ties at the last place go to the lower row: FAISS's heap orders by (distance, id) and rows come in order
    (`tests/unit/test_faiss_scan.py` holds it to that).
    """
    distance, row = faiss.knn_hamming(code_QW, code_NW[first:end], fetch)
    if first:
        row += first
    return distance, row


def distances(code_W: Bytes, code_NW: Bytes) -> npt.NDArray[np.int32]:
    """The distance of one query to every row: int32 [N]."""
    distance_N = np.empty(len(code_NW), dtype=np.int32)
    if len(code_NW):
        # FAISS's stubs lack it
        faiss.hammings(  # type: ignore[attr-defined]
            faiss.swig_ptr(code_W),
            faiss.swig_ptr(code_NW),
            1,
            len(code_NW),
            code_NW.shape[1],
            faiss.swig_ptr(distance_N),
        )
    return distance_N


def distances_of_rows(code_W: Bytes, code_NW: Bytes, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
    """The distance of one query to the chosen rows: int32 [len(rows)]. Copies a bounded number of codes at a time."""
    distance_M = np.empty(len(rows), dtype=np.int32)
    for start in range(0, len(rows), _GATHER_ROWS):
        chosen = rows[start : start + _GATHER_ROWS]
        distance_M[start : start + len(chosen)] = distances(code_W, code_NW[chosen])
    return distance_M
