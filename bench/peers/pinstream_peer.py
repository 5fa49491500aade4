"""Ours: a shard as streaming leaves it, its upkeep in a thread. The topic makes it durable, not this process."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import faiss
import numpy as np

from bench.codes_like_real import CodesLikeReal
from bench.index_setup import EXACT, THREADS, StreamedShard, live_codes, our_search, upkeep
from bench.peers.peer import Bytes, Int64s
from index_sync.searcher import Searcher


class PinstreamPeer:
    efforts = (990, 992, 994, 996, 998, 999)
    """Recall targets, in thousandths; 1000 scans every row."""
    durable = False

    def __init__(self, folder: Path, bits: int) -> None:  # noqa: ARG002 (nothing is kept in the folder)
        faiss.omp_set_num_threads(1)
        self._bits = bits
        self._searcher = Searcher(THREADS)
        self._effort = self.efforts[0]
        self._beside = ExitStack()

    def stream(self, codes: int, seed: int, folder: str) -> dict[str, object]:
        """In place of `build`: stream so many codes, and write the living ones for the others to build on."""
        self._state = StreamedShard(CodesLikeReal(self._bits, seed), codes)
        pin_id, code_NW = live_codes(self._state.shard.view())
        np.save(Path(folder) / "pin_id.npy", pin_id)
        np.save(Path(folder) / "code.npy", code_NW)
        self._beside.enter_context(upkeep([self._state.upkeep]))
        return self._state.describe()

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        raise NotImplementedError("streamed, not built")

    def set_effort(self, effort: int) -> None:
        self._effort = effort

    def search(self, code_QW: Bytes, k: int) -> Int64s:
        target = EXACT if self._effort == 1000 else self._effort / 1000
        found = our_search(self._searcher, self._state.shard.view(), target)(np.ascontiguousarray(code_QW))
        return np.where(found.pin_id_QK > 0, found.pin_id_QK, -1)[:, :k]

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self._state.shard.apply(self._state.arrivals.upserts(pin_id, code_NW))

    def delete(self, pin_id: Int64s) -> None:
        self._state.shard.apply(self._state.arrivals.deletes(pin_id))

    def reopen(self) -> None:
        raise NotImplementedError("a shard comes back from its snapshot and the topic")

    def close(self) -> None:
        self._beside.close()
        self._searcher.close()
