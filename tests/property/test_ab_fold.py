"""The fold counts as a dictionary does, whatever comes in whatever order, and its memory is bounded."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstream.errors import FatalError
from rollout.ab import fold as fold_module
from rollout.ab.assignment import Arm
from rollout.ab.events import Engagement, Kind
from rollout.ab.fold import KIND_NUMBER, EngagementFold, RecentEvents, UserTable
from rollout.generation import Application

NAMES = [f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" + "0" * 16 for number in range(12)]


def engagement(number: int = 0, user: str = NAMES[0], **changes: object) -> Engagement:
    fields: dict[str, object] = {
        "event_id": f"e{number}",
        "application": Application.LENS,
        "test": "spring",
        "share": 0.5,
        "arm": Arm.CONTROL,
        "model": "ab" * 32,
        "user": user,
        "kind": Kind.IMPRESSION,
        "event_time": 1000 + number,
    }
    return Engagement.model_validate({**fields, **changes})


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(list(Arm)), st.sampled_from(list(Kind)))),
    st.integers(1, 7),
)
def test_a_table_counts_as_a_dictionary_does(events: list[tuple[str, Arm, Kind]], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold_module, "_MIN_BATCH", batch)
        table = UserTable()
        for event in events:
            table.add(*event)
        table.merge()
    arms: dict[str, set[Arm]] = defaultdict(set)
    counts: dict[str, Counter[Kind]] = defaultdict(Counter)
    for user, arm, kind in events:
        arms[user].add(arm)
        counts[user][kind] += 1
    assert len(table) == len(arms)
    assert table.in_both_arms == sum(len(seen) == 2 for seen in arms.values())
    for arm in Arm:
        expected = sorted([counts[user][kind] for kind in KIND_NUMBER] for user in arms if arms[user] == {arm})
        assert sorted(table.counts(arm).tolist()) == expected


@given(st.lists(st.integers(0, 30)), st.integers(1, 10))
def test_an_event_that_comes_again_within_the_window_is_known(numbers: list[int], window: int) -> None:
    recent = RecentEvents(window)
    since: dict[int, int] = {}
    new = 0
    for number in numbers:
        was_new = recent.is_new(engagement(number))
        if number in since and new - since[number] < window:
            assert not was_new
        if number not in since:
            assert was_new
        if was_new:
            new += 1
            since[number] = new
        assert len(recent._newer) + len(recent._older) <= 2 * window


def test_only_a_requesters_own_event_repeats_it() -> None:
    fold = EngagementFold()
    fold.add(engagement(1))
    fold.add(engagement(1))
    fold.add(engagement(1, NAMES[1]))
    fold.add(engagement(1, test="autumn"))
    fold.add(engagement(1, application=Application.FLASHLIGHT))
    assert fold.repeated == 1
    assert {(folded.test, str(folded.application)): folded.events for folded in fold.done()} == {
        ("spring", "lens"): 2,
        ("autumn", "lens"): 1,
        ("spring", "flashlight"): 1,
    }


def test_what_is_not_asked_for_is_not_counted() -> None:
    fold = EngagementFold(application=Application.LENS, test="spring", since_ms=1005)
    for number in range(10):
        fold.add(engagement(number))
        fold.add(engagement(number, test="autumn"))
        fold.add(engagement(number, application=Application.FLASHLIGHT))
    (folded,) = fold.done()
    assert (folded.events, folded.first_ms, folded.last_ms) == (5, 1005, 1009)


def test_a_test_that_was_changed_is_remembered_as_such() -> None:
    fold = EngagementFold()
    for number in range(100):
        fold.add(engagement(number, share=(number + 1) / 200, model=f"{number:064x}"))
    (folded,) = fold.done()
    assert 1 < len(folded.shares) <= 8 and 1 < len(folded.models[Arm.CONTROL]) <= 8
    assert not folded.models[Arm.TREATMENT]


def test_too_many_tests_or_requesters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fold = EngagementFold()
    for number in range(fold_module.MAX_TESTS):
        fold.add(engagement(number, test=f"t{number}"))
    with pytest.raises(FatalError, match="--test"):
        fold.add(engagement(99, test="t99"))
    monkeypatch.setattr(fold_module, "MAX_USERS", 50)
    monkeypatch.setattr(fold_module, "_MIN_BATCH", 10)
    fold = EngagementFold()

    def fill() -> None:
        for number in range(100):
            fold.add(engagement(number, user=f"{number:016x}" + "0" * 16))

    with pytest.raises(FatalError, match="requesters"):
        fill()


def test_a_requester_takes_few_bytes() -> None:
    table = UserTable()
    random = np.random.default_rng(1)
    for key in random.integers(0, 2**63, 150_000):
        table.add(f"{key:032x}"[::-1], Arm.CONTROL, Kind.IMPRESSION)
    table.merge()
    held = (table._key_U, table._arms_U, table._count_UK)
    assert sum(array.nbytes for array in held) == 25 * len(table)
