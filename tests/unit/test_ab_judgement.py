"""What is said of a test: a winner only where there is one, never where the arms are not comparable, in plain words."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rollout.ab.assignment import Arm
from rollout.ab.events import Kind
from rollout.ab.fold import FoldedTest
from rollout.ab.judgement import Judgement, Outcome, judge
from rollout.ab.report import as_json, text, verdict
from rollout.generation import Application

OLD, NEW = "ab" * 32, "cd" * 32


def folded_test(
    *,
    users: int = 6000,
    rates: tuple[float, float] = (0.3, 0.3),
    per_impression: tuple[float, float] = (1.0, 1.0),
    share: float = 0.5,
    seed: int = 1,
) -> FoldedTest:
    """Requesters with 1 to 8 impressions, of whom a part engages, once for every second impression or so."""
    random = np.random.default_rng(seed)
    folded = FoldedTest(Application.LENS, "spring", first_ms=1_800_000_000_000, last_ms=1_800_600_000_000)
    folded.shares = {share}
    folded.models = {Arm.CONTROL: {OLD}, Arm.TREATMENT: {NEW}}
    treated = (random.random(users) < share).astype(int)
    for number in range(users):
        arm = Arm.TREATMENT if treated[number] else Arm.CONTROL
        impressions = int(random.integers(1, 9))
        keen = random.random() < rates[treated[number]]
        engagements = 1 + int(random.binomial(impressions, 0.4 * per_impression[treated[number]])) if keen else 0
        add(folded, number, arm, impressions, engagements)
    return folded


def add(folded: FoldedTest, number: int, arm: Arm, impressions: int, engagements: int) -> None:
    name = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"
    for _ in range(impressions):
        folded.users.add(name, arm, Kind.IMPRESSION)
    for _ in range(engagements):
        folded.users.add(name, arm, Kind.SAVE)
    folded.events += impressions + engagements


def judged(folded: FoldedTest) -> Judgement:
    folded.users.merge()
    return judge(folded)


def test_no_difference_is_no_winner() -> None:
    """The whole way, over 25 tests; at every look: tests/property/test_ab_statistics.py."""
    outcomes = [judged(folded_test(users=900, seed=seed)).outcome for seed in range(25)]
    assert sum(outcome is not Outcome.TOO_EARLY for outcome in outcomes) <= 2


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_better_treatment_wins(share: float) -> None:
    found = judged(folded_test(rates=(0.3, 0.4), share=share))
    assert found.outcome is Outcome.TREATMENT_WINS
    assert 0.2 < float(found.by_users.value) < 0.5
    assert verdict(found).startswith("The treatment wins: flip lens to cdcdcdcdcdcd, since ")
    assert "more requesters engage (between +" in verdict(found)


def test_a_worse_treatment_loses() -> None:
    found = judged(folded_test(rates=(0.4, 0.3)))
    assert found.outcome is Outcome.CONTROL_WINS
    assert "fewer requesters engage (between -" in verdict(found)


def test_measures_that_contradict_each_other_have_no_winner() -> None:
    found = judged(folded_test(rates=(0.3, 0.42), per_impression=(2.4, 0.1)))
    assert found.outcome is Outcome.MIXED
    assert "contradict" in verdict(found)


def test_a_great_lift_on_few_requesters_is_too_early() -> None:
    found = judged(folded_test(users=300, rates=(0.2, 0.9)))
    assert found.outcome is Outcome.TOO_EARLY
    assert "expected at least 100 in each arm" in verdict(found)
    assert text(found).count("not yet") == 2, "no interval is shown that does not hold"


def test_an_empty_arm_is_too_early() -> None:
    found = judged(folded_test(users=50, share=1e-9))
    assert found.outcome is Outcome.TOO_EARLY
    assert "–" in text(found)
    assert as_json(found)["lift"]["by_users"]["value"] is None


def test_a_sample_ratio_mismatch_has_no_winner() -> None:
    folded = folded_test(rates=(0.3, 0.5), share=0.45)
    folded.shares = {0.5}
    found = judged(folded)
    assert found.outcome is Outcome.INVALID
    assert "expected 50.00%" in verdict(found)
    assert "NOT AS EXPECTED" in text(found)


def test_a_test_that_was_changed_while_it_ran_has_no_winner() -> None:
    folded = folded_test(rates=(0.3, 0.5))
    folded.shares.add(0.2)
    assert "the share was changed while the test ran (20.0%, 50.0%)" in verdict(judged(folded))
    folded.shares = {0.5}
    folded.models[Arm.CONTROL].add("ef" * 32)
    assert "the control was served by more than one generation" in verdict(judged(folded))


def test_arms_that_are_not_kept_apart_have_no_winner() -> None:
    folded = folded_test(rates=(0.3, 0.5))
    for number in range(200):
        for arm in Arm:
            add(folded, number, arm, 1, 0)
    found = judged(folded)
    assert found.in_both_arms == 200
    assert found.outcome is Outcome.INVALID


def test_a_robot_decides_nothing() -> None:
    folded = folded_test()
    before = judged(folded)
    assert before.outcome is Outcome.TOO_EARLY
    add(folded, 10**6, Arm.TREATMENT, 20_000, 20_000)
    add(folded, 10**6 + 1, Arm.CONTROL, 30_000, 0)
    after = judged(folded)
    assert after.outcome is Outcome.TOO_EARLY
    assert after.caps == before.caps
    assert float(after.by_volume.value) == pytest.approx(float(before.by_volume.value), abs=0.01)
    assert after.arms[Arm.TREATMENT].counts[Kind.SAVE] > 20_000, "the figures stay as they came"


def test_who_saw_nothing_is_left_out_and_named() -> None:
    folded = folded_test(users=1000)
    for number in range(30):
        add(folded, 10**7 + number, Arm.TREATMENT, 0, 3)
    found = judged(folded)
    assert found.without_impression == 30
    assert "left out: 30 requesters who engaged and had no impression" in text(found)


def test_the_report_is_a_table_and_a_sentence() -> None:
    found = judged(folded_test(rates=(0.3, 0.4)))
    shown = text(found).splitlines()
    assert shown[0].startswith("lens, test spring: ")
    assert any(line.startswith("requesters who engage") and line.count("%") == 5 for line in shown)
    assert shown[-1] == verdict(found) and shown[-1].endswith(".")
    machine = json.loads(json.dumps(as_json(found)))
    assert machine["outcome"] == "treatment_wins"
    by_users = machine["lift"]["by_users"]
    assert by_users["low"] < by_users["low_if_looked_once"] < by_users["value"] < by_users["high_if_looked_once"]
