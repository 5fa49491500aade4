"""Every gate can pass and can fail, and says by how much and where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pinstream.settings import GateSettings
from rollout.code_health import CodeHealth, code_health
from rollout.coverage import Coverage, Faults
from rollout.gates import (
    Gate,
    Verdict,
    code_health_gate,
    codes_gate,
    coverage_gate,
    dead_letters_gate,
    freshness_gate,
    golden_inputs_gate,
    latency_gate,
    model_gate,
    overlap_gate,
    p_at_1_gate,
    recall_gate,
    with_required,
)
from rollout.generation import Application
from rollout.query_result import Answer, QueryResult
from rollout.shown_queries import shown_queries

LENS = Application.LENS
BARS = GateSettings(min_queries=10)
RIGHT, WRONG = (1, 2, 3), (7, 8, 9)


def query(number: int, new: tuple[int, ...], live: tuple[int, ...] | None, seconds: float = 0.01) -> QueryResult:
    """Pins 1, 2 and 3 are expected."""
    return QueryResult(
        name=f"query {number}",
        application=LENS,
        expected=frozenset({1, 2, 3}),
        new=Answer(tuple((pin_id, 5) for pin_id in new), seconds),
        live=None if live is None else Answer(tuple((pin_id, 5) for pin_id in live), 0.01),
        image=None,
        box=None,
        pin_id=None,
    )


def queries(good: int, bad: int) -> list[QueryResult]:
    """Live finds everything; the new generation does for `good` of them, and nothing for `bad`."""
    return [query(i, RIGHT if i < good else WRONG, RIGHT) for i in range(good + bad)]


def test_model_gate() -> None:
    assert model_gate([], 3).verdict is Verdict.PASSED
    failed = model_gate(["http://w holds codes of 1024 bits"], 3)
    assert failed.verdict is Verdict.FAILED
    assert failed.worst == ("http://w holds codes of 1024 bits",)


@pytest.mark.parametrize("kind", ["missing", "stale", "extra"])
def test_coverage_gate(kind: str) -> None:
    whole = Coverage(living=1000, moving=3)
    assert coverage_gate(whole, BARS).verdict is Verdict.PASSED
    faults: dict[str, Any] = {kind: Faults(1, ("pin 7 is missing",))}
    holed = replace(whole, **faults)
    failed = coverage_gate(holed, BARS)
    assert failed.verdict is Verdict.FAILED
    assert failed.worst == ("pin 7 is missing",)
    assert coverage_gate(holed, GateSettings(max_coverage_faults=1)).verdict is Verdict.PASSED


def test_dead_letters_gate() -> None:
    few = Coverage(living=1000, dead_lettered=Faults(10, ("pin 7",)))
    assert dead_letters_gate(few, BARS).verdict is Verdict.PASSED
    assert dead_letters_gate(replace(few, dead_lettered=Faults(11, ("pin 7",))), BARS).worst == ("pin 7",)


def test_golden_inputs_gate() -> None:
    assert golden_inputs_gate(0, 32768, 0.0, "on cpu").verdict is Verdict.PASSED
    assert golden_inputs_gate(1, 32768, 0.0, "on cpu").worst == ("on cpu",)
    assert golden_inputs_gate(100, 32768, 0.005, "on cpu").verdict is Verdict.PASSED


def test_codes_gate() -> None:
    exact = [(pin_id, 0) for pin_id in range(1, 41)]
    assert codes_gate(exact, 2048, BARS).verdict is Verdict.PASSED
    assert codes_gate(exact[:10], 2048, BARS).verdict is Verdict.NOT_JUDGED
    failed = codes_gate([*exact[1:], (1, 2048)], 2048, BARS)
    assert failed.verdict is Verdict.FAILED
    assert failed.worst == ("pin 1: 2048 of 2048 bits differ",)


HEALTHY = CodeHealth(4000, 2048, 0, (), 0.1, 0.0, 60.0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"dead_bits": 1024, "dead_examples": (1024, 1025)}, "dead bits: 1024, 1025"),
        ({"mean_imbalance": 0.9}, "nearly constant"),
        ({"collision_share": 0.01}, "same code"),
        ({"effective_bits": 5.0}, "like 5.0 independent bits"),
    ],
)
def test_code_health_gate(fault: dict[str, object], words: str) -> None:
    assert code_health_gate(HEALTHY, BARS).verdict is Verdict.PASSED
    failed = code_health_gate(replace(HEALTHY, **fault), BARS)  # type: ignore[arg-type]  # fields by name
    assert failed.verdict is Verdict.FAILED
    assert len(failed.worst) == 1 and words in failed.worst[0]
    assert code_health_gate(None, BARS).verdict is Verdict.NOT_JUDGED


def test_overlap_gate() -> None:
    assert overlap_gate(queries(20, 0), LENS, BARS).verdict is Verdict.PASSED
    failed = overlap_gate(queries(3, 17), LENS, BARS)
    assert failed.verdict is Verdict.FAILED
    assert failed.worst[0].startswith("query 3: 0.00")
    assert overlap_gate(queries(9, 0), LENS, BARS).verdict is Verdict.NOT_JUDGED
    assert overlap_gate(queries(20, 0), Application.FLASHLIGHT, BARS).verdict is Verdict.NOT_JUDGED


@pytest.mark.parametrize(("gate", "figure"), [(p_at_1_gate, "P@1"), (recall_gate, "recall")])
def test_quality_gates(gate: object, figure: str) -> None:
    assert callable(gate)
    assert gate(queries(98, 2), LENS, BARS).verdict is Verdict.PASSED
    failed = gate(queries(97, 3), LENS, BARS)
    assert failed.verdict is Verdict.FAILED
    assert failed.name == f"{figure} lens"
    assert failed.worst == ("query 97: 0.00, live 1.00", "query 98: 0.00, live 1.00", "query 99: 0.00, live 1.00")
    assert gate(queries(5, 4), LENS, BARS).verdict is Verdict.NOT_JUDGED


def test_without_anything_live_only_a_floor_judges() -> None:
    alone = [query(i, RIGHT if i < 6 else WRONG, None) for i in range(20)]
    assert p_at_1_gate(alone, LENS, BARS).verdict is Verdict.NOT_JUDGED
    assert p_at_1_gate(alone, LENS, GateSettings(min_queries=10, min_p_at_1=0.3)).verdict is Verdict.PASSED
    failed = p_at_1_gate(alone, LENS, GateSettings(min_queries=10, min_p_at_1=0.31))
    assert failed.verdict is Verdict.FAILED
    assert failed.worst[0] == "query 6: 0.00"


def test_recall_counts_what_k_hits_can_hold() -> None:
    many = frozenset(range(1, 101))
    assert Answer(((1, 0), (2, 0), (500, 0)), 0.1).recall(many, 2) == 1.0
    assert Answer(((1, 0), (2, 0), (500, 0)), 0.1).recall(frozenset({1, 9}), 3) == 0.5


def test_latency_gate() -> None:
    def slow(count: int, seconds: float, slowest: int = 0) -> list[QueryResult]:
        return [query(i, RIGHT, RIGHT, 9.0 if i < slowest else seconds) for i in range(count)]

    assert latency_gate(slow(50, 0.015), BARS).verdict is Verdict.PASSED
    assert latency_gate(slow(50, 0.0151), BARS).verdict is Verdict.FAILED
    assert latency_gate(slow(50, 0.01, slowest=5), BARS).verdict is Verdict.PASSED  # too few for a p99
    failed = latency_gate(slow(200, 0.01, slowest=5), BARS)
    assert failed.verdict is Verdict.FAILED
    assert failed.worst[0] == "query 0: 9000.0 ms, live 10.0 ms"
    assert latency_gate(slow(5, 0.01), BARS).verdict is Verdict.NOT_JUDGED


def test_freshness_gate() -> None:
    assert freshness_gate(1.9, 0.2, BARS).verdict is Verdict.PASSED
    assert freshness_gate(2.1, None, BARS).verdict is Verdict.FAILED
    assert freshness_gate(None, 0.2, BARS).verdict is Verdict.NOT_JUDGED


def test_a_required_gate_blocks_when_it_is_not_judged() -> None:
    open_ones = [overlap_gate([], LENS, BARS), code_health_gate(None, BARS), freshness_gate(None, None, BARS)]
    marked = with_required(open_ones, BARS.required, something_is_live=True)
    assert [one.blocks for one in marked] == [True, True, False]
    assert "and it must be" in marked[0].sentence()
    marked = with_required(open_ones, BARS.required, something_is_live=False)
    assert [one.gate for one in marked if one.blocks] == [Gate.CODE_HEALTH]


def test_health_of_codes() -> None:
    random = np.random.default_rng(0)
    even = random.integers(0, 256, (2000, 64), np.uint8)
    found = code_health(even)
    assert found is not None
    assert (found.dead_bits, found.collision_share) == (0, 0.0)
    assert found.mean_imbalance < 0.05
    assert 0.9 < found.effective_share < 1.1
    dead = even.copy()
    dead[:, 32:] = 0b10101010
    found = code_health(dead)
    assert found is not None
    assert found.dead_share == 0.5
    assert found.dead_examples[:2] == (256, 257)
    assert 0.4 < found.mean_imbalance < 0.6
    repeated = np.repeat(even[:500], 4, axis=0)
    found = code_health(repeated)
    assert found is not None
    assert found.collision_share == pytest.approx(3 / 1999)
    twins = np.concatenate([even[:, :1]] * 64, axis=1)  # 8 bits, 64 times
    found = code_health(twins)
    assert found is not None
    assert 7 < found.effective_bits < 9
    assert code_health(even[:50]) is None


def test_a_page_shows_what_was_lost_first() -> None:
    shown = shown_queries(queries(40, 8), 10)
    assert [one.name for one in shown[:6]] == [f"query {number}" for number in range(40, 46)]
    assert len(shown) == 10
