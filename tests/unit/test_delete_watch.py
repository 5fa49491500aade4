"""A state that may have missed a delete is known for it, whatever comes later."""

from __future__ import annotations

from index_sync.delete_watch import DeleteWatch

HOUR_MS = 3_600_000


def test_it_advances_while_the_shard_keeps_up() -> None:
    watch = DeleteWatch(0, HOUR_MS)
    assert not watch.held_all(HOUR_MS)
    assert not watch.held_all(2 * HOUR_MS)
    assert not watch.held_all(HOUR_MS)  # an older moment says nothing new
    assert watch.complete_ms == 2 * HOUR_MS


def test_a_shard_that_was_behind_for_too_long_is_told_once_and_never_trusted_again() -> None:
    watch = DeleteWatch(0, HOUR_MS)
    assert watch.held_all(HOUR_MS + 1)
    assert not watch.held_all(HOUR_MS + 2)
    assert watch.may_have_missed
    assert watch.complete_ms == 0


def test_a_snapshot_is_renewed_well_before_it_is_too_old() -> None:
    watch = DeleteWatch(0, HOUR_MS)
    watch.held_all(HOUR_MS // 4)
    assert not watch.outgrew(0)
    watch.held_all(HOUR_MS // 4 + 1)
    assert watch.outgrew(0)
    assert not watch.outgrew(HOUR_MS // 4)
