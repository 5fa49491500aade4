"""Searches are picked at the rate that was set and within their share of time; recall counts ties and has bounds."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from index_sync.recall_monitor import IDLE_SHARE, MAX_CREDIT_S, SEARCH_SHARE, RecallWindow, SampleGate, Verdict, judge
from index_sync.top_k import PAD_DISTANCE


def picks(per_s: float, *, searches_per_s: int, took_s: float, exact_s: float, seconds: int = 400) -> int:
    gate = SampleGate(per_s, 0.0, Random(1))
    count = 0
    for i in range(seconds * searches_per_s):
        if gate.picks(took_s, i / searches_per_s):
            gate.charge(exact_s)
            count += 1
    return count


@pytest.mark.parametrize("per_s", [0.5, 1.0, 5.0])
def test_searches_are_picked_at_the_rate(per_s: float) -> None:
    count = picks(per_s, searches_per_s=500, took_s=0.01, exact_s=0.0)
    assert count == pytest.approx(400 * per_s, rel=0.15)


def test_nothing_is_picked_at_rate_0() -> None:
    assert picks(0.0, searches_per_s=100, took_s=0.01, exact_s=0.0) == 0


@pytest.mark.parametrize(("searches_per_s", "took_s"), [(1000, 0.001), (200, 0.002), (2, 0.0005)])
def test_exact_searches_stay_within_their_share(searches_per_s: int, took_s: float) -> None:
    exact_s, seconds = 0.1, 200
    spent_s = exact_s * picks(1.0, searches_per_s=searches_per_s, took_s=took_s, exact_s=exact_s, seconds=seconds)
    allowed_s = SEARCH_SHARE * searches_per_s * took_s * seconds + IDLE_SHARE * seconds
    assert spent_s <= allowed_s + exact_s
    assert spent_s >= 0.8 * allowed_s


def test_a_quiet_hour_does_not_pay_for_a_busy_minute() -> None:
    gate = SampleGate(100.0, 0.0, Random(1))
    assert gate.picks(0.001, 3600.0)
    spent_s, now_s = 0.0, 3600.0
    while now_s < 3610.0:
        now_s += 0.01
        if gate.picks(0.0, now_s):
            gate.charge(0.05)
            spent_s += 0.05
    assert spent_s <= MAX_CREDIT_S + IDLE_SHARE * 10 + 0.05


def judged(returned: list[int], exact: list[int]) -> Verdict:
    return judge(np.array(returned, dtype=np.int32), np.array(exact, dtype=np.int32))


def test_a_pin_at_the_last_distance_is_as_right_as_another() -> None:
    assert judged([1, 2, 5, 5], [1, 2, 5, 5]) == Verdict(4, 0)
    assert judged([2, 5, 5, 5], [1, 2, 5, 5]) == Verdict(4, 0)
    assert judged([1, 2, 5, 6], [1, 2, 5, 5]) == Verdict(4, 1)


def test_a_short_answer_misses_what_it_left_out() -> None:
    pad = PAD_DISTANCE
    assert judged([1, 2, pad, pad], [1, 2, 5, pad]) == Verdict(3, 1)
    assert judged([pad, pad], [pad, pad]) == Verdict(0, 0)
    assert judged([3, pad], [3, pad]) == Verdict(1, 0)


def test_the_window_forgets() -> None:
    window = RecallWindow(window_s=10)
    assert window.recall(0) is None
    window.add(Verdict(10, 10), 0)
    window.add(Verdict(10, 0), 5)
    window.add(Verdict(0, 0), 6)
    both, later = window.recall(9), window.recall(11)
    assert both is not None and later is not None
    assert (both.mean, both.queries) == (0.5, 2)
    assert (later.mean, later.queries) == (1.0, 1)
    assert window.recall(15) is None


def test_the_bounds_hold_though_neighbors_fall_together() -> None:
    """Half of all misses take ten neighbours of one query at once; the true recall is 0.98."""
    random = Random(3)
    held = 0
    for _ in range(300):
        window = RecallWindow()
        for i in range(300):
            missed = random.choices((0, 1, 10), (0.89, 0.1, 0.01))[0]
            window.add(Verdict(10, missed), float(i))
        recall = window.recall(300)
        assert recall is not None
        assert recall.lower < recall.mean < recall.upper
        held += recall.lower <= 0.98 <= recall.upper
    assert held >= 0.95 * 300


def test_perfect_answers_have_bounds_too() -> None:
    window = RecallWindow()
    for i in range(100):
        window.add(Verdict(10, 0), float(i))
    recall = window.recall(100)
    assert recall is not None
    assert recall.upper == pytest.approx(1.0)
    assert 0.95 < recall.lower < 0.98
