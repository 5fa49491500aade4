"""Lag tells the truth or nothing: never a number that is not known."""

from __future__ import annotations

from consumers.lag import Lag, PartitionLag


def test_unknown_until_both_ends_are_known() -> None:
    lag = PartitionLag()
    assert lag.lag(0) is None
    lag.saw_end(10, now_ms=0)
    assert lag.lag(0) is None
    lag.done(4)
    assert lag.lag(0) == Lag(6, None)


def test_a_reader_at_the_end_is_not_behind_for_any_time() -> None:
    lag = PartitionLag()
    lag.saw_end(10, now_ms=0)
    lag.done(10)
    assert lag.lag(3_600_000) == Lag(0, 0.0)


def test_after_an_idle_hour_a_new_record_is_a_moment_behind() -> None:
    lag = PartitionLag()
    lag.saw_end(10, now_ms=0)
    lag.done(10)
    lag.saw_end(11, now_ms=3_600_000)
    assert lag.lag(3_600_250) == Lag(1, 0.25)


def test_the_record_in_hand_knows_best() -> None:
    lag = PartitionLag()
    lag.saw_end(10, now_ms=0)
    lag.done(4)
    lag.head(4, append_ms=-5_000)
    assert lag.lag(1_000) == Lag(6, 6.0)
    lag.done(5)
    assert lag.lag(1_000) == Lag(5, None)


def test_it_counts_from_the_oldest_end_beyond_what_is_done() -> None:
    lag = PartitionLag()
    for second in range(10):
        lag.saw_end(100 + second, now_ms=1000 * second)
    lag.done(105)
    assert lag.lag(10_000) == Lag(4, 4.0)


def test_a_producers_clock_ahead_of_ours_is_no_negative_lag() -> None:
    lag = PartitionLag()
    lag.saw_end(1, now_ms=0)
    lag.done(0)
    lag.head(0, append_ms=9_000)
    assert lag.lag(0) == Lag(1, 0.0)


def test_complete_is_the_latest_moment_of_which_everything_is_done() -> None:
    lag, seen = PartitionLag(), list[int | None]()
    for done, end in ((4, 10), (9, 20), (15, 30), (30, 31)):  # always behind, but not by more than a second or two
        lag.done(done)
        seen.append(lag.complete_ms)
        lag.saw_end(end, now_ms=100 * end)
    assert seen == [None, None, 1000, 3000]


def test_an_idle_partition_is_complete_for_as_long_as_the_broker_says_so() -> None:
    lag = PartitionLag()
    lag.saw_end(10, now_ms=0)
    lag.done(10)
    lag.saw_end(10, now_ms=5000)
    assert lag.complete_ms == 5000
    assert lag.lag(9000) == Lag(0, 0.0)
    assert lag.complete_ms == 5000
