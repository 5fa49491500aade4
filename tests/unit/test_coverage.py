"""Coverage of the Pins topic: every kind of fault is found, and what moves meanwhile is not called one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rollout.coverage import ROW, Kind, PinFold, compare, unserved

MARK = 100


def fold_of(*records: tuple[int, int, Kind]) -> PinFold:
    fold = PinFold()
    fold.add(records)
    return fold


def rows_of(*rows: tuple[int, int]) -> np.ndarray:
    return np.array(list(rows), dtype=ROW)


LIVING = fold_of((1, 3, Kind.LIVING), (2, 4, Kind.LIVING), (3, 5, Kind.LIVING), (3, 6, Kind.DELETED)).result()


def test_a_whole_generation() -> None:
    found = compare(LIVING, rows_of((2, 4), (1, 3)), MARK, set())
    assert (found.faults, found.living, found.moving) == (0, 2, 0)


def test_every_fault_is_named() -> None:
    found = compare(LIVING, rows_of((2, 2), (3, 5), (9, 1), (9, 1)), MARK, set())
    assert found.missing.examples == ("pin 1 is missing: event at offset 3",)
    assert found.stale.examples == ("pin 2 is stale: it shows the event of offset 2, the newest is 4",)
    assert found.extra.examples == (
        "pin 9 is there twice",
        "pin 3 is there, deleted at offset 6",
        "pin 9 is there and not on the Pins topic",
    )
    assert found.faults == 5
    assert unserved(LIVING).missing.count == 2


def test_what_changes_meanwhile_is_not_judged() -> None:
    fold = fold_of((1, 3, Kind.LIVING), (1, 100, Kind.DELETED), (2, 101, Kind.LIVING), (3, 5, Kind.LIVING)).result()
    found = compare(fold, rows_of((1, 3), (3, 5)), MARK, set())
    assert (found.faults, found.moving) == (0, 2)


def test_dead_letters_excuse_and_are_counted() -> None:
    fold = fold_of((1, 3, Kind.LIVING), (2, 4, Kind.LIVING), (2, 7, Kind.LIVING), (3, 8, Kind.UNREADABLE)).result()
    found = compare(fold, rows_of((2, 4), (3, 1)), MARK, {3, 7})
    assert found.faults == 0
    assert found.dead_lettered.count == 2
    assert compare(fold, rows_of((2, 4), (3, 1)), MARK, set()).faults == 2


@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from(list(Kind))), max_size=40), st.integers(0, 40), st.data())
def test_an_exact_follower_has_no_faults(events: list[tuple[int, Kind]], mark: int, data: st.DataObject) -> None:
    """A follower that stands anywhere at or after the mark is never at fault; nor with compaction behind it."""
    records = [(pin_id, offset, kind) for offset, (pin_id, kind) in enumerate(events)]
    mark = min(mark, len(records))
    stands = data.draw(st.integers(mark, len(records)))
    held: dict[int, int] = {}
    for pin_id, offset, kind in records[:stands]:
        if kind is Kind.LIVING:
            held[pin_id] = offset
        elif kind is Kind.DELETED:
            held.pop(pin_id, None)
    kept = [one for one in records if data.draw(st.booleans()) or one[0] not in {r[0] for r in records[one[1] + 1 :]}]
    found = compare(fold_of(*kept).result(), rows_of(*held.items()), mark, set())
    assert found.faults == 0, found
