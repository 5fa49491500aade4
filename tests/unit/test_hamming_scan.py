"""The compiled scans find what plain numpy and FAISS find, ties included, for every code length and filter."""

from __future__ import annotations

import subprocess
import sys

import faiss
import numpy as np
import pytest

from index_sync.faiss_scan import distances
from index_sync.hamming_scan import choose_lists, nearest_centroid, scan_lists, scan_rows
from index_sync.segment import ALIVE, CodeRows, SearchFilter
from index_sync.top_k import PAD_DISTANCE, PAD_PIN_ID, Candidates, Neighbors, best_of

SEQUENCE = 5
WHERE = (None, SearchFilter(frozenset({1, 200})), SearchFilter(flags=0x80_0001), SearchFilter(frozenset({0}), 1))


class World:
    """Rows of few different codes, so that most distances come often; some dead at SEQUENCE, some later."""

    def __init__(self, rows: int, bits: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        code = np.zeros((rows + 6, bits // 8), dtype=np.uint8)
        code[:, rng.integers(0, bits // 8, 6)] = rng.integers(0, 256, (rows + 6, 6), dtype=np.uint8)
        code[rng.random(rows + 6) < 0.1] ^= 0xFF
        self.rows = CodeRows.empty(rows, bits // 8)
        self.rows.code_NW[:] = code[:rows]
        self.code_QW = code[rows:]
        self.rows.pin_id[:] = rng.permutation(rows) + 1
        self.rows.domain[:] = rng.choice([0, 1, 200], rows)
        self.rows.flags[:] = rng.choice([0, 1, 0x80_0001], rows)
        self.died_at = rng.choice(np.array([0, SEQUENCE, SEQUENCE + 1, ALIVE], dtype=np.uint32), rows)

    def expected(self, k: int, where: SearchFilter | None, row_N: np.ndarray) -> Neighbors:
        """By counting with numpy."""
        good = self.died_at[row_N] > SEQUENCE
        if where is not None:
            good &= where.matches(self.rows.domain[row_N], self.rows.flags[row_N])
        rows = self.rows[row_N[good]]
        differing = self.code_QW[:, None] ^ rows.code_NW
        distance_QN = np.bitwise_count(differing).sum(axis=2, dtype=np.int32)
        return best_of(distance_QN, np.broadcast_to(rows.pin_id, distance_QN.shape), k)


def assert_same(found: Candidates, k: int, expected: Neighbors) -> None:
    best = best_of(found.distance_QK, found.pin_id_QK, k)
    np.testing.assert_array_equal(best.distance_QK, expected.distance_QK)
    np.testing.assert_array_equal(best.pin_id_QK, expected.pin_id_QK)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("k", [1, 7, 500])
@pytest.mark.parametrize("bits", [256, 320, 512, 1088, 2048, 2112, 4096])
def test_rows_come_as_numpy_finds_them(bits: int, k: int, where: SearchFilter | None) -> None:
    world = World(300, bits, seed=bits + k)
    heap = Candidates.none(len(world.code_QW), k)
    for first, end in ((3, 120), (120, 121), (121, 121), (121, 298)):
        scan_rows(world.code_QW, world.rows, world.died_at, SEQUENCE, where, first, end, heap)
    assert_same(heap, k, world.expected(k, where, np.arange(3, 298)))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("ways", [1, 2, 3])
def test_lists_come_as_numpy_finds_them(ways: int, where: SearchFilter | None) -> None:
    world, rng = World(600, 512), np.random.default_rng(ways)
    list_end_C = np.sort(rng.integers(0, 601, 40))
    list_end_C[[5, 6]], list_end_C[-1] = list_end_C[4], 600
    cell_QC = np.full((6, 40), -1, dtype=np.int32)
    for query, lists in enumerate((0, 1, 5, 20, 39, 40)):
        cell_QC[query, :lists] = rng.permutation(40)[:lists]
    by_list, by_query = Candidates.none(6, 9), Candidates.none(6, 9)
    for way in range(ways):
        for heap, share in ((by_list, (0, 6, way, ways)), (by_query, (6 * way // ways, 6 * (way + 1) // ways, 0, 1))):
            scan_lists(world.code_QW, world.rows, world.died_at, SEQUENCE, where, list_end_C, cell_QC, share, heap)
    cell_N = np.searchsorted(list_end_C, np.arange(600), side="right")
    for query in range(6):
        read = np.flatnonzero(np.isin(cell_N, cell_QC[query][cell_QC[query] >= 0]))
        expected = world.expected(9, where, read)
        for heap in (by_list, by_query):
            best = best_of(heap.distance_QK, heap.pin_id_QK, 9)
            np.testing.assert_array_equal(best.pin_id_QK[query], expected.pin_id_QK[query])
            np.testing.assert_array_equal(best.distance_QK[query], expected.distance_QK[query])


def test_a_heap_that_nothing_fills_is_padded() -> None:
    world = World(4, 256)
    heap = Candidates.none(6, 3)
    scan_rows(world.code_QW, world.rows, np.zeros(4, np.uint32), SEQUENCE, None, 0, 4, heap)
    assert (heap.distance_QK == PAD_DISTANCE).all() and (heap.pin_id_QK == PAD_PIN_ID).all()


def test_distances_are_those_of_faiss() -> None:
    rng = np.random.default_rng(1)
    code_NW, code_QW = (rng.integers(0, 256, (count, 256), dtype=np.uint8) for count in (5000, 4))
    rows = CodeRows.empty(5000, 256)
    rows.code_NW[:], rows.domain[:], rows.flags[:] = code_NW, 0, 0
    rows.pin_id[:] = np.arange(5000)
    heap = Candidates.none(4, 50)
    scan_rows(code_QW, rows, np.full(5000, ALIVE, np.uint32), 0, None, 0, 5000, heap)
    distance_QK, row_QK = faiss.knn_hamming(code_QW, code_NW, 50)
    assert_same(heap, 50, Neighbors(distance_QK, row_QK))


@pytest.mark.parametrize("lists", [1, 50, 333])
def test_lists_are_chosen_nearest_first(lists: int) -> None:
    world = World(lists, 320)
    centroid_CW, code_QW = world.rows.code_NW, world.code_QW
    distance_QC = np.stack([distances(code_W, centroid_CW) for code_W in code_QW])
    order_QC = np.argsort(distance_QC, axis=1, kind="stable")
    sorted_QC = np.take_along_axis(distance_QC, order_QC, axis=1)
    choices = [({"margin": margin}, sorted_QC[:, :1] + margin) for margin in (0, 3, 40, 320)]
    choices += [({"probes": count}, sorted_QC[:, min(count, lists) - 1, None]) for count in (1, 9, lists, lists + 7)]
    for wanted, limit_Q1 in choices:
        expected_QC = np.where(sorted_QC <= limit_Q1, order_QC, -1)
        np.testing.assert_array_equal(choose_lists(code_QW, centroid_CW, **wanted), expected_QC)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 100])
def test_codes_go_to_the_first_of_the_nearest_centroids(count: int) -> None:
    world = World(40, 576)
    code_NW = World(count, 576, seed=1).rows.code_NW if count else world.code_QW[:0]
    expected = [int(distances(code_W, world.rows.code_NW).argmin()) for code_W in code_NW]
    assert nearest_centroid(code_NW, world.rows.code_NW).tolist() == expected


def test_a_read_only_or_crooked_query_is_taken() -> None:
    world = World(50, 256)
    crooked = np.empty(6 * 32 + 1, dtype=np.uint8)[1:].reshape(6, 32)
    crooked[:] = world.code_QW
    crooked.flags.writeable = False
    heap = Candidates.none(6, 5)
    scan_rows(crooked, world.rows, world.died_at, SEQUENCE, None, 0, 50, heap)
    assert_same(heap, 5, world.expected(5, None, np.arange(50)))


def test_nothing_of_numba_is_loaded_before_the_first_scan() -> None:
    program = "import sys, index_sync.worker, rollout.front; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
