"""Searches through inverted lists: exact when they read every list, close to it at a recall target, live rows only."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from index_sync.calibration import Calibration, Effort, needs_again
from index_sync.code_batch import CodeBatch
from index_sync.faiss_quantizer import CoarseQuantizer, train_quantizer
from index_sync.faiss_segment import SealedSegment
from index_sync.grouping import calibrate, sample_codes
from index_sync.pin_lookup import PinLookup
from index_sync.searcher import Searcher
from index_sync.segment import CodeRows, SearchFilter
from index_sync.shard import Shard
from index_sync.snapshot_files import read_segment, read_state, write_segment, write_state
from index_sync.top_k import PAD_PIN_ID, Neighbors
from pinstream.errors import CorruptStateError

BITS = 256
LISTS = 32
ROWS = 12_000
K = 20


def clustered_codes(count: int, seed: int) -> np.ndarray:
    """uint8 [count, 32]: signs of a projection of overlapping clusters."""
    centre_rng, rng = np.random.default_rng(0), np.random.default_rng(seed)
    projection = centre_rng.standard_normal((16, BITS))
    centre = centre_rng.standard_normal((60, 16))
    z = centre[rng.integers(0, 60, count)] + 0.6 * rng.standard_normal((count, 16))
    return np.packbits(z @ projection > 0, axis=1, bitorder="little")


def batch(pin_id: np.ndarray, code_NW: np.ndarray, start: int, *, delete: bool = False) -> CodeBatch:
    count = len(pin_id)
    return CodeBatch(
        pin_id=pin_id.astype(np.int64),
        source_offset=np.arange(start, start + count, dtype=np.int64),
        event_time_ms=np.zeros(count, dtype=np.int64),
        domain=(pin_id % 3).astype(np.uint8),
        flags=(pin_id % 4).astype(np.uint32),
        is_delete=np.full(count, delete),
        code_NW=code_NW,
        next_offset=start + count,
    )


def merge_all(shard: Shard) -> None:
    while (plan := shard.plan_merge()) is not None:
        shard.install(plan.run())


@pytest.fixture(scope="module")
def quantizer() -> CoarseQuantizer:
    return train_quantizer(clustered_codes(64 * LISTS, 1), LISTS)


@pytest.fixture(scope="module")
def shard(quantizer: CoarseQuantizer) -> Shard:
    """Several grouped segments, one of a later quantizer than its rows, tombstones everywhere, a fresh segment."""
    shard = Shard(BITS, seal_rows=2000)
    code_NW = clustered_codes(ROWS, 2)
    pin_id = np.random.default_rng(3).permutation(ROWS) + 1
    for start in range(0, ROWS, 1000):
        if start == ROWS // 2:
            merge_all(shard)
            shard.use_quantizer(quantizer)
        shard.apply(batch(pin_id[start : start + 1000], code_NW[start : start + 1000], start))
        shard.seal_full()
        if start % 3000 == 0:
            merge_all(shard)
    merge_all(shard)
    shard.apply(batch(pin_id[::10], code_NW[::10], ROWS, delete=True))
    shard.apply(batch(pin_id[5:3000:30], clustered_codes(100, 4), ROWS + 2000))
    view = shard.view()
    assert view.stack is not None and len(view.stack.segments) > 1
    assert not view.segments[-1].segment.is_sealed and view.segments[-1].live_rows
    shard.use_calibration(calibrate(view, view.stack))
    return shard


def same(found: Neighbors, expected: Neighbors) -> None:
    np.testing.assert_array_equal(found.distance_QK, expected.distance_QK)
    np.testing.assert_array_equal(found.pin_id_QK, expected.pin_id_QK)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("where", [None, SearchFilter(frozenset({1}), 0), SearchFilter(None, 2)])
def test_reading_every_list_is_exact(
    shard: Shard, threads: int, where: SearchFilter | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_sync.shard_view._FEW_MATCHES", 0)  # so that filtered searches read lists too
    monkeypatch.setattr("index_sync.shard_view._MIN_SCAN_ROWS", 100)  # so that lists are shared out over the threads
    query_QW = clustered_codes(7, 5)
    searcher = Searcher(threads)
    for queries in (query_QW, query_QW[:1]):
        found = searcher.search([shard.view()], queries, K, where, Effort(probes=LISTS))
        same(found, shard.view().search(queries, K, where))
    searcher.close()


def test_the_recall_target_is_reached_by_reading_a_part(shard: Shard) -> None:
    query_QW = clustered_codes(300, 6)
    view = shard.view()
    exact = view.search(query_QW, K)
    found = view.search(query_QW, K, effort=Effort(recall_target=0.95))
    recall = (found.distance_QK <= exact.distance_QK[:, -1:]).mean()
    assert 0.95 <= recall < 1
    lower = view.search(query_QW, K, effort=Effort(recall_target=0.6))
    assert (lower.distance_QK <= exact.distance_QK[:, -1:]).mean() < recall


def test_k_rows_come_back_whenever_they_live(shard: Shard) -> None:
    query_QW = clustered_codes(3, 7)
    view = shard.view()
    for k, where in ((3000, None), (500, SearchFilter(frozenset({2}), 3)), (view.live_rows, None)):
        found = view.search(query_QW, k, where, Effort(probes=1))
        exact = view.search(query_QW, k, where)
        np.testing.assert_array_equal(found.pin_id_QK == PAD_PIN_ID, exact.pin_id_QK == PAD_PIN_ID)


def test_no_dead_row_is_found(shard: Shard) -> None:
    living = set(shard.view().ids().tolist())
    found = shard.view().search(clustered_codes(50, 8), 200, effort=Effort(0.9))
    assert set(found.pin_id_QK[found.pin_id_QK != PAD_PIN_ID].tolist()) <= living


def test_rows_keep_their_lists_through_merges(shard: Shard, quantizer: CoarseQuantizer) -> None:
    for one in shard.view().segments[:-1]:
        assert isinstance(one.segment, SealedSegment)
        np.testing.assert_array_equal(one.segment.cells(), quantizer.assign(one.segment.rows.code_NW))


def test_a_grouped_segment_survives_its_file(shard: Shard) -> None:
    segment = shard.view().segments[0].segment
    assert isinstance(segment, SealedSegment)
    content = np.frombuffer(b"".join(write_segment(segment, BITS)), dtype=np.uint8)
    again = read_segment(content, BITS, "again")
    np.testing.assert_array_equal(again.rows.code_NW, segment.rows.code_NW)
    np.testing.assert_array_equal(again.list_end, segment.list_end)
    assert again.quantizer == segment.quantizer


def test_a_restored_shard_searches_by_lists_at_once(shard: Shard, quantizer: CoarseQuantizer) -> None:
    state = shard.capture().state()
    content = np.frombuffer(b"".join(write_state(state, BITS)), dtype=np.uint8)
    again = read_state(content, BITS, [one.segment for one in state.sealed], state.checkpoint, None)
    restored = Shard(BITS, state=again)
    restored.use_quantizer(quantizer)
    before, after = shard.view(), restored.view()
    assert before.calibration is not None and after.calibration is not None
    np.testing.assert_array_equal(after.calibration.recall_ppm_DM, before.calibration.recall_ppm_DM)
    assert (after.calibration.rows, after.calibration.quantizer) == (before.calibration.rows, quantizer.digest)
    query_QW = clustered_codes(5, 9)
    found, expected = (view.search(query_QW, K, effort=Effort(0.9)) for view in (after, before))
    np.testing.assert_array_equal(found.pin_id_QK, expected.pin_id_QK)
    restored.use_quantizer(train_quantizer(clustered_codes(64 * LISTS, 99), LISTS))
    assert restored.view().calibration is None


@pytest.mark.parametrize("damage", ["depths", "margins", "rows", "quantizer"])
def test_a_calibration_that_cannot_be_is_refused(shard: Shard, damage: str) -> None:
    state = shard.capture().state()
    assert state.calibration is not None
    damaged = {
        "depths": replace(state.calibration, recall_ppm_DM=state.calibration.recall_ppm_DM[:-1]),
        "margins": replace(state.calibration, recall_ppm_DM=state.calibration.recall_ppm_DM[:, :0]),
        "rows": replace(state.calibration, rows=0),
        "quantizer": replace(state.calibration, quantizer=b"short"),
    }[damage]
    content = np.frombuffer(b"".join(write_state(replace(state, calibration=damaged), BITS)), dtype=np.uint8)
    with pytest.raises(CorruptStateError, match="calibration"):
        read_state(content, BITS, [one.segment for one in state.sealed], state.checkpoint, None)


@pytest.mark.parametrize("damage", ["short", "descending", "empty", "no quantizer"])
def test_lists_that_do_not_cover_the_rows_are_refused(shard: Shard, damage: str) -> None:
    segment = shard.view().segments[0].segment
    assert isinstance(segment, SealedSegment) and segment.list_end is not None
    end = segment.list_end.copy()
    if damage == "short":
        end[-1] -= 1
    elif damage == "descending":
        end[3] = end[2] - 1
    elif damage == "empty":
        end = end[:0]
    with pytest.raises(CorruptStateError):
        SealedSegment("x", segment.rows, end, None if damage == "no quantizer" else segment.quantizer)


def test_the_lists_of_a_dropped_view_are_released_without_harm(quantizer: CoarseQuantizer) -> None:
    for seed in range(3):
        shard = Shard(BITS, seal_rows=64, quantizer=quantizer)
        shard.apply(batch(np.arange(1, 501), clustered_codes(500, seed), 0))
        shard.seal()
        merge_all(shard)
        view = shard.view()
        del shard
        gc.collect()
        assert view.search(clustered_codes(1, 9), 5, effort=Effort(probes=LISTS)).pin_id_QK.min() > 0
        del view
        gc.collect()


def test_lookup_finds_rows_in_any_order() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 31, 32, 33, 1000):
        pin_id = rng.choice(5000, count, replace=False).astype(np.int64) + 1
        wanted = rng.integers(0, 6000, 3000)
        expected = {pin: row for row, pin in enumerate(pin_id.tolist())}
        found = PinLookup(pin_id).rows(wanted)
        assert found.tolist() == [expected.get(pin, -1) for pin in wanted.tolist()]
    with pytest.raises(ValueError, match="twice"):
        PinLookup(np.array([3, 1, 3]))


def test_sampling_takes_only_living_rows(shard: Shard) -> None:
    view = shard.view()
    living = {row.code_NW[i].tobytes() for row in view.items() for i in range(len(row))}
    sample = sample_codes(view, 500, np.random.default_rng(0))
    assert len(sample) == 500 and {code.tobytes() for code in sample} <= living


def test_a_calibration_is_outgrown_by_a_quarter() -> None:
    calibration = Calibration(np.zeros((7, 9), np.uint32), 1000, b"")
    assert [needs_again(calibration, rows) for rows in (790, 810, 1240, 1260)] == [True, False, False, True]
    assert needs_again(None, 1)


def test_quantizer_is_the_same_again_and_says_what_it_needs() -> None:
    sample = clustered_codes(500, 1)
    assert train_quantizer(sample, 8).digest == train_quantizer(sample, 8).digest
    with pytest.raises(ValueError, match="5 codes for 8 lists"):
        train_quantizer(sample[:5], 8)
    rows = CodeRows.empty(0, 32)
    with pytest.raises(CorruptStateError, match="no rows"):
        SealedSegment("x", rows)
