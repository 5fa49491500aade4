"""Reported events are hostile: what is malformed, untrue, late or of no test never reaches the topic."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from pinstream.errors import BadRecordError
from rollout.ab.assignment import Arm, assign
from rollout.ab.events import MAX_EVENTS, Engagement, Kind, ReportedEvents, parse_engagement
from rollout.ab.intake import MAX_EARLY_MS, MAX_LATE_MS, Intake, Refusal
from rollout.generation import Application, Generation, Registry, Split, State

OLD, NEW = "ab" * 32, "cd" * 32
NOW_MS = 1_800_000_000_000
SPLIT = Split(application=Application.LENS, model=NEW, share=0.4, salt="spring", started_ms=0)
REGISTRY = Registry(
    generations={model: Generation(model=model, bits=256, artifact="m", state=State.LIVE) for model in (OLD, NEW)},
    live={Application.LENS: OLD},
    splits=(SPLIT,),
)
INTAKE = Intake(REGISTRY, "secret")


def requester_in(arm: Arm) -> str:
    return next(name for name in map(str, range(100)) if assign(SPLIT, name) is arm)


def reported(of: Arm = Arm.TREATMENT, **changes: Any) -> dict[str, Any]:
    event = {
        "event_id": "e1",
        "application": "lens",
        "test": "spring",
        "arm": of,
        "model": NEW if of is Arm.TREATMENT else OLD,
        "requester": requester_in(of),
        "kind": "save",
        "event_time": NOW_MS,
    }
    return {**event, **changes}


def parse(*events: dict[str, Any]) -> ReportedEvents:
    return ReportedEvents.model_validate_json(json.dumps({"events": events}))


@pytest.mark.parametrize("arm", list(Arm))
def test_a_true_event_is_taken_under_a_pseudonym(arm: Arm) -> None:
    event = parse(reported(arm)).events[0]
    taken = INTAKE.check(event, NOW_MS)
    assert isinstance(taken, Engagement)
    assert (taken.arm, taken.share, taken.kind, taken.event_time) == (arm, 0.4, Kind.SAVE, NOW_MS)
    assert "requester" not in json.loads(taken.value())
    assert taken.key() == taken.user.encode()
    assert parse_engagement(taken.value()) == taken


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"test": "autumn"}, Refusal.UNKNOWN_TEST),
        ({"application": "flashlight"}, Refusal.UNKNOWN_TEST),
        ({"arm": "control", "model": OLD}, Refusal.WRONG_ARM),
        ({"model": OLD}, Refusal.WRONG_MODEL),
        ({"event_time": NOW_MS - MAX_LATE_MS - 1}, Refusal.WRONG_TIME),
        ({"event_time": NOW_MS + MAX_EARLY_MS + 1}, Refusal.WRONG_TIME),
    ],
)
def test_what_is_not_true_is_refused(changes: dict[str, Any], why: Refusal) -> None:
    assert INTAKE.check(parse(reported(**changes)).events[0], NOW_MS) is why


def test_an_event_without_a_time_happens_now() -> None:
    event = reported()
    del event["event_time"]
    taken = INTAKE.check(parse(event).events[0], NOW_MS)
    assert isinstance(taken, Engagement) and taken.event_time == NOW_MS


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": ""},
        {"event_id": "x" * 65},
        {"event_id": "a b"},
        {"requester": ""},
        {"requester": "x" * 257},
        {"requester": 7},
        {"kind": "purchase"},
        {"arm": "both"},
        {"model": "ab"},
        {"test": "../spring"},
        {"event_time": "yesterday"},
        {"event_time": -1},
        {"more": 1},
    ],
)
def test_a_malformed_event_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(reported(**changes))


def test_a_request_has_a_bounded_number_of_events() -> None:
    assert len(parse(*[reported()] * MAX_EVENTS).events) == MAX_EVENTS
    for events in ([], [reported()] * (MAX_EVENTS + 1)):
        with pytest.raises(ValidationError):
            parse(*events)


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\xff", b"[" * 3000, b"x" * 5000])
def test_a_record_that_is_no_engagement_is_named(value: bytes | None) -> None:
    with pytest.raises(BadRecordError):
        parse_engagement(value)
