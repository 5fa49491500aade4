"""usearch: an HNSW graph of bits by Hamming distance, in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from usearch.index import Index, MetricKind, ScalarKind

from bench.peers.peer import Bytes, Int64s, padded


class UsearchPeer:
    efforts = tuple(round(64 * 1.3**step) for step in range(16))
    durable = False
    threads = 2

    def __init__(self, folder: Path, bits: int) -> None:  # noqa: ARG002 (nothing is kept in the folder)
        self._index: Any = Index(ndim=bits, metric=MetricKind.Hamming, dtype=ScalarKind.B1)

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self._index.add(pin_id.astype(np.uint64), code_NW, threads=self.threads)

    def set_effort(self, effort: int) -> None:
        self._index.expansion_search = effort

    def search(self, code_QW: Bytes, k: int) -> Int64s:
        found = self._index.search(code_QW if len(code_QW) > 1 else code_QW[0], k, threads=self.threads)
        if len(code_QW) == 1:
            return padded([[int(key) for key in found.keys]], k)
        counts = found.counts
        return np.where(np.arange(k) < counts[:, np.newaxis], found.keys.astype(np.int64), -1)

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self.delete(pin_id)
        self._index.add(pin_id.astype(np.uint64), code_NW, threads=self.threads)

    def delete(self, pin_id: Int64s) -> None:
        self._index.remove(pin_id.astype(np.uint64), threads=self.threads)

    def reopen(self) -> None:
        raise NotImplementedError("usearch keeps nothing until it is told to save all of it")

    def close(self) -> None:
        """Nothing is open."""
