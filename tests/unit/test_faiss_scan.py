"""FAISS's scan orders by (distance, row), ties at the last place included: sealed segments rely on it."""

from __future__ import annotations

import numpy as np
import pytest

from index_sync.faiss_scan import distances, distances_of_rows, nearest_rows


@pytest.mark.parametrize("queries", [1, 3, 20])
@pytest.mark.parametrize("rows", [1, 7, 300, 70_000])
def test_nearest_rows_break_ties_by_row(queries: int, rows: int) -> None:
    random = np.random.default_rng(rows)
    code_NW = random.integers(0, 2, (rows, 32), dtype=np.uint8)
    code_QW = random.integers(0, 2, (queries, 32), dtype=np.uint8)
    fetch = min(rows, 50)
    distance_QF, row_QF = nearest_rows(code_QW, code_NW, fetch)
    for query in range(queries):
        expected = np.bitwise_count(code_NW ^ code_QW[query]).sum(axis=1, dtype=np.int32)
        order = np.lexsort((np.arange(rows), expected))[:fetch]
        assert row_QF[query].tolist() == order.tolist()
        assert distance_QF[query].tolist() == expected[order].tolist()
        assert distances(code_QW[query], code_NW).tolist() == expected.tolist()
        chosen = np.flatnonzero(random.random(rows) < 0.3)
        assert distances_of_rows(code_QW[query], code_NW, chosen).tolist() == expected[chosen].tolist()
