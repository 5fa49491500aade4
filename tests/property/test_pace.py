"""A token bucket never lets more through than its rate and one burst, and never starves who asks often enough."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.pace import BURST_S, HANDFUL_S, Pacer

RATES = st.one_of(st.just(0.0), st.floats(0.1, 100_000))


@settings(max_examples=60, deadline=None)
@given(
    rate=RATES,
    steps=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_no_interval_has_more_than_its_rate_and_a_burst(rate: float, steps: list[tuple[float, float]]) -> None:
    pacer = Pacer()
    pacer.set(rate, 0.0)
    now_s = 0.0
    taken: list[tuple[float, int]] = []
    for step_s, share in steps:
        now_s += step_s
        room = pacer.room(now_s)
        records = int(room * share)
        pacer.took(records)
        taken.append((now_s, records))
    for i, (from_s, _) in enumerate(taken):
        total = 0
        for to_s, records in taken[i:]:
            total += records
            assert total <= rate * (to_s - from_s) + max(2.0, rate * BURST_S) + 1e-6 * rate


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(0.5, 50_000), polls_per_s=st.floats(25, 500), stall_s=st.floats(0, 0.5))
def test_who_asks_often_gets_the_rate_though_it_stalls(rate: float, polls_per_s: float, stall_s: float) -> None:
    pacer = Pacer()
    pacer.set(rate, 0.0)
    now_s, taken, polls = 0.0, 0, 0
    while now_s < 30:
        now_s += 1 / polls_per_s
        if polls % 100 == 99:
            now_s += stall_s
        polls += 1
        room = pacer.room(now_s)
        assert room == 0 or room >= min(1.0, rate * HANDFUL_S)
        pacer.took(int(room))
        taken += int(room)
    assert taken >= 0.97 * rate * now_s - 2 - rate * HANDFUL_S


def test_a_handful_at_a_time() -> None:
    pacer = Pacer()
    pacer.set(1000, 0.0)
    assert pacer.room(0.049) == 0
    assert pacer.room(0.0501) == 50


def test_unlimited_held_and_unlimited_again() -> None:
    pacer = Pacer()
    assert pacer.room(0) == math.inf
    pacer.took(10_000)
    pacer.set(0, 1)
    assert pacer.room(100) == 0
    pacer.set(10, 200)
    assert pacer.room(200) == 0, "time in which it was held saved nothing up"
    assert pacer.room(201) == 10
    pacer.set(math.inf, 202)
    assert pacer.room(202) == math.inf


@pytest.mark.parametrize("rate", [-1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        Pacer().set(rate, 0)
