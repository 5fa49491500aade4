"""What a test says so far. Pure.

Two measures, by users and by volume, each tested at half of ALPHA: a generation that makes no difference is called
better or worse by either, at any of all looks together, in at most 5 % of tests.

A requester's impressions and engagements count up to the 99.9th percentile of both arms together (winsorized): a robot
in one arm then weighs as much as a keen person, and is still counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from rollout.ab.assignment import Arm
from rollout.ab.events import Kind
from rollout.ab.fold import KIND_NUMBER, FoldedTest
from rollout.ab.statistics import MIN_ENGAGED, Lift, SampleRatio, Sums, lift, sample_ratio
from rollout.generation import Application

ALPHA: Final = 0.05
"""Of both measures together."""
CAP_QUANTILE: Final = 0.999
MAX_IN_BOTH_ARMS: Final = 0.01
"""Share of requesters; more says that the arms are not kept apart."""


class Outcome(StrEnum):
    TREATMENT_WINS = "treatment_wins"
    CONTROL_WINS = "control_wins"
    MIXED = "mixed"
    """One measure is better and the other worse."""
    TOO_EARLY = "too_early"
    INVALID = "invalid"
    """The arms are not comparable; nothing is called."""


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """Of the requesters with at least one impression, seen in this arm only."""

    models: tuple[str, ...]
    requesters: int
    engaged: int
    counts: dict[Kind, int]
    """As they came, not winsorized."""
    user_share: float
    """Engaged ÷ requesters; nan without any."""
    volume: float
    """Engagements ÷ impressions, winsorized; nan without any."""


@dataclass(frozen=True, slots=True)
class Judgement:
    application: Application
    test: str
    first_ms: int
    last_ms: int
    events: int
    arms: dict[Arm, ArmFigures]
    by_users: Lift
    by_volume: Lift
    """Their bounds have confidence 1 - ALPHA ÷ 2 each, so that both hold with 1 - ALPHA; nan while it is too early."""
    ratio: SampleRatio
    in_both_arms: int
    without_impression: int
    """Requesters who engaged with something that nobody reported as shown: left out."""
    caps: tuple[int, int]
    """Up to which a requester's impressions and engagements count."""
    outcome: Outcome
    why: str
    """Of an invalid or early one, a clause for the sentence; else empty."""


@dataclass(frozen=True, slots=True)
class _Exposed:
    """Shapes: U requesters of one arm with at least one impression, K kinds."""

    impression_U: npt.NDArray[np.int64]
    engagement_U: npt.NDArray[np.int64]
    count_K: npt.NDArray[np.int64]
    unseen: int
    """Requesters without an impression."""


def judge(folded: FoldedTest) -> Judgement:
    """Never raises: a test without events in one arm is too early."""
    exposed = {arm: _exposed(folded.users.counts(arm)) for arm in Arm}
    caps = _caps(list(exposed.values()))
    users = {arm: Sums.of(one.engagement_U > 0, np.ones(len(one.impression_U))) for arm, one in exposed.items()}
    volume = {
        arm: Sums.of(np.minimum(one.engagement_U, caps[1]), np.minimum(one.impression_U, caps[0]))
        for arm, one in exposed.items()
    }
    arms = {
        arm: _figures(tuple(sorted(folded.models[arm])), one, users[arm], volume[arm]) for arm, one in exposed.items()
    }
    by_users, by_volume = (_lift(sums, arms) for sums in (users, volume))
    in_both = folded.users.in_both_arms
    ratio = sample_ratio(arms[Arm.CONTROL].requesters, arms[Arm.TREATMENT].requesters, min(folded.shares, default=0.5))
    outcome, why = _outcome(folded, arms, by_users, by_volume, ratio, in_both)
    return Judgement(
        application=folded.application,
        test=folded.test,
        first_ms=folded.first_ms,
        last_ms=folded.last_ms,
        events=folded.events,
        arms=arms,
        by_users=by_users,
        by_volume=by_volume,
        ratio=ratio,
        in_both_arms=in_both,
        without_impression=sum(one.unseen for one in exposed.values()),
        caps=caps,
        outcome=outcome,
        why=why,
    )


