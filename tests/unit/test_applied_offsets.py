"""A search that waits for an offset is woken by the apply that reaches it, once, and by nothing else."""

from __future__ import annotations

from index_sync.applied_offsets import AppliedOffsets


def test_woken_once_when_the_last_shard_is_there() -> None:
    applied, woken = AppliedOffsets(), []
    applied.advance(0, 10)
    applied.advance(1, 10)
    applied.when({0: 12, 1: 11}, lambda: woken.append("both"), lambda: False)
    assert applied.behind({0: 12, 1: 11}) == {0: 10, 1: 10}
    applied.advance(0, 12)
    assert not woken
    applied.advance(1, 11)
    assert woken == ["both"]
    applied.advance(1, 99)
    assert woken == ["both"]


def test_at_once_if_it_is_so_already_and_for_shards_that_are_elsewhere() -> None:
    applied, woken = AppliedOffsets(), []
    applied.advance(0, 10)
    applied.when({0: 10, 7: 1000}, lambda: woken.append(1), lambda: False)
    assert woken == [1]


def test_a_shard_that_leaves_holds_nobody_up() -> None:
    applied, woken = AppliedOffsets(), []
    applied.advance(0, 10)
    applied.when({0: 20}, lambda: woken.append(1), lambda: False)
    applied.forget(0)
    assert woken == [1]


def test_who_gave_up_is_not_woken() -> None:
    applied, woken = AppliedOffsets(), []
    applied.advance(0, 10)
    applied.when({0: 20}, lambda: woken.append(1), lambda: True)
    applied.advance(0, 20)
    assert not woken
