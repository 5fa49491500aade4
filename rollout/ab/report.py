"""A judgement as a table and one sentence for people, and as JSON for machines. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from rollout.ab.assignment import Arm
from rollout.ab.events import Kind
from rollout.ab.judgement import ALPHA, Judgement, Outcome
from rollout.ab.statistics import Lift


def text(judgement: Judgement) -> str:
    """The table, what was left out, and the verdict."""
    control, treatment = (judgement.arms[arm] for arm in (Arm.CONTROL, Arm.TREATMENT))
    rows = [
        ("", "control", "treatment", "lift", f"{1 - ALPHA:.0%} interval, at any look"),
        ("generation", _models(control.models), _models(treatment.models), "", ""),
        ("requesters", f"{control.requesters:,}", f"{treatment.requesters:,}", "", ""),
        ("impressions", f"{control.counts[Kind.IMPRESSION]:,}", f"{treatment.counts[Kind.IMPRESSION]:,}", "", ""),
        *(
            (f"{kind}s".replace("_", " "), f"{control.counts[kind]:,}", f"{treatment.counts[kind]:,}", "", "")
            for kind in (Kind.SAVE, Kind.CLICK, Kind.LONG_CLICK)
        ),
        (
            "requesters who engage",
            _percent(control.user_share),
            _percent(treatment.user_share),
            *_lift_cells(judgement.by_users),
        ),
        (
            "engagements / impression",
            _number(control.volume),
            _number(treatment.volume),
            *_lift_cells(judgement.by_volume),
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{judgement.application}, test {judgement.test}: "
        f"{judgement.events:,} events from {_moment(judgement.first_ms)} to {_moment(judgement.last_ms)}",
        "",
        *("  ".join(_cell(cell, widths, column) for column, cell in enumerate(row)).rstrip() for row in rows),
        "",
        _ratio_line(judgement),
        *_left_out(judgement),
        "",
        verdict(judgement),
    ]
    return "\n".join(lines)


def verdict(judgement: Judgement) -> str:
    """One sentence that a product manager understands."""
    users = _measure("requesters engage", "requesters who engage", judgement.by_users, "more", "fewer")
    volume = _measure("engagements per impression", "engagements per impression", judgement.by_volume, "more", "fewer")
    application = judgement.application
    match judgement.outcome:
        case Outcome.TREATMENT_WINS:
            new = _models(judgement.arms[Arm.TREATMENT].models)
            return f"The treatment wins: flip {application} to {new}, since {users} and {volume}."
        case Outcome.CONTROL_WINS:
            return f"The control wins: keep {application} as it is, since {users} and {volume}."
        case Outcome.MIXED:
            return f"No winner for {application}: the measures contradict each other, {users}, but {volume}."
        case Outcome.INVALID:
            return f"No verdict for {application}: {judgement.why}."
        case Outcome.TOO_EARLY:
            why = judgement.why or f"{users} and {volume}"
            return f"No winner yet for {application}: {why}; let the test run on."


def as_json(judgement: Judgement) -> dict[str, Any]:
    """Everything of the table, with exact figures; null where nothing can be told."""
    return {
        "application": judgement.application,
        "test": judgement.test,
        "first_ms": judgement.first_ms,
        "last_ms": judgement.last_ms,
        "events": judgement.events,
        "outcome": judgement.outcome,
        "verdict": verdict(judgement),
        "arms": {
            arm: {
                "models": list(figures.models),
                "requesters": figures.requesters,
                "engaged": figures.engaged,
                "counts": {kind: figures.counts[kind] for kind in Kind},
                "user_share": _finite(figures.user_share),
                "volume": _finite(figures.volume),
            }
            for arm, figures in judgement.arms.items()
        },
        "lift": {"by_users": _lift_json(judgement.by_users), "by_volume": _lift_json(judgement.by_volume)},
        "confidence": 1 - ALPHA,
        "sample_ratio": {
            "expected": judgement.ratio.expected,
            "seen": _finite(judgement.ratio.seen),
            "chi_square_p": judgement.ratio.chi_square_p,
            "mismatch": judgement.ratio.mismatch,
        },
        "left_out": {
            "requesters_in_both_arms": judgement.in_both_arms,
            "requesters_without_impression": judgement.without_impression,
        },
        "caps": {"impressions": judgement.caps[0], "engagements": judgement.caps[1]},
    }


def _measure(called: str, subject: str, lift: Lift, up: str, down: str) -> str:
    low, high = float(lift.low), float(lift.high)
    between = f"between {_signed(low)} and {_signed(high)}"
    if low > 0 or high < 0:
        return f"{abs(float(lift.value)):.1%} {up if low > 0 else down} {called} ({between})"
    if math.isfinite(low) and math.isfinite(high):
        return f"the change in {subject} may be chance ({between})"
    return f"nothing can be said of {subject}"


def _ratio_line(judgement: Judgement) -> str:
    ratio = judgement.ratio
    seen = _percent(ratio.seen)
    verdict_on_it = "NOT AS EXPECTED" if ratio.mismatch else "as expected"
    return (
        f"sample ratio: {seen} of requesters in the treatment, expected {ratio.expected:.1%}: {verdict_on_it} "
        f"(chi-square p = {ratio.chi_square_p:.2g})"
    )


def _left_out(judgement: Judgement) -> list[str]:
    lines = [f"a requester counts with at most {judgement.caps[0]:,} impressions and {judgement.caps[1]:,} engagements"]
    if judgement.in_both_arms:
        lines.append(f"left out: {judgement.in_both_arms:,} requesters who were seen in both arms")
    if judgement.without_impression:
        lines.append(f"left out: {judgement.without_impression:,} requesters who engaged and had no impression")
    return lines


def _lift_cells(lift: Lift) -> tuple[str, str]:
    if not math.isfinite(float(lift.low)) or not math.isfinite(float(lift.high)):
        return _signed(float(lift.value)), "not yet"
    return _signed(float(lift.value)), f"{_signed(float(lift.low))} to {_signed(float(lift.high))}"


def _lift_json(lift: Lift) -> dict[str, float | None]:
    return {
        "value": _finite(float(lift.value)),
        "low": _finite(float(lift.low)),
        "high": _finite(float(lift.high)),
        "low_if_looked_once": _finite(float(lift.low_once)),
        "high_if_looked_once": _finite(float(lift.high_once)),
    }


def _cell(cell: str, widths: list[int], column: int) -> str:
    return cell.ljust(widths[column]) if column in (0, 4) else cell.rjust(widths[column])


def _models(models: tuple[str, ...]) -> str:
    return ", ".join(model[:12] for model in models) or "none"


def _moment(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _percent(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "–"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _signed(value: float) -> str:
    return f"{value:+.1%}" if math.isfinite(value) else "–"
