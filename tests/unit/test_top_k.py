from __future__ import annotations

import numpy as np

from index_sync.top_k import PAD_DISTANCE, PAD_PIN_ID, Neighbors, merge_neighbors


def part(*pairs: tuple[int, int]) -> Neighbors:
    return Neighbors(np.array([[d for d, _ in pairs]], dtype=np.int32), np.array([[p for _, p in pairs]]))


def test_parts_merge_by_distance_then_pin_id_and_padding_stays_last() -> None:
    pad = (PAD_DISTANCE, PAD_PIN_ID)
    merged = merge_neighbors([part((1, 9), (3, 1), pad), part((1, 2), pad, pad)], 5)
    assert merged.distance_QK.tolist() == [[1, 1, 3, PAD_DISTANCE, PAD_DISTANCE]]
    assert merged.pin_id_QK.tolist() == [[2, 9, 1, PAD_PIN_ID, PAD_PIN_ID]]
    assert merge_neighbors([merged], 2).pin_id_QK.tolist() == [[2, 9]]
