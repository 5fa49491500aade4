"""Whatever leaves answer, fail and overlap: no shard counts twice, none is forgotten, none is asked of a leaf twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from index_sync.fan_out import FanOut


def parts(*partitions: int) -> frozenset[int]:
    return frozenset(partitions)


def test_the_first_answer_wins_and_the_slow_one_is_known_as_hedged() -> None:
    fan = FanOut(parts(0, 1))
    slow = fan.start("a", parts(0, 1), 0.0, 0.1)
    assert fan.due(0.05) == []
    assert fan.next_hedge_s() == 0.1
    assert fan.due(0.1) == [slow]
    second = fan.start("b", parts(0, 1), 0.1, 9.0, hedge_of=slow.number)
    fan.answered(second.number, parts(0, 1))
    assert fan.missing() == parts()
    assert fan.accepted() == [second.number]
    assert fan.due(1.0) == []
    assert fan.open_calls == [slow]
    assert fan.was_hedged(slow)


def test_of_overlapping_answers_the_larger_is_taken_whole() -> None:
    fan = FanOut(parts(0, 1, 2))
    slow = fan.start("a", parts(0, 1, 2), 0.0, 0.1)
    half = fan.start("b", parts(0), 0.1, 9.0, slow.number)
    fan.start("c", parts(1, 2), 0.1, 9.0, slow.number)
    fan.answered(half.number, parts(0))
    assert fan.missing() == parts(1, 2)
    assert fan.to_ask() == parts()
    fan.answered(slow.number, parts(0, 1, 2))
    assert fan.accepted() == [slow.number], "shard 0 must not count twice"
    assert fan.missing() == parts()


def test_what_a_leaf_leaves_out_is_asked_elsewhere() -> None:
    fan = FanOut(parts(0, 1))
    call = fan.start("a", parts(0, 1), 0.0, 0.1)
    fan.answered(call.number, parts(0, 7))
    assert fan.to_ask() == parts(1)
    assert fan.tried[1] == {"a"}
    fan.failed(fan.start("b", parts(1), 0.0, 0.1).number)
    assert fan.to_ask() == parts(1)
    assert fan.missing() == parts(1)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sets(st.integers(0, 5), min_size=1), st.sets(st.integers(0, 5)), st.booleans())))
def test_accepted_answers_never_overlap(calls: list[tuple[set[int], set[int], bool]]) -> None:
    fan = FanOut(frozenset(range(6)))
    answered = {}
    for i, (asked, found, fails) in enumerate(calls):
        call = fan.start(str(i), frozenset(asked), 0.0, 1.0)
        if fails:
            fan.failed(call.number)
        else:
            fan.answered(call.number, frozenset(found))
            answered[call.number] = asked & found
    taken = [partition for number in fan.accepted() for partition in answered[number]]
    assert len(taken) == len(set(taken))
    assert fan.missing() == frozenset(range(6)) - set(taken)
