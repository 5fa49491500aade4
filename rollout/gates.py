"""What a new generation must show before it may be flipped to. Pure: measurements in, verdicts out.

Every gate has a figure, a bar (`GateSettings`) and, where it fails, the worst examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from pinstream.settings import GateSettings
from rollout.code_health import CodeHealth
from rollout.coverage import Coverage
from rollout.generation import Application
from rollout.query_result import QueryResult

MAX_WORST: Final = 10
P99_QUERIES: Final = 200
"""With fewer, the p99 is one or two searches."""
SLACK_S: Final = 0.005
"""Differences of latency below this are a machine's noise."""


class Gate(StrEnum):
    MODEL = "model"
    COVERAGE = "coverage"
    DEAD_LETTERS = "dead letters"
    GOLDEN_INPUTS = "golden inputs"
    CODES = "codes"
    CODE_HEALTH = "code health"
    OVERLAP = "overlap"
    P_AT_1 = "P@1"
    RECALL = "recall"
    LATENCY = "latency"
    FRESHNESS = "freshness"


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class GateResult:
    gate: Gate
    verdict: Verdict
    figure: str
    """What was measured; why not, if it was not."""
    bar: str
    """What was expected."""
    worst: tuple[str, ...] = ()
    """The worst examples, a sentence each."""
    application: Application | None = None
    """None: all."""
    required: bool = False
    """It blocks the flip when it was not judged, too."""

    @property
    def name(self) -> str:
        return f"{self.gate} {self.application}" if self.application else str(self.gate)

    @property
    def blocks(self) -> bool:
        return self.verdict is Verdict.FAILED or (self.required and self.verdict is Verdict.NOT_JUDGED)

    def sentence(self) -> str:
        needed = ", and it must be" if self.required and self.verdict is Verdict.NOT_JUDGED else ""
        return f"{self.name} {self.verdict}{needed}: {self.figure}; expected {self.bar}"


def not_judged(gate: Gate, why: str, bar: str, application: Application | None = None) -> GateResult:
    return GateResult(gate, Verdict.NOT_JUDGED, why, bar, application=application)


def with_required(results: Iterable[GateResult], names: Sequence[str], *, something_is_live: bool) -> list[GateResult]:
    """Mark the gates that must be judged; without anything live there is no overlap to judge."""
    return [
        replace(one, required=one.gate in names and (something_is_live or one.gate is not Gate.OVERLAP))
        for one in results
    ]


def model_gate(faults: Sequence[str], workers: int) -> GateResult:
    """Every worker serves the model and the bits that the registry and the artifact name."""
    bar = "every worker, the registry and the artifact to name the same model and bits"
    figure = f"{workers} workers, {len(faults)} differences"
    return _judge(Gate.MODEL, not faults, figure, bar, faults)


def coverage_gate(found: Coverage, settings: GateSettings) -> GateResult:
    """Every living Pin of the Pins topic is in the shards with its newest event, and nothing else is."""
    figure = (
        f"of {found.living} living Pins {found.missing.count} missing, {found.stale.count} stale; {found.extra.count} "
        f"extra; not judged: {found.moving} that changed meanwhile"
    )
    bar = f"at most {settings.max_coverage_faults} missing, stale or extra"
    worst = (*found.missing.examples, *found.stale.examples, *found.extra.examples)
    return _judge(Gate.COVERAGE, found.faults <= settings.max_coverage_faults, figure, bar, worst)


def dead_letters_gate(found: Coverage, settings: GateSettings) -> GateResult:
    """Few living Pins could not be embedded."""
    share = found.dead_lettered.count / max(1, found.living)
    figure = f"{found.dead_lettered.count} of {found.living} living Pins could not be embedded"
    bar = f"at most {100 * settings.max_dead_letter_share:g} %"
    passed = share <= settings.max_dead_letter_share
    return _judge(Gate.DEAD_LETTERS, passed, figure, bar, found.dead_lettered.examples)


def golden_inputs_gate(differing: int, total: int, bound: float, where: str) -> GateResult:
    """The artifact gives its own golden codes here.

    Args:
        where: model, device and precision, for people.
    """
    figure = f"{differing} of {total} bits of the artifact's golden inputs differ ({100 * differing / total:.3f} %)"
    return _judge(Gate.GOLDEN_INPUTS, differing / total <= bound, figure, f"at most {100 * bound:g} %", [where])


