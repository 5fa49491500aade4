"""Simulated users: nothing is found where there is nothing, however often one looks; what is there is found.

Shapes: R runs, L looks, U requesters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import integrate, special, stats

from rollout.ab.statistics import (
    MIN_ENGAGED,
    MIXTURE_LIFT,
    Lift,
    Sums,
    always_valid_margin,
    lift,
    sample_ratio,
    sample_ratio_evidence,
)

Ints = npt.NDArray[np.int64]
ALPHA = 0.05
RUNS = 2000


def running(top_RU: Ints, bottom_RU: Ints) -> Sums:
    """The sums after each requester, who comes once and is done."""
    top, bottom = top_RU.astype(float), bottom_RU.astype(float)
    columns = (top, bottom, top * top, top * bottom, bottom * bottom)
    users = np.broadcast_to(np.arange(1.0, top.shape[-1] + 1), top.shape)
    return Sums(users, *(np.cumsum(column, axis=-1) for column in columns))


def shares(random: np.random.Generator, rate: float, group: int, looks: int, runs: int = RUNS) -> Sums:
    """By users: `group` more of them at each look, of whom a `rate` engages."""
    engaged = np.cumsum(random.binomial(group, rate, (runs, looks)), axis=-1).astype(float)
    users = np.broadcast_to(np.arange(1.0, looks + 1) * group, engaged.shape)
    return Sums(users, engaged, users, engaged, engaged, users)


def ever(found: Lift, control: Sums, treatment: Sums) -> float:
    """Share of runs in which a winner is called at some look."""
    return float((found.called(control.top, treatment.top) != 0).any(axis=-1).mean())


def at_most(share: float, runs: int) -> float:
    """The largest share of runs that a true `share` leads to, but for one time in a thousand."""
    return float(stats.binom.ppf(0.999, runs, share)) / runs


@pytest.mark.parametrize("mixture", [0.01, MIXTURE_LIFT, 0.3])
@pytest.mark.parametrize(("group_control", "group_treatment"), [(10, 10), (36, 4)])
def test_nothing_is_found_by_users_where_nothing_is(mixture: float, group_control: int, group_treatment: int) -> None:
    """A look after every 20 or 40 requesters, 1,000 of them; a split in halves and one of 10 %."""
    random = np.random.default_rng(1)
    control, treatment = (shares(random, 0.6, group, 1000, 1000) for group in (group_control, group_treatment))
    found = lift(control, treatment, alpha=ALPHA, mixture=mixture)
    assert ever(found, control, treatment) <= ALPHA


def test_nothing_is_found_by_volume_where_nothing_is() -> None:
    """A look after every pair of requesters, whose taste and whose appetite differ."""
    called = naive = 0.0
    for seed in range(5):
        random = np.random.default_rng(seed)
        arms = []
        for _ in range(2):
            impression_RU = 1 + random.poisson(random.gamma(0.7, 6, (200, 2000)))
            arms.append(running(random.binomial(impression_RU, random.beta(1, 4, impression_RU.shape)), impression_RU))
        found = lift(*arms, alpha=ALPHA, mixture=0.1)
        called += ever(found, *arms) / 5
        late = slice(MIN_ENGAGED, None)
        naive += float(((found.low_once > 0) | (found.high_once < 0))[:, late].any(axis=-1).mean()) / 5
    assert called <= ALPHA
    assert naive > 4 * ALPHA, "the usual interval, looked at again and again, finds something: the trial has bite"


def test_nothing_is_found_while_the_same_requesters_come_again() -> None:
    """250 requesters in each arm come back over 60 looks, keen ones oftener; a look sees all that was done so far."""
    runs, users, looks = 400, 250, 60
    random = np.random.default_rng(2)
    sums: list[dict[str, list[Sums]]] = []
    for _ in range(2):
        visits_RU = random.gamma(0.5, 1.0, (runs, users))
        taste_RU = random.beta(0.5, 1.0, (runs, users))
        arrival_RU = random.integers(0, looks // 2, (runs, users))
        impression_RU, engagement_RU = np.zeros((2, runs, users), np.int64)
        arm: dict[str, list[Sums]] = {"users": [], "volume": []}
        for look in range(looks):
            seen_RU = np.where(arrival_RU <= look, random.poisson(visits_RU), 0) + (arrival_RU == look)
            impression_RU = impression_RU + seen_RU
            engagement_RU = engagement_RU + random.binomial(seen_RU, taste_RU)
            arm["volume"].append(Sums.of(engagement_RU, impression_RU))
            arm["users"].append(Sums.of(engagement_RU > 0, impression_RU > 0))
        sums.append(arm)
    for measure in ("users", "volume"):
        for mixture in (MIXTURE_LIFT, 0.2):
            called = np.zeros(runs, bool)
            for look in range(looks):
                control, treatment = (arm[measure][look] for arm in sums)
                engaged = [arm["users"][look].top for arm in sums]
                called |= lift(control, treatment, alpha=ALPHA, mixture=mixture).called(*engaged) != 0
            assert called.mean() <= ALPHA, (measure, mixture)


@pytest.mark.parametrize("planted", [0.04, 0.08, -0.06])
def test_a_planted_lift_is_found_with_the_expected_power(planted: float) -> None:
    random = np.random.default_rng(3)
    rate, users = 0.3, 20_000
    control, treatment = (
        shares(random, rate, 100, users // 100),
        shares(random, rate * (1 + planted), 100, users // 100),
    )
    found = lift(control, treatment, alpha=ALPHA)
    called = found.called(control.top, treatment.top)
    variance = ((1 - rate) / rate + (1 - rate * (1 + planted)) / (rate * (1 + planted))) / users
    margin = float(always_valid_margin(np.array(variance), ALPHA, MIXTURE_LIFT))
    power_at_the_end = float(special.ndtr((abs(np.log1p(planted)) - margin) / np.sqrt(variance)))
    right = called == np.sign(planted)
    error = 4 * np.sqrt(max(power_at_the_end * (1 - power_at_the_end), 1e-3) / RUNS)
    assert abs(float(right[:, -1].mean()) - power_at_the_end) <= error + 0.01
    assert float(right.any(axis=-1).mean()) >= float(right[:, -1].mean()), "looking often finds it no later"
    assert float((called == -np.sign(planted)).any(axis=-1).mean()) <= ALPHA / 2


def test_the_interval_covers_the_truth_at_all_looks_together() -> None:
    random = np.random.default_rng(4)
    control, treatment = shares(random, 0.4, 50, 400), shares(random, 0.44, 50, 400)
    found = lift(control, treatment, alpha=ALPHA, mixture=0.2)
    late = slice(5, None)
    outside = (found.low[:, late] > 0.1) | (found.high[:, late] < 0.1)
    assert float(outside.any(axis=-1).mean()) <= at_most(ALPHA, RUNS)
    once = (found.low_once[:, -1] > 0.1) | (found.high_once[:, -1] < 0.1)
    assert abs(float(once.mean()) - ALPHA) < 0.02, "the usual interval holds for one look"


@pytest.mark.parametrize(("variance", "mixture"), [(1e-2, 0.05), (1e-4, 0.05), (1e-3, 0.5)])
def test_the_margin_is_where_the_mixture_likelihood_ratio_is_one_over_alpha(variance: float, mixture: float) -> None:
    margin = float(always_valid_margin(np.array(variance), ALPHA, mixture))
    ratio, _ = integrate.quad(
        lambda effect: (
            stats.norm.pdf(margin, effect, np.sqrt(variance))
            / stats.norm.pdf(margin, 0, np.sqrt(variance))
            * stats.norm.pdf(effect, 0, mixture)
        ),
        -10 * mixture,
        10 * mixture,
        points=[margin],
        limit=500,
    )
    assert ratio == pytest.approx(1 / ALPHA, rel=1e-6)


def test_the_delta_method_agrees_with_the_bootstrap() -> None:
    random = np.random.default_rng(5)
    impression_U = 1 + random.poisson(random.gamma(0.7, 6, 1500))
    engagement_U = random.binomial(impression_U, random.beta(1, 4, 1500))
    drawn = random.integers(0, 1500, (3000, 1500))
    logs = np.log(engagement_U[drawn].sum(axis=1) / impression_U[drawn].sum(axis=1))
    assert float(np.sqrt(Sums.of(engagement_U, impression_U).log_variance)) == pytest.approx(logs.std(), rel=0.06)


def test_by_users_the_variance_is_that_of_a_share() -> None:
    engaged_U = np.array([1, 0, 0, 1, 0])
    expected = engaged_U.var(ddof=1) / len(engaged_U) / engaged_U.mean() ** 2
    assert float(Sums.of(engaged_U, np.ones(5)).log_variance) == pytest.approx(expected)


def test_nothing_can_be_told_of_nothing() -> None:
    some, none = Sums.of([0, 1, 1], [1, 1, 1]), Sums.of([], [])
    for control, treatment in ((some, none), (none, some), (none, none), (Sums.of([0, 0], [1, 1]), some)):
        found = lift(control, treatment, alpha=ALPHA)
        assert np.isnan(found.value) and np.isnan(found.low)
        assert found.called(10**6, 10**6) == 0
    assert lift(some, some, alpha=ALPHA).called(MIN_ENGAGED - 1, MIN_ENGAGED) == 0
    everybody = Sums.of([1, 1], [1, 1])
    assert lift(everybody, everybody, alpha=ALPHA).called(10**6, 10**6) == 0, "without variance nothing is known"
    for alpha, mixture in ((0.0, 0.1), (1.0, 0.1), (0.05, 0.0)):
        with pytest.raises(ValueError):
            lift(some, some, alpha=alpha, mixture=mixture)


@pytest.mark.parametrize("expected", [0.5, 0.1])
def test_a_sample_ratio_as_expected_is_no_mismatch_at_any_look(expected: float) -> None:
    random = np.random.default_rng(6)
    treatment = np.cumsum(random.binomial(10, expected, (RUNS, 1000)), axis=-1)
    control = 10 * np.arange(1, 1001) - treatment
    mismatch = sample_ratio_evidence(control, treatment, expected) >= np.log(100)
    assert float(mismatch.any(axis=-1).mean()) <= 0.01
    assert not sample_ratio(int(control[0, -1]), int(treatment[0, -1]), expected).mismatch


@pytest.mark.parametrize(("expected", "seen"), [(0.5, 0.48), (0.5, 0.53), (0.1, 0.085)])
def test_a_sample_ratio_mismatch_is_found(expected: float, seen: float) -> None:
    random = np.random.default_rng(7)
    treatment = random.binomial(20_000, seen, 300)
    found = [sample_ratio(20_000 - int(one), int(one), expected) for one in treatment]
    assert np.mean([one.mismatch for one in found]) > 0.95
    assert np.median([one.chi_square_p for one in found]) < 1e-5


def test_the_chi_square_test_is_the_usual_one() -> None:
    found = sample_ratio(5100, 4900, 0.5)
    assert found.chi_square_p == pytest.approx(stats.chisquare([5100, 4900], [5000, 5000]).pvalue)
    assert found.seen == 0.49
    assert np.isnan(sample_ratio(0, 0, 0.5).seen)
