"""A p99 of the last moments from counts that only grow."""

from __future__ import annotations

import pytest

from pinstream.worker_metrics import Buckets
from rollout.freshness import RecentQuantile

INF = float("inf")


def counts(fast: float, slow: float = 0) -> Buckets:
    """`fast` values up to 0.1 s, `slow` ones between 1 and 2 s."""
    return Buckets({0.1: fast, 1.0: fast, 2.0: fast + slow, INF: fast + slow})


def test_only_what_came_since_counts() -> None:
    recent = RecentQuantile(10)
    recent.saw(0, {"a": counts(0, 1_000_000)})
    assert recent.quantile(0.99, 0) is None, "the first scrape may be days old"
    recent.saw(1, {"a": counts(1000, 1_000_000)})
    assert recent.quantile(0.99, 1) == pytest.approx(0.099)


def test_the_window_moves_on_and_processes_add_up() -> None:
    recent = RecentQuantile(10)
    for now_s in range(6):
        recent.saw(now_s, {"a": counts(100 * now_s, 100 * now_s), "b": counts(100 * now_s)})
    assert recent.quantile(0.5, 5) == pytest.approx(0.075)
    assert recent.quantile(0.99, 5) == pytest.approx(1.97)
    for now_s in range(6, 18):
        recent.saw(now_s, {"a": counts(100 * now_s, 500)})
    assert recent.quantile(0.99, 17) == pytest.approx(0.099)


def test_few_values_reach_further_back() -> None:
    recent = RecentQuantile(10)
    for now_s in range(40):
        recent.saw(now_s, {"a": counts(4 * now_s, 4 * min(now_s, 20))})
    assert recent.quantile(0.99, 39) == pytest.approx(1.83, abs=0.05)


def test_a_process_that_began_again_starts_from_0() -> None:
    recent = RecentQuantile(10)
    recent.saw(0, {"a": counts(1000, 1000)})
    recent.saw(1, {"a": counts(50)})
    recent.saw(2, {})
    recent.saw(3, {"a": counts(70)})
    assert recent.quantile(0.5, 3) == pytest.approx(0.05)


def test_beyond_the_last_bound_it_is_the_last_bound() -> None:
    recent = RecentQuantile(10)
    recent.saw(0, {"a": Buckets({1.0: 0, INF: 0})})
    recent.saw(1, {"a": Buckets({1.0: 0, INF: 10})})
    assert recent.quantile(0.99, 1) == 1.0


def test_one_late_value_among_few_is_no_p99() -> None:
    recent = RecentQuantile(10)
    recent.saw(0, {"a": counts(0)})
    recent.saw(1, {"a": counts(2)})
    assert recent.quantile(0.99, 1) is None, "two values say nothing"
    recent.saw(2, {"a": counts(50, 2)})
    assert (recent.quantile(0.99, 2) or 0) <= 0.1
    recent.saw(3, {"a": counts(50, 4)})
    assert (recent.quantile(0.99, 3) or 0) > 1


def test_what_came_before_a_cut_is_forgotten() -> None:
    recent = RecentQuantile(10)
    recent.saw(0, {"a": counts(0)})
    recent.saw(1, {"a": counts(0, 500)})
    recent.ignore_before(6)
    recent.saw(2, {"a": counts(0, 900)})
    assert recent.quantile(0.99, 2) is None
    recent.saw(6, {"a": counts(500, 900)})
    assert recent.quantile(0.99, 6) == pytest.approx(0.099)
