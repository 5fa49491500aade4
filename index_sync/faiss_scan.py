"""Distances by FAISS's kernel, for what must not share code with the searches that it judges.

Shapes: N rows, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bytes


def distances(code_W: Bytes, code_NW: Bytes) -> npt.NDArray[np.int32]:
    """The distance of one query to every row: int32 [N]. One thread, without the interpreter's lock."""
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
