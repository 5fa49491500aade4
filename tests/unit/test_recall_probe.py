"""Live searches are judged by the very views that they saw, filters included, and never wait for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import uuid4

import numpy as np
import pytest
from prometheus_client import REGISTRY

import index_sync.recall_probe
from index_sync.calibration import Effort
from index_sync.code_batch import CodeBatch
from index_sync.recall_probe import MAX_QUEUED, RecallProbe, exact_distances
from index_sync.segment import SearchFilter
from index_sync.shard import Shard
from index_sync.top_k import PAD_DISTANCE, Neighbors
from tests.conftest import wait_for

BITS = 256
OWN = Effort(0.99)
RANDOM = np.random.default_rng(5)


def batch(pin_id: list[int], offset: int, *, delete: bool = False) -> CodeBatch:
    count = len(pin_id)
    return CodeBatch(
        pin_id=np.array(pin_id, dtype=np.int64),
        source_offset=np.arange(offset, offset + count),
        event_time_ms=np.zeros(count, dtype=np.int64),
        domain=np.array([pin % 3 for pin in pin_id], dtype=np.uint8),
        flags=np.array([pin % 4 for pin in pin_id], dtype=np.uint32),
        is_delete=np.full(count, delete),
        code_NW=RANDOM.integers(0, 256, (count, BITS // 8), dtype=np.uint8),
        next_offset=offset + count,
    )


def sealed_and_fresh() -> Shard:
    shard = Shard(BITS, seal_rows=300)
    shard.apply(batch(list(range(1, 1001)), 0))
    shard.seal()
    plan = shard.plan_merge()
    assert plan is not None
    shard.install(plan.run())
    shard.apply(batch(list(range(1, 1001, 7)), 5000, delete=True))
    shard.apply(batch(list(range(2, 1001, 9)), 6000))
    return shard


@pytest.mark.parametrize("where", [None, SearchFilter(frozenset({1}), 2), SearchFilter(frozenset({2}), 0)])
@pytest.mark.parametrize("k", [1, 10, 2000])
def test_exact_distances_are_those_of_a_plain_scan(where: SearchFilter | None, k: int) -> None:
    views = [sealed_and_fresh().view(), sealed_and_fresh().view()]
    query = RANDOM.integers(0, 256, BITS // 8, dtype=np.uint8)
    plain = []
    for view in views:
        for rows in view.items():
            keep = np.ones(len(rows), dtype=bool) if where is None else where.matches(rows.domain, rows.flags)
            plain += np.bitwise_count(rows.code_NW[keep] ^ query).sum(axis=1).tolist()
    expected = (sorted(plain) + [PAD_DISTANCE] * k)[:k]
    assert exact_distances(views, query, k, where).tolist() == expected


class Metrics:
    """What the probe of one generation has published."""

    def __init__(self) -> None:
        self.generation = uuid4().hex[:12]
        self._checked = 0

    def wait_for_one_more(self) -> None:
        self._checked += 1
        wait_for(lambda: self.samples("checked") == self._checked, "the search is checked")

    def samples(self, outcome: str) -> float:
        labels = {"generation": self.generation, "outcome": outcome}
        return REGISTRY.get_sample_value("pinstream_index_recall_samples_total", labels) or 0

    def __call__(self, name: str) -> float | None:
        return REGISTRY.get_sample_value(f"pinstream_index_{name}", {"generation": self.generation})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def probe(metrics: Metrics) -> Iterator[RecallProbe]:
    """One that checks every search for which it has room."""
    probe = RecallProbe(metrics.generation, 1e9, OWN)
    probe._gate._credit_s = 1.0
    probe.start()
    yield probe
    probe.stop()


def search(
    shard: Shard,
    probe: RecallProbe,
    k: int = 10,
    where: SearchFilter | None = None,
    lose: int = 0,
    effort: Effort | None = OWN,
) -> None:
    """A search through the probe; `lose` of the nearest are not in its answer, as an approximate one may do it."""
    code_QW = RANDOM.integers(0, 256, (4, BITS // 8), dtype=np.uint8)
    view = shard.view()
    found = view.search(code_QW, 32, where)
    found = Neighbors(np.roll(found.distance_QK, -lose, axis=1), np.roll(found.pin_id_QK, -lose, axis=1))
    if lose:
        found.distance_QK[:, -lose:] = PAD_DISTANCE
    shard.apply(batch(list(range(1, 1001)), 10_000 + view.checkpoint))  # what comes after the search is no miss
    probe.offer([view], code_QW, [k] * 4, where, effort, found, 0.01)


def test_an_exact_search_has_recall_1(probe: RecallProbe, metrics: Metrics) -> None:
    shard = sealed_and_fresh()
    for where in (None, SearchFilter(frozenset({1}), 2), SearchFilter(frozenset({9}))):
        search(shard, probe, where=where)
        metrics.wait_for_one_more()
    wait_for(lambda: metrics("recall_at_k") == 1.0, "gauge")
    assert metrics("recall_neighbors_checked_total") == 20, "a search with nothing to find counts for nothing"
    assert metrics("recall_neighbors_missed_total") == 0


def test_who_asks_for_another_effort_is_not_counted(probe: RecallProbe, metrics: Metrics) -> None:
    shard = sealed_and_fresh()
    for effort in (None, Effort(0.5), Effort(0.99, probes=1)):
        search(shard, probe, lose=10, effort=effort)
    search(shard, probe)
    metrics.wait_for_one_more()
    assert metrics("recall_neighbors_missed_total") == 0


def test_what_a_search_leaves_out_is_counted(probe: RecallProbe, metrics: Metrics) -> None:
    shard = sealed_and_fresh()
    for _ in range(5):
        search(shard, probe, k=10, lose=3)
        metrics.wait_for_one_more()
    checked, missed = metrics("recall_neighbors_checked_total"), metrics("recall_neighbors_missed_total")
    assert checked == 50
    assert missed is not None and 5 <= missed <= 15, "3 of 10 each, less where the next ones are as near"
    wait_for(lambda: metrics("recall_at_k") == pytest.approx(1 - missed / checked), "gauge")


def test_a_search_never_waits_and_few_views_are_kept(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(*_: object) -> object:
        entered.set()
        assert leave.wait(30)
        raise RuntimeError("planted")

    monkeypatch.setattr(index_sync.recall_probe, "exact_distances", slow)
    probe = RecallProbe(metrics.generation, 1e9, OWN)
    probe._gate._credit_s = 1.0
    probe.start()
    shard = sealed_and_fresh()
    search(shard, probe)
    assert entered.wait(30)
    for _ in range(10):
        search(shard, probe)
    assert metrics.samples("dropped") == 10 - MAX_QUEUED
    leave.set()
    wait_for(lambda: metrics.samples("failed") == 1 + MAX_QUEUED, "failures counted, thread alive")
    assert metrics("recall_at_k") is None, "not known is absent"
    probe.stop()
    assert not probe._thread or not probe._thread.is_alive()


def test_rate_0_has_no_thread_and_no_series(metrics: Metrics) -> None:
    probe = RecallProbe(metrics.generation, 0, OWN)
    probe.start()
    search(sealed_and_fresh(), probe)
    probe.stop()
    assert metrics("recall_neighbors_checked_total") is None