def _exposed(count_UK: npt.NDArray[np.uint32]) -> _Exposed:
    seen_U = count_UK[:, KIND_NUMBER[Kind.IMPRESSION]] > 0
    count_XK = count_UK[seen_U].astype(np.int64)
    impression_X = count_XK[:, KIND_NUMBER[Kind.IMPRESSION]]
    return _Exposed(
        impression_X, count_XK.sum(axis=1) - impression_X, count_XK.sum(axis=0), int(np.count_nonzero(~seen_U))
    )


def _caps(exposed: list[_Exposed]) -> tuple[int, int]:
    # over both arms together, so that the cap favours neither
    columns = (
        np.concatenate([one.impression_U for one in exposed]),
        np.concatenate([one.engagement_U for one in exposed]),
    )
    impressions, engagements = (
        max(1, int(np.quantile(column_U, CAP_QUANTILE, method="higher"))) if len(column_U) else 1
        for column_U in columns
    )
    return impressions, engagements


def _lift(sums: dict[Arm, Sums], arms: dict[Arm, ArmFigures]) -> Lift:
    found = lift(sums[Arm.CONTROL], sums[Arm.TREATMENT], alpha=ALPHA / 2)
    if min(figures.engaged for figures in arms.values()) >= MIN_ENGAGED:
        return found
    unknown = np.array(np.nan)
    return Lift(found.value, unknown, unknown, unknown, unknown)


def _figures(models: tuple[str, ...], exposed: _Exposed, users: Sums, volume: Sums) -> ArmFigures:
    return ArmFigures(
        models=models,
        requesters=len(exposed.impression_U),
        engaged=int(users.top),
        counts={kind: int(exposed.count_K[number]) for kind, number in KIND_NUMBER.items()},
        user_share=float(users.ratio),
        volume=float(volume.ratio),
    )


def _outcome(
    folded: FoldedTest,
    arms: dict[Arm, ArmFigures],
    by_users: Lift,
    by_volume: Lift,
    ratio: SampleRatio,
    in_both_arms: int,
) -> tuple[Outcome, str]:
    fault = _fault(folded, arms, ratio, in_both_arms)
    if fault:
        return Outcome.INVALID, fault
    engaged = {arm: figures.engaged for arm, figures in arms.items()}
    fewest = min(engaged, key=lambda arm: engaged[arm])
    if engaged[fewest] < MIN_ENGAGED:
        return (
            Outcome.TOO_EARLY,
            f"{engaged[fewest]} requesters have engaged in the {fewest}, expected at least {MIN_ENGAGED} in each arm",
        )
    signs = {int(measure.called(engaged[Arm.CONTROL], engaged[Arm.TREATMENT])) for measure in (by_users, by_volume)} - {
        0
    }
    if not signs:
        return Outcome.TOO_EARLY, ""
    if len(signs) > 1:
        return Outcome.MIXED, ""
    return (Outcome.TREATMENT_WINS if signs == {1} else Outcome.CONTROL_WINS), ""


def _fault(folded: FoldedTest, arms: dict[Arm, ArmFigures], ratio: SampleRatio, in_both_arms: int) -> str:
    """Why the arms are not comparable; empty if nothing speaks against it."""
    if len(folded.shares) > 1:
        shares = ", ".join(f"{share:.1%}" for share in sorted(folded.shares))
        return f"the share was changed while the test ran ({shares}): start a new one"
    for arm, figures in arms.items():
        if len(figures.models) > 1:
            models = ", ".join(model[:12] for model in figures.models)
            return f"the {arm} was served by more than one generation ({models}): start a new test"
    everybody = sum(figures.requesters for figures in arms.values()) + in_both_arms
    if in_both_arms > MAX_IN_BOTH_ARMS * everybody:
        return f"{in_both_arms} of {everybody} requesters were seen in both arms: they are not kept apart"
    if ratio.mismatch:
        return (
            f"{ratio.seen:.2%} of requesters are in the treatment, expected {ratio.expected:.2%}: more than chance "
            "explains, so one arm loses requesters or events; find out why and start a new test"
        )
    return ""
