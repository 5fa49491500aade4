"""Inverted lists of several sealed segments, searched by FAISS as one and where their codes lie.

FAISS's on-disk lists take a base address and, for each list, an offset and a size; here the base is the segment's code
array in memory. `VStackInvertedLists` puts the segments one below the other: list c of segment s is number s × C + c.
A search names the lists itself (`search_preassigned`) and takes (list, place) pairs back, so no ids are stored.

Shapes: S segments, C lists, Q queries, P probes, F fetched, W = bits / 8 bytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import faiss as typed_faiss
import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bytes, Int64s
from index_sync.faiss_quantizer import CoarseQuantizer
from index_sync.faiss_segment import SealedSegment

faiss: Any = typed_faiss
"""FAISS's stubs lack most of what is used here."""


class SegmentLists:
    """A grouped segment's codes as FAISS inverted lists. Immutable."""

    def __init__(self, segment: SealedSegment) -> None:
        assert segment.list_end is not None
        self.segment = segment
        self.list_start = np.concatenate(([0], segment.list_end[:-1]))
        self.sizes_C = segment.list_end - self.list_start
        code_NW = segment.rows.code_NW
        lists = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size, lists.read_only = len(self.list_start), code_NW.shape[1], True
        entry = faiss.OnDiskOneList()
        for start, size in zip(self.list_start.tolist(), self.sizes_C.tolist(), strict=True):
            entry.size = entry.capacity = size
            entry.offset = start * code_NW.shape[1]
            lists.lists.push_back(entry)  # a copy of it
        lists.ptr = faiss.swig_ptr(code_NW)
        self.lists = lists
        weakref.finalize(self, _detach, lists)  # FAISS unmaps what it thinks is a mapped file


def _detach(lists: Any) -> None:
    lists.ptr = None


class ListStack:
    """The grouped segments of a shard. Immutable; any thread."""

    def __init__(self, quantizer: CoarseQuantizer, parts: Sequence[SegmentLists]) -> None:
        self.quantizer = quantizer
        self.parts = tuple(parts)
        self.segment_ids = frozenset(part.segment.segment_id for part in parts)
        self.rows = sum(part.segment.row_count for part in parts)
        self._pointers = faiss.InvertedListsPtrVector()
        for part in parts:
            self._pointers.push_back(part.lists)
        self._stacked = faiss.VStackInvertedLists(len(self.parts), self._pointers.data())
        bits = 8 * quantizer.centroid_CW.shape[1]
        self._unused = faiss.IndexBinaryFlat(bits)
        index = faiss.IndexBinaryIVF(self._unused, bits, quantizer.lists)
        index.own_fields = False
        index.nlist = quantizer.lists * len(self.parts)
        index.replace_invlists(self._stacked, False)
        index.is_trained = True
        index.ntotal = self.rows
        self._index = index
        sizes_C = np.sum([part.sizes_C for part in self.parts], axis=0)
        self.size_C = np.append(sizes_C, 0)
        """int64 [C + 1]: rows of each list, and 0 for −1, which is none."""
        self._start = np.concatenate([part.list_start for part in self.parts])
        """Where each stacked list begins in its segment."""

    def search(
        self, code_QW: Bytes, fetch: int, cell_QP: Int64s
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Int64s]:
        """The `fetch` nearest rows, dead or alive, of the lists `cell_QP` (−1: none) of all segments.

        Returns (distance, segment, row), each [Q, fetch], by ascending distance; −1 in segment and row where the lists
        held fewer. Releases the interpreter's lock; one thread of this process's OpenMP.
        """
        queries = len(code_QW)
        stack = np.arange(len(self.parts), dtype=np.int64) * self.quantizer.lists
        key_QPS = np.where(cell_QP[:, :, None] < 0, -1, cell_QP[:, :, None] + stack)
        key_QK = np.ascontiguousarray(key_QPS.reshape(queries, -1))
        unused = np.zeros(key_QK.shape, dtype=np.int32)
        distance_QF = np.empty((queries, fetch), dtype=np.int32)
        label_QF = np.empty((queries, fetch), dtype=np.int64)
        self._index.search_preassigned_c(
            queries,
            faiss.swig_ptr(code_QW),
            fetch,
            faiss.swig_ptr(key_QK),
            faiss.swig_ptr(unused),
            faiss.swig_ptr(distance_QF),
            faiss.swig_ptr(label_QF),
            True,
            faiss.SearchParametersIVF(nprobe=key_QK.shape[1]),
        )
        return distance_QF, *self._rows(label_QF)

    def _rows(self, label_QF: Int64s) -> tuple[npt.NDArray[np.int32], Int64s]:
        """(list, place) pairs → segment and row."""
        key_QF = label_QF >> 32
        segment_QF = (key_QF // self.quantizer.lists).astype(np.int32)
        row_QF = np.where(key_QF < 0, -1, self._start[key_QF] + (label_QF & (2**32 - 1)))
        return segment_QF, row_QF
