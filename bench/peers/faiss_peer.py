"""Bare FAISS: an exact IndexBinaryFlat and an IndexBinaryIVF, both with ids of ours. Neither upserts nor is durable.

An upsert is a removal and an addition. IVF keeps a hash table of its ids, so that removing does not scan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np

from bench.peers.peer import Bytes, Int64s

faiss: Any = typed_faiss
"""FAISS's stubs lack some of what is used here."""
THREADS = 2


class FlatPeer:
    efforts: tuple[int, ...] = ()
    durable = False

    def __init__(self, folder: Path, bits: int) -> None:  # noqa: ARG002 (nothing is kept in the folder)
        self._index = faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(bits))

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self._index.add_with_ids(code_NW, pin_id)

    def set_effort(self, effort: int) -> None:
        raise NotImplementedError

    def search(self, code_QW: Bytes, k: int) -> Int64s:
        return searched(self._index, code_QW, k)

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self._index.remove_ids(pin_id)
        self._index.add_with_ids(code_NW, pin_id)

    def delete(self, pin_id: Int64s) -> None:
        self._index.remove_ids(pin_id)

    def reopen(self) -> None:
        raise NotImplementedError("bare FAISS keeps nothing")

    def close(self) -> None:
        """Nothing is open."""


class IvfPeer:
    efforts = tuple(round(8 * 1.19**step) for step in range(33))
    durable = False

    def __init__(self, folder: Path, bits: int) -> None:  # noqa: ARG002 (nothing is kept in the folder)
        self._bits = bits
        self._index: Any = None

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        nlist = max(16, min(2048, len(code_NW) // 64))
        self._index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(self._bits), self._bits, nlist)
        self._index.cp.min_points_per_centroid, self._index.cp.max_points_per_centroid = 1, 32
        sample = np.random.default_rng(0).choice(len(code_NW), min(len(code_NW), 32 * nlist), replace=False)
        self._index.train(code_NW[np.sort(sample)])
        self._index.set_direct_map_type(faiss.DirectMap.Hashtable)
        self._index.add_with_ids(code_NW, pin_id)

    def set_effort(self, effort: int) -> None:
        self._index.nprobe = min(effort, self._index.nlist)

    def search(self, code_QW: Bytes, k: int) -> Int64s:
        return searched(self._index, code_QW, k)

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self._index.remove_ids(faiss.IDSelectorArray(pin_id))
        self._index.add_with_ids(code_NW, pin_id)

    def delete(self, pin_id: Int64s) -> None:
        self._index.remove_ids(faiss.IDSelectorArray(pin_id))

    def reopen(self) -> None:
        raise NotImplementedError("bare FAISS keeps nothing")

    def close(self) -> None:
        """Nothing is open."""


def searched(index: Any, code_QW: Bytes, k: int) -> Int64s:
    """One query runs on one thread whatever it is given, and a second one only costs."""
    faiss.omp_set_num_threads(THREADS if len(code_QW) > 1 else 1)
    pin_id_QK: Int64s = index.search(code_QW, k)[1]
    faiss.omp_set_num_threads(THREADS)
    return pin_id_QK