def codes_gate(differing: Sequence[tuple[int, int]], bits: int, settings: GateSettings) -> GateResult:
    """The codes in the shards are what the artifact gives for the Pins' images.

    Args:
        differing: Pin id and number of differing bits of each Pin that was embedded again.
    """
    bar = f"at most {100 * settings.max_reembed_share:g} % of the bits to differ"
    if len(differing) < min(16, settings.reembed_pins):
        return not_judged(
            Gate.CODES,
            f"the images of only {len(differing)} Pins can be fetched from here (see the fetch settings)",
            bar,
        )
    share = sum(count for _, count in differing) / (bits * len(differing))
    figure = f"{len(differing)} Pins embedded again: {100 * share:.3f} % of their bits differ"
    worst = [
        f"pin {pin_id}: {count} of {bits} bits differ"
        for pin_id, count in sorted(differing, key=lambda one: -one[1])
        if count
    ]
    return _judge(Gate.CODES, share <= settings.max_reembed_share, figure, bar, worst)


def code_health_gate(found: CodeHealth | None, settings: GateSettings) -> GateResult:
    """The codes use their bits."""
    bar = (
        f"at most {100 * settings.max_dead_bit_share:g} % dead bits, {settings.max_bit_imbalance:g} mean imbalance, "
        f"{100 * settings.max_collision_share:g} % of pairs alike; at least {settings.min_effective_bits:g} "
        "effective bits"
    )
    if found is None:
        return not_judged(Gate.CODE_HEALTH, "the shards hold too few codes", bar)
    figure = (
        f"{found.dead_bits} of {found.bits} bits dead ({100 * found.dead_share:.1f} %), mean imbalance "
        f"{found.mean_imbalance:.2f}, {100 * found.collision_share:.3f} % of pairs alike, "
        f"{found.effective_bits:.1f} effective bits, of {found.codes} codes"
    )
    worst = []
    if found.dead_share > settings.max_dead_bit_share:
        worst.append(f"dead bits: {', '.join(map(str, found.dead_examples))}, …")
    if found.mean_imbalance > settings.max_bit_imbalance:
        worst.append(f"most bits are nearly constant: mean imbalance {found.mean_imbalance:.2f}")
    if found.collision_share > settings.max_collision_share:
        worst.append(f"{100 * found.collision_share:.3f} % of all pairs of Pins have the same code")
    if found.effective_bits < settings.min_effective_bits:
        worst.append(f"the codes tell Pins apart like {found.effective_bits:.1f} independent bits")
    return _judge(Gate.CODE_HEALTH, not worst, figure, bar, worst)


def overlap_gate(results: Sequence[QueryResult], application: Application, settings: GateSettings) -> GateResult:
    """The new generation finds some of what the live one finds."""
    bar = f"mean overlap@{settings.overlap_k} of at least {settings.min_overlap:g}"
    overlaps = [
        (one.overlap(settings.overlap_k), one) for one in _of(results, application) if one.live and one.live.hits
    ]
    if len(overlaps) < settings.min_queries:
        return not_judged(Gate.OVERLAP, _too_few(len(overlaps), "compared with live"), bar, application)
    mean = float(np.mean([overlap for overlap, _ in overlaps]))
    worst = [
        f"{one.name}: {overlap:.2f} of the first {settings.overlap_k} hits are the same"
        for overlap, one in sorted(overlaps, key=lambda pair: pair[0])
    ]
    return _judge(
        Gate.OVERLAP, mean >= settings.min_overlap, f"{mean:.3f} of {len(overlaps)} queries", bar, worst, application
    )


def p_at_1_gate(results: Sequence[QueryResult], application: Application, settings: GateSettings) -> GateResult:
    """The first hit is right as often as the live generation's."""
    scores = [
        (
            float(one.new.first_is_right(one.expected)),
            float(one.live.first_is_right(one.expected)) if one.live else None,
            one,
        )
        for one in _of(results, application)
        if one.expected
    ]
    return _quality_gate(
        Gate.P_AT_1, scores, application, settings, settings.max_p_at_1_drop, floor=settings.min_p_at_1
    )


def recall_gate(results: Sequence[QueryResult], application: Application, settings: GateSettings) -> GateResult:
    """As many of the right Pins are among the first k as the live generation has there."""
    k = settings.overlap_k
    scores = [
        (one.new.recall(one.expected, k), one.live.recall(one.expected, k) if one.live else None, one)
        for one in _of(results, application)
        if one.expected
    ]
    return _quality_gate(Gate.RECALL, scores, application, settings, settings.max_recall_drop)


