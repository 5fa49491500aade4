"""The writer's compiled loops against dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from index_sync.code_batch import Int64s
from index_sync.numba_build import Build, compiled
from index_sync.pin_lookup import PinLookup
from index_sync.row_loops import loops
from index_sync.row_table import RowTable
from index_sync.segment import ALIVE
from pinstream.events import MAX_PIN_ID

LARGEST = MAX_PIN_ID
IDS: tuple[Callable[[np.random.Generator, int], Int64s], ...] = (
    lambda random, count: random.choice(10 * count, count, replace=False).astype(np.int64) + 1,
    lambda random, count: np.unique(random.integers(1, LARGEST, count)),
    lambda random, count: LARGEST - random.permutation(count).astype(np.int64),
    lambda random, count: (random.permutation(count).astype(np.int64) + 1) << 40,
)


@pytest.mark.parametrize("make", IDS)
@pytest.mark.parametrize("count", [1, 31, 32, 33, 1000, 5000])
@pytest.mark.parametrize("ascending", [False, True])
def test_a_lookup_finds_each_pin_and_no_other(
    make: Callable[[np.random.Generator, int], Int64s], count: int, ascending: bool
) -> None:
    random = np.random.default_rng(count)
    pin_id = make(random, count)
    pin_id = np.sort(pin_id) if ascending else random.permutation(pin_id)
    row_of = dict(zip(pin_id.tolist(), range(len(pin_id)), strict=True))
    strangers = random.integers(1, LARGEST, 200)
    near = pin_id[:200] - 1
    wanted = np.unique(np.concatenate((pin_id, strangers, near, [1, LARGEST])))
    lookup = PinLookup(pin_id)
    for order in (wanted, random.permutation(wanted), wanted[:0]):
        assert lookup.rows(order).tolist() == [row_of.get(pin, -1) for pin in order.tolist()]


@pytest.mark.parametrize("row_bits", [13, 20, 31])
def test_rows_whose_tags_agree_are_told_apart(row_bits: int) -> None:
    """With 31 bits for the row one bit is left for the tag: half of all words agree."""
    random = np.random.default_rng(row_bits)
    pin_id = random.permutation(20_000)[:5_000].astype(np.int64) + 1
    table, seed = np.zeros(5_001, dtype=np.uint32), 7  # full but for one place
    assert loops().build_tagged(table, seed, row_bits, pin_id) == 0
    row_of = dict(zip(pin_id.tolist(), range(len(pin_id)), strict=True))
    wanted = np.arange(1, 20_001)
    row = np.empty(len(wanted), dtype=np.int64)
    loops().find_tagged(table, seed, row_bits, pin_id, wanted, row)
    assert row.tolist() == [row_of.get(pin, -1) for pin in wanted.tolist()]
    twice = np.append(pin_id[1:], pin_id[-1])
    assert loops().build_tagged(np.zeros(6_000, dtype=np.uint32), seed, row_bits, twice) == 1


def test_an_empty_column_holds_nothing() -> None:
    assert PinLookup(np.empty(0, dtype=np.int64)).rows(np.array([1, 2])).tolist() == [-1, -1]


@pytest.mark.parametrize("make", IDS)
def test_a_table_that_grows_knows_the_newest_row_of_each_pin(
    make: Callable[[np.random.Generator, int], Int64s],
) -> None:
    random = np.random.default_rng(3)
    known = make(random, 6_000)
    pin_id = random.choice(known, 20_000)
    table, row_of, start = RowTable(pin_id), {}, 0
    while start < len(pin_id):
        end = min(len(pin_id), start + int(random.integers(0, 900)))
        table.add(end)
        row_of.update(zip(pin_id[start:end].tolist(), range(start, end), strict=True))
        start = end
        wanted = np.concatenate((random.choice(known, 50), random.integers(1, LARGEST, 50)))
        assert table.find(wanted).tolist() == [row_of.get(pin, -1) for pin in wanted.tolist()]
    assert table.find(known).tolist() == [row_of.get(pin, -1) for pin in known.tolist()]


def test_living_rows_are_taken_and_the_other_pins_stay_missing() -> None:
    random = np.random.default_rng(5)
    pins, rows = 1000, 5000
    died_at = random.choice(np.array([ALIVE, 3], dtype=np.uint32), rows)
    source_offset = random.integers(0, LARGEST, rows)
    missing = random.permutation(pins)[:700]
    row = np.where(random.random(700) < 0.3, -1, random.permutation(rows)[:700])
    offset, lives, pin = np.full(pins, -1), np.zeros(pins, dtype=bool), np.empty(700, dtype=np.int64)

    living = {p: r for p, r in zip(missing.tolist(), row.tolist(), strict=True) if r >= 0 and died_at[r] == ALIVE}
    others = [p for p in missing.tolist() if p not in living]
    found = loops().take_living((row, died_at, source_offset), ALIVE, missing, (offset, lives), pin)

    assert 0 < found == len(living)
    assert dict(zip(pin[:found].tolist(), row[:found].tolist(), strict=True)) == living
    assert missing[: 700 - found].tolist() == others
    assert np.flatnonzero(lives).tolist() == sorted(living)
    assert {p: int(offset[p]) for p in living} == {p: int(source_offset[r]) for p, r in living.items()}
    assert (offset[~lives] == -1).all()


def test_a_cache_that_cannot_be_used_costs_time_only() -> None:
    tries: list[Build] = []

    def build_all(build: Build) -> Any:
        tries.append(build)
        if len(tries) == 1:
            raise RuntimeError("cannot cache function: no locator available")
        return "compiled"

    assert compiled(build_all) == "compiled"
    assert len(tries) == 2
