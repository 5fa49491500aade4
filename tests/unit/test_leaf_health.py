"""Hedges stay few, a failing leaf is left alone for a growing time, and one request tries it again."""

from __future__ import annotations

from index_sync.leaf_health import (
    FIRST_HEDGE_S,
    FIRST_PAUSE_S,
    HEDGE_BURST,
    LEAST_HEDGE_S,
    LONGEST_PAUSE_S,
    Circuit,
    HealthBook,
    HedgeBudget,
    LeafHealth,
)


def test_hedges_are_a_twentieth_of_the_requests_and_a_burst() -> None:
    budget = HedgeBudget()
    sent = 0
    for _ in range(10_000):
        budget.asked()
        sent += budget.take()
    assert 0.05 * 10_000 - 1 <= sent <= 0.05 * 10_000 + HEDGE_BURST
    idle = HedgeBudget()
    for _ in range(10_000):
        idle.asked()
    assert sum(idle.take() for _ in range(100)) == HEDGE_BURST


def test_the_pause_doubles_up_to_its_bound_and_an_answer_ends_it() -> None:
    circuit, now_s, pauses = Circuit(), 100.0, []
    for _ in range(10):
        circuit.failed(now_s)
        until_s = now_s
        while circuit.is_open(until_s):
            until_s += 1 / 16  # exact in binary
        pauses.append(until_s - now_s)
        now_s = until_s
    assert pauses == sorted(pauses)
    assert FIRST_PAUSE_S <= pauses[0] <= FIRST_PAUSE_S + 0.1
    assert LONGEST_PAUSE_S <= pauses[-1] <= LONGEST_PAUSE_S + 0.1
    circuit.answered()
    assert not circuit.is_open(now_s)
    circuit.failed(now_s)
    assert not circuit.is_open(now_s + FIRST_PAUSE_S)


def test_after_a_pause_one_request_tries() -> None:
    circuit = Circuit()
    circuit.failed(0.0)
    assert circuit.is_open(0.2)
    assert not circuit.is_open(0.3)
    circuit.asked(0.3)
    assert circuit.is_open(0.3), "a second one must not follow before the first is answered"
    circuit.answered()
    assert not circuit.is_open(0.3)


def test_two_lost_hedges_in_a_row_count_as_a_failure() -> None:
    circuit = Circuit()
    circuit.lost_hedge(0.0)
    assert not circuit.is_open(0.0)
    circuit.answered()
    circuit.lost_hedge(0.0)
    assert not circuit.is_open(0.0)
    circuit.lost_hedge(0.0)
    assert circuit.is_open(0.0)


def test_a_leaf_is_hedged_after_its_recent_95th_percentile() -> None:
    health = LeafHealth()
    assert health.hedge_after_s == FIRST_HEDGE_S
    for i in range(100):
        health.took(0.01 + i / 1000)
    assert 0.100 <= health.hedge_after_s <= 0.110
    for _ in range(128):
        health.took(0.000_1)
    assert health.hedge_after_s == LEAST_HEDGE_S


def test_what_is_known_of_a_leaf_that_left_is_forgotten() -> None:
    book = HealthBook()
    book["a"].circuit.failed(0.0)
    book["b"].in_flight = 1
    book.keep(["c"])
    assert not book["a"].circuit.is_open(0.0)
    assert book["b"].in_flight == 1, "a request that is under way still counts down"
