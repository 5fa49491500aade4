"""A shard is the fold of its records, whatever comes in whatever order, and whoever looks whenever.

The model applies records one by one to dicts; ids, bytes and search results must agree after every step, in views
that are kept while the shard goes on, and after a crash in the state of the last snapshot.
"""

from __future__ import annotations

import tempfile
from unittest import mock

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from index_sync.checkpoint import ShardIdentity
from index_sync.code_batch import UNCONDITIONAL
from index_sync.merge import MergePlan
from index_sync.merge_policy import MergePolicy
from index_sync.segment import SearchFilter
from index_sync.shard import Shard
from index_sync.shard_view import ShardView
from index_sync.store_snapshot import SnapshotStore
from pinstream.object_store import open_store
from tests.shard_model import BITS, Model, Record, assert_same, batch_of

SEAL_ROWS = 5
IDENTITY = ShardIdentity(topic="codes.v1.0123456789ab", partition=0, partitions=1, bits=BITS, model="0" * 64)


RECORDS = st.lists(
    st.tuples(
        st.integers(1, 12),
        st.sampled_from(["upsert", "upsert", "upsert", "delete", "unconditional"]),
        st.one_of(st.none(), st.none(), st.integers(0, 40)),
        st.integers(0, 23),
    ),
    max_size=14,
)
"""(Pin id, kind, None for a new source offset or how far back it lies, look)"""


class ShardMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.policy = MergePolicy(fan_in=2, max_dead_share=0.5, max_merged_rows=30, tier_floor_rows=SEAL_ROWS)
        self.model = Model()
        self.saved = Model()
        self.newest_offset = 0
        self.plan: MergePlan | None = None
        self.kept: list[tuple[ShardView, Model]] = []
        self.restart()

    def restart(self) -> None:
        self.store = SnapshotStore(
            open_store(f"file://{self.folder.name}", {}, setting="test"), IDENTITY, keep=2, grace_s=0
        )
        restored = self.store.restore()
        assert not restored.set_aside
        self.shard = Shard(BITS, seal_rows=SEAL_ROWS, policy=self.policy, state=restored.state)
        self.plan = None

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(data=RECORDS)
    def apply(self, data: list[tuple[int, str, int | None, int]]) -> None:
        records = []
        for pin_id, kind, back, look in data:
            self.newest_offset += back is None
            offset = self.newest_offset if back is None else max(0, self.newest_offset - back)
            records.append(Record(pin_id, kind, UNCONDITIONAL if kind == "unconditional" else offset, look))
        self.model.checkpoint += len(records) + 1
        result = self.shard.apply(batch_of(records, self.model.checkpoint))
        before = len(self.model.held)
        for record in records:
            self.model.apply(record)
        counts = (result.inserted, result.updated, result.deleted, result.absent, result.superseded, result.stale)
        assert sum(counts) == len(records)
        assert min(counts) >= 0
        assert result.inserted - result.deleted == len(self.model.held) - before

    @rule()
    def seal(self) -> None:
        self.shard.seal()

    @precondition(lambda self: self.plan is None)
    @rule()
    def plan_merge(self) -> None:
        self.plan = self.shard.plan_merge()
        if self.plan is not None:
            assert self.shard.plan_merge() is None

    @precondition(lambda self: self.plan is not None)
    @rule(gives_up=st.sampled_from([False, False, False, True]))
    def end_merge(self, gives_up: bool) -> None:
        assert self.plan is not None
        if gives_up:
            self.shard.abandon(self.plan)
        else:
            self.shard.install(self.plan.run())
        self.plan = None

    @precondition(lambda self: self.plan is None)
    @rule(before=RECORDS, meanwhile=RECORDS)
    def apply_while_a_merge_runs(
        self, before: list[tuple[int, str, int | None, int]], meanwhile: list[tuple[int, str, int | None, int]]
    ) -> None:
        self.apply(before)
        self.shard.seal()
        plan = self.shard.plan_merge()
        self.apply(meanwhile)
        if plan is not None:
            self.shard.install(plan.run())

    @rule()
    def keep_view(self) -> None:
        self.kept = [*self.kept, (self.shard.view(), self.model.copy())][-3:]

    @rule()
    def save(self) -> None:
        self.store.save(self.shard.capture().state(), now_ms=0)
        self.store.retain()
        self.saved = self.model.copy()

    @rule()
    def crash(self) -> None:
        self.restart()
        self.model = self.saved.copy()

    @rule(
        looks=st.lists(st.integers(0, 23), min_size=1, max_size=3),
        k=st.integers(1, 15),
        where=st.one_of(
            st.none(),
            st.builds(
                SearchFilter,
                st.one_of(st.none(), st.frozensets(st.integers(0, 2))),
                st.integers(0, 7),
            ),
        ),
    )
    def search(self, looks: list[int], k: int, where: SearchFilter | None) -> None:
        code_QW = np.array([Record(1, "upsert", 0, look).code for look in looks])
        found = self.shard.view().search(code_QW, k, where)
        for query, code_W in enumerate(code_QW):
            pairs = zip(found.distance_QK[query].tolist(), found.pin_id_QK[query].tolist(), strict=True)
            assert list(pairs) == self.model.nearest(code_W, k, where)

    @rule(pin_ids=st.lists(st.integers(1, 14), min_size=1))
    def get(self, pin_ids: list[int]) -> None:
        view = self.shard.view()
        found = view.get_many(np.array(pin_ids, dtype=np.int64))
        assert found.keys() == self.model.held.keys() & set(pin_ids)
        assert (view.get(pin_ids[0]) is None) == (pin_ids[0] not in found)
        for pin_id, row in found.items():
            held = self.model.held[pin_id]
            assert row.pin_id == pin_id
            assert (row.source_offset, row.domain, row.flags) == (held.source_offset, held.domain, held.flags)
            assert row.code_W.tobytes() == held.code.tobytes()

    @invariant()
    def equals_the_fold(self) -> None:
        if hasattr(self, "shard"):
            assert_same(self.shard.view(), self.model)

    @invariant()
    def old_views_never_change(self) -> None:
        for view, model in getattr(self, "kept", []):
            assert_same(view, model)


class _RebasingMachine(ShardMachine):
    """The same with sequences that start again every few applies."""

    @initialize()
    def start(self) -> None:
        self.patch = mock.patch("index_sync.shard.REBASE_SEQUENCE", 3)
        self.patch.start()
        super().start()

    def teardown(self) -> None:
        self.patch.stop()
        super().teardown()


TestShard = ShardMachine.TestCase
TestShard.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestRebasingShard = _RebasingMachine.TestCase
TestRebasingShard.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
