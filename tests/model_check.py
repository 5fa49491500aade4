"""Very many random operations on a shard against a model made of dicts. `run` ends at the first difference.

Each record is an operation (upsert, re-upsert, delete, stale replay, unconditional delete), and so is each seal, merge,
snapshot, crash, restore, quantizer, calibration and search. Merges and snapshots run in a thread of their own while
records go on being applied, and a crash may come in the middle of either.
"""

from __future__ import annotations

import tempfile
import threading
from collections import Counter

import faiss
import numpy as np

from index_sync.calibration import Effort
from index_sync.checkpoint import ShardIdentity
from index_sync.code_batch import UNCONDITIONAL
from index_sync.faiss_quantizer import CoarseQuantizer
from index_sync.grouping import calibrate
from index_sync.merge import MergePlan, MergeResult
from index_sync.merge_policy import MergePolicy
from index_sync.segment import SearchFilter
from index_sync.shard import Shard
from index_sync.shard_view import ShardView
from index_sync.store_snapshot import SnapshotStore
from index_sync.top_k import PAD_PIN_ID
from pinstream.object_store import open_store
from tests.shard_model import BITS, CODE_BYTES, Model, Record, assert_same, batch_of

PINS = 300
SEAL_ROWS = 24
LISTS = 6
LOOKS = 24
IDENTITY = ShardIdentity(topic="codes.v1.0123456789ab", partition=0, partitions=1, bits=BITS, model="0" * 64)
POLICY = MergePolicy(fan_in=3, max_dead_share=0.4, max_merged_rows=400, tier_floor_rows=SEAL_ROWS)


def run(operations: int, seed: int) -> Counter[str]:
    """At least so many operations; returns how many of each kind. Blocks. Raises AssertionError at a difference."""
    faiss.omp_set_num_threads(1)  # as the worker does; two threads for so few rows only wait for each other
    with tempfile.TemporaryDirectory() as folder:
        check = ModelCheck(folder, np.random.default_rng(seed))
        while check.done.total() < operations:
            check.step()
        check.end_merge()
        check.end_save()
        assert_same(check.shard.view(), check.model)
        return check.done


