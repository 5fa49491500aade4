"""Searches at sizes where the over-fetch, the filter and the exact fall-back all come into play."""

from __future__ import annotations

import numpy as np
import pytest

from index_sync.code_batch import CodeBatch
from index_sync.searcher import Searcher
from index_sync.segment import SearchFilter
from index_sync.shard import Shard

BITS, CODE_BYTES, ROWS = 256, 32, 20_000


def batch(pin_id: np.ndarray, code_NW: np.ndarray, start: int, *, delete: bool = False) -> CodeBatch:
    count = len(pin_id)
    return CodeBatch(
        pin_id=pin_id.astype(np.int64),
        source_offset=np.arange(start, start + count),
        event_time_ms=np.zeros(count, dtype=np.int64),
        domain=(pin_id % 3).astype(np.uint8),
        flags=np.where(pin_id % 1000 == 0, 3, 1).astype(np.uint32),
        is_delete=np.full(count, delete),
        code_NW=code_NW,
        next_offset=start + count,
    )


def shard_of(random: np.random.Generator, *, clustered: bool, sealed: bool) -> tuple[Shard, dict[int, np.ndarray]]:
    """20,000 Pins; half of them updated and a fifth deleted, the nearest ones to code 0 first if clustered."""
    code_NW = random.integers(0, 4 if clustered else 256, (ROWS, CODE_BYTES), dtype=np.uint8)
    pin_id = random.permutation(ROWS * 10)[:ROWS] + 1
    shard = Shard(BITS, seal_rows=6_000)
    shard.apply(batch(pin_id, code_NW, 0))
    model = dict(zip(pin_id.tolist(), code_NW, strict=True))
    updated = pin_id[: ROWS // 2]
    newer_NW = np.bitwise_xor(code_NW[: ROWS // 2], 1)
    shard.apply(batch(updated, newer_NW, ROWS))
    model.update(zip(updated.tolist(), newer_NW, strict=True))
    distance = {pin: int(np.bitwise_count(code).sum()) for pin, code in model.items()}
    gone = np.array(sorted(model, key=distance.__getitem__)[: ROWS // 5] if clustered else pin_id[: ROWS // 5])
    shard.apply(batch(gone, np.zeros((len(gone), CODE_BYTES), dtype=np.uint8), 2 * ROWS, delete=True))
    for pin in gone.tolist():
        del model[pin]
    if sealed:
        shard.seal()
        while (plan := shard.plan_merge()) is not None:
            shard.install(plan.run())
    return shard, model


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("clustered", [False, True], ids=["spread", "the nearest are dead"])
def test_k_live_results_whenever_k_live_pins_match(clustered: bool, sealed: bool) -> None:
    random = np.random.default_rng(5)
    shard, model = shard_of(random, clustered=clustered, sealed=sealed)
    pin_id = np.array(sorted(model))
    code_NW = np.array([model[pin] for pin in pin_id.tolist()])
    code_QW = np.concatenate((np.zeros((1, CODE_BYTES), dtype=np.uint8), code_NW[:2]))
    searcher = Searcher(threads=2)
    filters = [None, SearchFilter(frozenset({1})), SearchFilter(flags=2), SearchFilter(frozenset({0, 2}), 2)]
    for where in [*filters, SearchFilter(frozenset())]:
        fits = np.ones(len(pin_id), dtype=bool)
        if where is not None and where.domains is not None:
            fits &= np.isin(pin_id % 3, list(where.domains))
        if where is not None and where.flags:
            fits &= pin_id % 1000 == 0
        for k in (1, 10, 3000, 20_000):
            found = searcher.search([shard.view()], code_QW, k, where)
            for query, code_W in enumerate(code_QW):
                distance = np.bitwise_count(code_NW[fits] ^ code_W).sum(axis=1, dtype=np.int32)
                order = np.lexsort((pin_id[fits], distance))[:k]
                assert found.pin_id_QK[query, : len(order)].tolist() == pin_id[fits][order].tolist()
                assert found.distance_QK[query, : len(order)].tolist() == distance[order].tolist()
                assert (found.pin_id_QK[query, len(order) :] == -1).all()
    searcher.close()


def test_identical_codes_come_in_pin_id_order() -> None:
    shard = Shard(BITS, seal_rows=1000)
    pin_id = np.random.default_rng(0).permutation(2500) + 1
    for start in range(0, 2500, 10):  # a batch is appended in Pin id order, so one batch would prove nothing
        shard.apply(batch(pin_id[start : start + 10], np.zeros((10, CODE_BYTES), dtype=np.uint8), start))
    found = shard.view().search(np.zeros((1, CODE_BYTES), dtype=np.uint8), 40)
    assert found.pin_id_QK[0].tolist() == list(range(1, 41))


def test_an_older_upsert_that_comes_again_does_not_bring_a_pin_back() -> None:
    """At least once after a crash: upsert@10, delete@11, upsert@10, delete@11. Also after merges dropped the row."""
    shard = Shard(BITS, seal_rows=10)
    one, code_NW = np.array([5]), np.ones((1, CODE_BYTES), dtype=np.uint8)
    shard.apply(batch(one, code_NW, 10))
    shard.apply(batch(one, code_NW, 11, delete=True))
    shard.seal()
    while (plan := shard.plan_merge()) is not None:
        shard.install(plan.run())
    assert shard.view().segments[0].row_count == 0
    assert shard.apply(batch(one, code_NW, 10)).stale == 1
    assert shard.view().get(5) is None
    assert shard.apply(batch(one, code_NW, 11, delete=True)).stale == 1
    assert shard.apply(batch(one, code_NW, 12)).inserted == 1


@pytest.mark.parametrize(
    ("code_QW", "k"),
    [
        (np.zeros((1, CODE_BYTES), dtype=np.uint8), 0),
        (np.zeros((1, CODE_BYTES + 1), dtype=np.uint8), 1),
        (np.zeros(CODE_BYTES, dtype=np.uint8), 1),
        (np.zeros((1, CODE_BYTES), dtype=np.int8), 1),
        (np.zeros((2, CODE_BYTES * 2), dtype=np.uint8)[:, ::2], 1),
    ],
)
def test_a_query_that_does_not_fit_is_refused(code_QW: np.ndarray, k: int) -> None:
    with pytest.raises(ValueError):
        Shard(BITS).view().search(code_QW, k)
