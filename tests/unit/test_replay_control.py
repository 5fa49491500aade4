"""A replay yields to live freshness, comes back, never starves; and is refused while that is cheap."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rollout.replay_control import RECOVER_PER_S, Verdict, YieldControl, retention_sentence, retention_verdict

OBJECTIVE_S, SETTLE_S, FLOOR = 1.0, 10.0, 10.0


def control() -> YieldControl:
    return YieldControl(OBJECTIVE_S, SETTLE_S, FLOOR)


def closed_loop(
    capacity_per_s: Callable[[int], float], seconds: int, wanted_per_s: float = 1000.0
) -> tuple[list[float], list[float]]:
    """A machine that live Pins and a replay share. What does not fit delays live Pins, and p99 shows the worst of the
    last `SETTLE_S`. Returns rate and p99 of each second."""
    yielding = control()
    rates: list[float] = []
    moments: list[float] = []
    p99s: list[float] = []
    backlog_s = 0.0
    for now_s in range(seconds):
        recent = rates[-10:]
        freshness_s = max(moments[-10:], default=0.2)
        limit = yielding.decide(now_s, freshness_s, sum(recent) / len(recent) if len(recent) == 10 else None)
        rate = wanted_per_s if limit is None else min(wanted_per_s, limit)
        excess = rate / capacity_per_s(now_s) - 1
        backlog_s = max(0.0, backlog_s + excess) if excess > 0 else backlog_s * 0.5
        rates.append(rate)
        moments.append(0.2 + backlog_s)
        p99s.append(freshness_s)
    return rates, p99s


def test_alone_it_is_never_held() -> None:
    rates, _ = closed_loop(lambda _: 5000.0, 300)
    assert min(rates) == 1000


def test_under_pressure_it_yields_and_uses_most_of_what_is_free() -> None:
    rates, p99s = closed_loop(lambda _: 400.0, 1200)
    later = rates[200:]
    assert sum(later) / len(later) > 0.6 * 400, "most of what is free is used"
    assert sum(p99 > OBJECTIVE_S for p99 in p99s[200:]) < 0.15 * len(later), "and live Pins are fresh nearly always"


def test_after_the_pressure_it_is_soon_at_full_speed_and_free_again() -> None:
    rates, _ = closed_loop(lambda now_s: 20.0 if now_s < 200 else 5000.0, 700)
    assert min(rates[150:200]) < 40
    assert rates[-1] == 1000
    assert next(i for i, rate in enumerate(rates) if i > 200 and rate >= 900) < 480


def test_it_never_starves() -> None:
    rates, _ = closed_loop(lambda _: 0.001, 300)
    assert min(rates) == FLOOR


def test_it_never_falls_behind_what_is_appended() -> None:
    yielding = control()
    assert yielding.decide(0, 2.0, 300, 200.0) == 250
    assert yielding.decide(10, 2.0, 250, 400.0) == 500, "though it was to be cut"


def test_a_cut_halves_what_is_reached_and_waits_to_see_what_it_helped() -> None:
    yielding = control()
    assert yielding.decide(0, 2.0, 800) == 400
    assert yielding.decide(5, 2.0, 600) == 400
    assert yielding.decide(10, 2.0, 390) == 195
    assert yielding.decide(20, 2.0, None) == 97.5


def test_before_anything_is_known_of_its_speed_it_goes_to_the_floor_and_comes_back() -> None:
    yielding = control()
    assert yielding.decide(0, 2.0, None) == FLOOR
    assert yielding.decide(1, 0.1, None) == pytest.approx(FLOOR * (1 + RECOVER_PER_S))


def test_a_limit_that_holds_nothing_back_is_lifted() -> None:
    yielding = control()
    yielding.decide(0, 2.0, 100)
    for second in range(1, 300):
        yielding.decide(second, 0.1, 30.0)
    assert yielding.limit_per_s is None


def test_what_is_not_known_changes_nothing() -> None:
    yielding = control()
    assert yielding.decide(0, None, 100) is None
    yielding.decide(1, 2.0, 100)
    assert yielding.decide(100, None, 50) == 50
    assert yielding.decide(101, 0.9, 50) == 50, "neither bad nor good enough"


def test_an_hour_away_is_no_hour_of_good_freshness() -> None:
    yielding = control()
    yielding.decide(0, 2.0, 100)
    limit = yielding.decide(3600, 0.1, 50)
    assert limit is not None
    assert limit < 100


HOUR_MS = 3_600_000


def verdict(**changes: float | None) -> Verdict:
    given: dict[str, object] = {
        "elapsed_s": 100,
        "observed_s": 100,
        "eta_s": 7200,
        "fraction": 0.1,
        "retention_ms": HOUR_MS,
        "forced": False,
    }
    return retention_verdict(**(given | changes))  # type: ignore[arg-type]  # named as the parameters are


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Verdict.REFUSE),
        ({"forced": True}, Verdict.WARN),
        ({"observed_s": 30, "fraction": 0.001}, Verdict.WARN),
        ({"observed_s": 12, "fraction": 0.03}, Verdict.REFUSE),
        ({"observed_s": 5, "fraction": 0.03}, Verdict.WARN),
        ({"fraction": 0.5}, Verdict.WARN),
        ({"eta_s": 3499}, Verdict.FINE),
        ({"eta_s": 3501}, Verdict.REFUSE),
        ({"eta_s": 3400, "elapsed_s": 300}, Verdict.REFUSE),
        ({"eta_s": None}, Verdict.FINE),
    ],
)
def test_a_replay_must_end_before_deletes_are_forgotten(changes: dict[str, float | None], expected: Verdict) -> None:
    assert verdict(**changes) is expected


def test_the_refusal_says_which_setting_to_raise() -> None:
    said = retention_sentence("pins.v1", 7200, HOUR_MS)
    for named in ("2.0 h", "1.0 h", "delete.retention.ms of pins.v1", "topics.delete_retention_ms", "--force"):
        assert named in said