class ModelCheck:
    """One shard, its model, and what was saved of both."""

    def __init__(self, folder: str, rng: np.random.Generator) -> None:
        self.done: Counter[str] = Counter()
        self.model = Model()
        self._folder = folder
        self._rng = rng
        self._newest_offset = 0
        self._saved: dict[int, Model] = {0: Model()}
        """Checkpoint → the model as of that snapshot."""
        self._kept: list[tuple[ShardView, Model]] = []
        self._merge: tuple[MergePlan, threading.Thread, list[MergeResult]] | None = None
        self._save: tuple[threading.Thread, Model] | None = None
        self._quantizer: CoarseQuantizer | None = None
        self._restore()

    def step(self) -> None:
        """One random thing, then a look whether shard and model still agree."""
        things = (
            (12, self._apply),
            (2, self.shard.seal),
            (2, self.shard.seal_full),
            (4, self._plan),
            (4, self.end_merge),
            (1, self._abandon),
            (1.5, self._begin_save),
            (1.5, self.end_save),
            (0.5, self._crash),
            (0.2, self._use_quantizer),
            (0.7, self._calibrate),
            (6, self._search),
            (2, self._search_lists),
            (1, self._keep_view),
        )
        weights = np.array([weight for weight, _ in things])
        thing = things[self._rng.choice(len(things), p=weights / weights.sum())][1]
        thing()
        if thing != self._apply:
            self.done[thing.__name__.strip("_")] += 1
        assert_same(self.shard.view(), self.model)
        for view, model in self._kept[-1:]:
            assert_same(view, model)

    def end_merge(self) -> None:
        """Install what was merged while records came."""
        if self._merge is not None:
            _, thread, results = self._merge
            thread.join()
            self.shard.install(results[0])
            self._merge = None

    def end_save(self) -> None:
        if self._save is not None:
            thread, model = self._save
            thread.join()
            self._saved[model.checkpoint] = model
            self._save = None

    def _apply(self) -> None:
        records = [self._record() for _ in range(self._rng.integers(0, 40))]
        self.model.checkpoint += len(records) + 1
        result = self.shard.apply(batch_of(records, self.model.checkpoint))
        before = len(self.model.held)
        for record in records:
            self.model.apply(record)
        assert result.inserted - result.deleted == len(self.model.held) - before

    def _record(self) -> Record:
        pin_id, look = int(self._rng.integers(1, PINS + 1)), int(self._rng.integers(LOOKS))
        chance = self._rng.random()
        self._newest_offset += 1
        offset = self._newest_offset
        if chance < 0.03:
            self.done["unconditional delete"] += 1
            return Record(pin_id, "unconditional", UNCONDITIONAL, look)
        if chance < 0.15:
            offset = max(0, offset - int(self._rng.integers(0, 2000)))
            self.done["stale replay"] += 1
        elif chance < 0.35:
            self.done["delete"] += 1
            return Record(pin_id, "delete", offset, look)
        else:
            self.done["re-upsert" if pin_id in self.model.held else "upsert"] += 1
        return Record(pin_id, "upsert", offset, look)

    def _plan(self) -> None:
        plan = self.shard.plan_merge()
        assert plan is None or self._merge is None
        if plan is None:
            return
        results: list[MergeResult] = []
        thread = threading.Thread(target=lambda: results.append(plan.run()))
        thread.start()
        self._merge = plan, thread, results

    def _abandon(self) -> None:
        if self._merge is not None:
            plan, thread, _ = self._merge
            thread.join()
            self.shard.abandon(plan)
            self._merge = None

    def _begin_save(self) -> None:
        self.end_save()
        capture, model = self.shard.capture(), self.model.copy()
        store = self._store

        def save() -> None:
            store.save(capture.state(), now_ms=0)
            store.retain()

        thread = threading.Thread(target=save)
        thread.start()
        self._save = thread, model

    def _crash(self) -> None:
        """Forget everything but the store, a merge under way as well; a snapshot under way arrives."""
        if self._merge is not None:
            self._merge[1].join()
            self._merge = None
        self.end_save()
        self._restore()

    def _restore(self) -> None:
        self._store = SnapshotStore(
            open_store(f"file://{self._folder}", {}, setting="test"), IDENTITY, keep=2, grace_s=0
        )
        restored = self._store.restore()
        assert not restored.set_aside
        self.shard = Shard(BITS, seal_rows=SEAL_ROWS, policy=POLICY, state=restored.state, quantizer=self._quantizer)
        assert self.shard.checkpoint == max(self._saved)
        self.model = self._saved[self.shard.checkpoint].copy()
        self._saved = {self.shard.checkpoint: self.model.copy()}
        self.done["restore"] += 1

    def _use_quantizer(self) -> None:
        centroid_CW = np.unique(np.stack([self._code() for _ in range(LISTS)]), axis=0)
        self._quantizer = CoarseQuantizer(centroid_CW)
        self.shard.use_quantizer(self._quantizer)

    def _calibrate(self) -> None:
        view = self.shard.view()
        grouped_rows = sum(one.live_rows for one in view.grouped)
        if view.stack is not None and grouped_rows:
            self.shard.use_calibration(calibrate(view, view.stack))

    def _search(self) -> None:
        """Exactly what the model says: ids and distances, ties to the lower id."""
        code_QW, k, where = self._question()
        found = self.shard.view().search(code_QW, k, where)
        for query, code_W in enumerate(code_QW):
            pairs = zip(found.distance_QK[query].tolist(), found.pin_id_QK[query].tolist(), strict=True)
            assert list(pairs) == self.model.nearest(code_W, k, where)

    def _search_lists(self) -> None:
        """Through the lists a Pin may be missed, but none is dead, doubled, foreign or at another distance."""
        code_QW, k, where = self._question()
        found = self.shard.view().search(code_QW, k, where, Effort(recall_target=0.9))
        for query, code_W in enumerate(code_QW):
            distances = {pin_id: distance for distance, pin_id in self.model.nearest(code_W, PINS, where)}
            distances.pop(PAD_PIN_ID, None)
            hits = found.pin_id_QK[query][found.pin_id_QK[query] != PAD_PIN_ID].tolist()
            assert len(hits) == len(set(hits)) == min(k, len(distances))
            assert found.distance_QK[query][: len(hits)].tolist() == [distances[pin_id] for pin_id in hits]

    def _keep_view(self) -> None:
        """A search may hold a view for long: it never changes."""
        for view, model in self._kept:
            assert_same(view, model)
        self._kept = [*self._kept, (self.shard.view(), self.model.copy())][-3:]

    def _question(self) -> tuple[np.ndarray, int, SearchFilter | None]:
        code_QW = np.stack([self._code() for _ in range(self._rng.integers(1, 4))])
        where = None
        if self._rng.random() < 0.4:
            domains = frozenset(self._rng.integers(0, 3, self._rng.integers(1, 3)).tolist())
            where = SearchFilter(domains, int(self._rng.integers(8)))
        return code_QW, int(self._rng.integers(1, 60)), where

    def _code(self) -> np.ndarray:
        """One of the few codes that records have, with a bit or two flipped."""
        code_W = Record(1, "upsert", 0, int(self._rng.integers(LOOKS))).code
        code_W[self._rng.integers(CODE_BYTES)] ^= 1 << self._rng.integers(8)
        return code_W
