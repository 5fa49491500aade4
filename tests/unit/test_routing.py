"""A shard goes to a fresh, well, lightly loaded leaf; to a worse one only if there is no better; never twice to one."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from index_sync.routing import Leaf, route


def leaf(name: str, lag_s: dict[int, float | None], **fields: object) -> Leaf:
    given = {"is_own": False, "in_flight": 0, "latency_s": 0.01, "is_failing": False} | fields
    return Leaf(instance=name, lag_s=lag_s, **given)  # type: ignore[arg-type]  # a test's short cut


def ask(partitions: set[int], *leaves: Leaf, tried: dict[int, set[str]] | None = None) -> dict[str, tuple[int, ...]]:
    return route(partitions, leaves, tried or {}, 2.0, Random(1))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (leaf("good", {0: 1.0}), leaf("bad", {0: 9.0})),
        (leaf("good", {0: 1.0}), leaf("bad", {0: None})),
        (leaf("good", {0: 1.0}), leaf("bad", {0: 1.0}, is_failing=True)),
        (leaf("good", {0: 9.0}), leaf("bad", {0: 1.0}, is_failing=True)),
        (leaf("good", {0: 1.0}, in_flight=1), leaf("bad", {0: 1.0}, in_flight=9)),
        (leaf("good", {0: 1.0}, latency_s=0.01), leaf("bad", {0: 1.0}, latency_s=0.1)),
        (leaf("good", {0: 1.0}, is_own=True, in_flight=99), leaf("bad", {0: 1.0})),
        (leaf("good", {0: 1.0}), leaf("bad", {0: 9.0}, is_own=True)),
    ],
)
def test_the_better_leaf_is_asked_and_the_worse_one_when_that_was_tried(good: Leaf, bad: Leaf) -> None:
    assert ask({0}, bad, good) == {"good": (0,)}
    assert ask({0}, bad, good, tried={0: {"good"}}) == {"bad": (0,)}
    assert ask({0}, bad, good, tried={0: {"good", "bad"}}) == {}


def test_a_lag_within_the_bound_of_the_freshest_counts_as_fresh() -> None:
    rested = leaf("rested", {0: 2.9})
    assert ask({0}, leaf("busy", {0: 1.0}, in_flight=50), rested) == {"rested": (0,)}


def test_shards_are_spread_over_replicas() -> None:
    every: dict[int, float | None] = dict.fromkeys(range(8), 0.0)
    plan = ask(set(range(8)), leaf("a", every), leaf("b", every))
    assert sorted(len(parts) for parts in plan.values()) == [4, 4]
    assert sorted(sum(plan.values(), ())) == list(range(8))


def test_two_choices_do_not_herd() -> None:
    """Roots with the same, old leases do not all choose the one leaf that was idle when they were written."""
    leaves = [leaf(str(i), {0: 0.0}, in_flight=i) for i in range(10)]
    random = Random(3)
    asked = Counter(next(iter(route({0}, leaves, {}, 2.0, random))) for _ in range(1000))
    assert asked["0"] < 300
    assert asked["9"] == 0


def test_a_shard_that_nobody_serves_is_in_no_request() -> None:
    assert ask({0, 1}, leaf("a", {0: 0.0})) == {"a": (0,)}