def latency_gate(results: Sequence[QueryResult], settings: GateSettings) -> GateResult:
    """Embedding a query and searching takes about as long as it does live; asked in turns."""
    bar = f"at most {settings.max_latency_ratio:g} × live, p50 and (from {P99_QUERIES} queries on) p99"
    pairs = [(one.new.seconds, one.live.seconds, one) for one in results if one.live is not None]
    if len(pairs) < settings.min_queries:
        return not_judged(Gate.LATENCY, _too_few(len(pairs), "compared with live"), bar)
    new, live = (np.quantile([pair[side] for pair in pairs], (0.5, 0.99)).tolist() for side in (0, 1))
    figure = ", ".join(
        f"{name} {1000 * mine:.1f} ms (live {1000 * other:.1f})"
        for name, mine, other in zip(("p50", "p99"), new, live, strict=True)
    )
    judged = 2 if len(pairs) >= P99_QUERIES else 1
    passed = all(
        mine <= max(settings.max_latency_ratio * other, other + SLACK_S)
        for mine, other in list(zip(new, live, strict=True))[:judged]
    )
    worst = [
        f"{one.name}: {1000 * mine:.1f} ms, live {1000 * other:.1f} ms"
        for mine, other, one in sorted(pairs, key=lambda pair: pair[1] - pair[0])
    ]
    return _judge(Gate.LATENCY, passed, figure, bar, worst)


def freshness_gate(p99_s: float | None, live_p99_s: float | None, settings: GateSettings) -> GateResult:
    """New Pins become searchable in time in this generation, too."""
    bar = f"p99 of at most {settings.max_freshness_s:g} s"
    if p99_s is None:
        return not_judged(Gate.FRESHNESS, "no Pin came while the validation ran", bar)
    live = "" if live_p99_s is None else f" (live {live_p99_s:.2f} s)"
    return _judge(Gate.FRESHNESS, p99_s <= settings.max_freshness_s, f"p99 {p99_s:.2f} s{live}", bar)


def _quality_gate(
    gate: Gate,
    scores: Sequence[tuple[float, float | None, QueryResult]],
    application: Application,
    settings: GateSettings,
    max_drop: float,
    floor: float = 0.0,
) -> GateResult:
    """Scores of each query, new and live; a drop is judged by its mean, and shown with its 95 % interval."""
    at_least = f", at least {floor:g}" if floor else ""
    bar = f"at most {max_drop:g} below live{at_least}"
    if len(scores) < settings.min_queries:
        return not_judged(gate, _too_few(len(scores), "with expected Pins"), bar, application)
    new = float(np.mean([score for score, _, _ in scores]))
    pairs = [(score, other, one) for score, other, one in scores if other is not None]
    drops = np.array([other - score for score, other, _ in pairs])
    passed = new >= floor
    figure = f"{new:.3f} of {len(scores)} queries"
    if len(pairs) >= settings.min_queries:
        margin = 1.96 * float(drops.std(ddof=1)) / np.sqrt(len(drops)) if len(drops) > 1 else 0.0
        live = float(np.mean([other for _, other, _ in pairs]))
        figure += f", live {live:.3f} (difference {-drops.mean():+.3f} ± {margin:.3f})"
        passed = passed and float(drops.mean()) <= max_drop
    elif not floor:
        return not_judged(gate, f"{figure}, nothing live to compare with", bar, application)
    worst = [
        f"{one.name}: {score:.2f}, live {other:.2f}"
        for score, other, one in sorted(pairs, key=lambda pair: pair[0] - pair[1])
        if score < other
    ] or [f"{one.name}: {score:.2f}" for score, _, one in scores if score < 1]
    return _judge(gate, passed, figure, bar, worst, application)


def _judge(
    gate: Gate,
    passed: bool,
    figure: str,
    bar: str,
    worst: Sequence[str] = (),
    application: Application | None = None,
) -> GateResult:
    verdict = Verdict.PASSED if passed else Verdict.FAILED
    return GateResult(gate, verdict, figure, bar, () if passed else tuple(worst[:MAX_WORST]), application)


def _of(results: Sequence[QueryResult], application: Application) -> list[QueryResult]:
    return [one for one in results if one.application is application]


def _too_few(count: int, what: str) -> str:
    return f"{count} queries {what}"
