"""The demo's arithmetic over the workers' metrics pages."""

from __future__ import annotations

import pytest

from pinstream.worker_metrics import Buckets

INFINITY = float("inf")


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    buckets = Buckets({0.1: 50, 0.2: 100, INFINITY: 100})
    assert buckets.quantile(0.5) == pytest.approx(0.1)
    assert buckets.quantile(0.75) == pytest.approx(0.15)
    assert buckets.quantile(1.0) == pytest.approx(0.2)


def test_beyond_the_last_bound_it_says_the_last_bound() -> None:
    assert Buckets({0.1: 1, INFINITY: 10}).quantile(0.99) == pytest.approx(0.1)


def test_nothing_has_no_quantile() -> None:
    assert Buckets().quantile(0.5) is None
    assert Buckets({0.1: 0, INFINITY: 0}).quantile(0.5) is None


def test_what_came_since_an_earlier_reading() -> None:
    later = Buckets({0.1: 30, INFINITY: 40}).since(Buckets({0.1: 10, INFINITY: 15}))
    assert later.counts == {0.1: 20, INFINITY: 25}
    assert later.total == 25
