from __future__ import annotations

import numpy as np
import pytest

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


@pytest.mark.parametrize("capacity", [1, 7, 100])
def test_it_is_a_bounded_dictionary_in_the_order_of_deletes(capacity: int) -> None:
    random = np.random.default_rng(capacity)
    graveyard, known = Graveyard(capacity), dict[int, int]()
    for number in range(600):
        chosen = np.unique(random.integers(1, 3 * capacity + 2, int(random.integers(0, 40))))
        if random.random() < 0.7:
            chosen = random.permutation(chosen)
            graveyard.bury(chosen, chosen + number)
            for pin in chosen.tolist():
                known.pop(pin, None)
                known[pin] = pin + number
            known = dict(list(known.items())[-capacity:])
        else:
            graveyard.forget(chosen)
            known = {pin: offset for pin, offset in known.items() if pin not in chosen}
        asked = np.arange(1, 3 * capacity + 4)
        assert graveyard.offsets(asked).tolist() == [known.get(pin, -1) for pin in asked.tolist()]
        assert [column.tolist() for column in graveyard.columns()] == [list(known), list(known.values())]
        assert len(graveyard) == len(known)


def test_what_a_damaged_snapshot_may_hold_does_no_harm() -> None:
    graveyard = Graveyard(capacity=2)
    for _ in range(5):
        graveyard.bury(pins(-1, 0, 5, 5), pins(-7, 3, -1, 4))
    assert graveyard.offsets(pins(-1, 0, 5)).tolist() == [-1, 3, 4]
