from __future__ import annotations

import numpy as np

from index_sync.graveyard import Graveyard


def pins(*ids: int) -> np.ndarray:
    return np.array(ids, dtype=np.int64)


def test_the_oldest_delete_is_forgotten_first_and_a_repeated_one_is_new_again() -> None:
    graveyard = Graveyard(capacity=3)
    graveyard.bury(pins(1, 2, 3), pins(10, 11, 12))
    graveyard.bury(pins(1), pins(13))
    graveyard.bury(pins(4), pins(14))
    assert graveyard.offsets(pins(1, 2, 3, 4)).tolist() == [13, -1, 12, 14]
    assert [column.tolist() for column in graveyard.columns()] == [[3, 1, 4], [12, 13, 14]]
    graveyard.forget(pins(1, 99))
    assert len(graveyard) == 2
    assert graveyard.offsets(pins(1)).tolist() == [-1]
