"""Ours: a shard as streaming leaves it, its upkeep in a thread. Kafka makes it durable; `save` takes a snapshot."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import faiss
import numpy as np

from bench.codes_like_real import CodesLikeReal
from bench.index_setup import EXACT, THREADS, StreamedShard, live_codes, make_shard, our_search, quantizers, upkeep
from bench.peers.peer import Bytes, Int64s
from index_sync.checkpoint import ShardIdentity
from index_sync.searcher import Searcher
from index_sync.store_snapshot import SnapshotStore
from pinstream.object_store import open_store


class PinstreamPeer:
    efforts = (900, 930, 950, 960, 970, 975, 980, 985, 990, 992, 994, 996, 998, 999)
    """Recall targets, in thousandths; 1000 scans every row."""
    durable = False

    def __init__(self, folder: Path, bits: int) -> None:
        faiss.omp_set_num_threads(1)
        self._bits = bits
        self._files = open_store(folder.as_uri(), {}, setting="index.snapshot_url")
        identity = ShardIdentity(topic="codes", partition=0, partitions=1, bits=bits, model="be" * 32)
        self._snapshots = SnapshotStore(self._files, identity)
        self._searcher = Searcher(THREADS)
        self._effort = self.efforts[0]
        self._beside = ExitStack()

    def stream(self, codes: int, seed: int, folder: str) -> dict[str, object]:
        """In place of `build`: stream so many codes, and write the living ones for the others to build on."""
        self._state = StreamedShard(CodesLikeReal(self._bits, seed), codes, store=self._files)
        self._shard = self._state.shard
        pin_id, code_NW = live_codes(self._shard.view())
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
        found = our_search(self._searcher, self._shard.view(), target)(np.ascontiguousarray(code_QW))
        return np.where(found.pin_id_QK > 0, found.pin_id_QK, -1)[:, :k]

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self._shard.apply(self._state.arrivals.upserts(pin_id, code_NW))

    def delete(self, pin_id: Int64s) -> None:
        self._shard.apply(self._state.arrivals.deletes(pin_id))

    def save(self) -> None:
        """What a worker does every `index.snapshot_interval_s`."""
        self._snapshots.restore()
        self._snapshots.save(self._shard.capture().state(), time.time_ns() // 1_000_000)

    def reopen(self) -> None:
        """What the snapshot holds; what came after it is Kafka's to bring."""
        state = self._snapshots.restore().state
        self._shard = make_shard(CodesLikeReal(self._bits), state.live_rows, state)
        if (quantizer := quantizers(self._files, self._bits).load()) is not None:
            self._shard.use_quantizer(quantizer)

    def close(self) -> None:
        self._beside.close()
        self._searcher.close()
