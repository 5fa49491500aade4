"""Events over HTTP, through a real Kafka, into a report."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from confluent_kafka import Producer
from fastapi import FastAPI
from typer.testing import CliRunner

from consumers.topic_fold import read_topic
from pinstream import metrics
from pinstream.cli.main import app as command
from pinstream.errors import FatalError, RetryableError
from pinstream.http_status import HttpServer
from pinstream.kafka_clients import client_config
from pinstream.settings import Settings
from rollout.ab import kafka_engagements
from rollout.ab.assignment import Arm, assign
from rollout.ab.events import Engagement, ReportedEvents
from rollout.ab.intake import Intake
from rollout.ab.kafka_engagements import EngagementProducer, read_engagements
from rollout.generation import Application, Generation, Registry, Split, State
from rollout.http_ab import MAX_BODY_BYTES, EventIntake, add_ab

OLD, NEW = "ab" * 32, "cd" * 32
SPLIT = Split(application=Application.LENS, model=NEW, share=0.5, salt="spring", started_ms=0)
REGISTRY = Registry(
    generations={model: Generation(model=model, bits=256, artifact="m", state=State.LIVE) for model in (OLD, NEW)},
    live={Application.LENS: OLD},
    splits=(SPLIT,),
)
INTAKE = Intake(REGISTRY, "secret")


@pytest.fixture
def ab_settings(settings: Settings) -> Settings:
    topics = settings.topics.model_copy(update={"engagements": f"engagements.{uuid.uuid4().hex[:8]}"})
    return settings.model_copy(update={"topics": topics})


@pytest.fixture
def producer(ab_settings: Settings) -> Iterator[EngagementProducer]:
    producer = EngagementProducer(ab_settings)
    yield producer
    producer.close()


def served(sink: object) -> Iterator[httpx.Client]:
    app = FastAPI()
    intake = EventIntake(sink, lambda: REGISTRY, "secret")  # type: ignore[arg-type]  # one is a sink that is away
    add_ab(app, intake)
    server = HttpServer(app, Settings().http)
    server.start()
    try:
        with httpx.Client(base_url=server.url, timeout=20) as client:
            yield client
    finally:
        server.stop()
        intake.close()


@pytest.fixture
def front_door(producer: EngagementProducer) -> Iterator[httpx.Client]:
    yield from served(producer)


@pytest.fixture
def unused_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # bound and never listening: connections are refused
        yield holder.getsockname()[1]


def event(requester: str, number: int, kind: str) -> dict[str, object]:
    arm = assign(SPLIT, requester)
    return {
        "event_id": f"{number}",
        "application": "lens",
        "test": "spring",
        "arm": arm,
        "model": NEW if arm is Arm.TREATMENT else OLD,
        "requester": requester,
        "kind": kind,
    }


def session(requester: str, random: np.random.Generator, rates: dict[Arm, float]) -> list[dict[str, object]]:
    impressions = [event(requester, number, "impression") for number in range(int(random.integers(1, 4)))]
    engaged = random.random() < rates[assign(SPLIT, requester)]
    return [*impressions, event(requester, 100, "long_click")] if engaged else impressions


def test_reported_events_become_a_verdict(
    front_door: httpx.Client, ab_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    events = [
        one
        for number in range(3000)
        for one in session(f"alice-{number}", random, {Arm.CONTROL: 0.3, Arm.TREATMENT: 0.45})
    ]
    counted = metrics.AB_EVENTS.labels("lens", "treatment", "impression")._value.get()
    for start in [*range(0, len(events), 500), 0]:  # the first ones come again
        answer = front_door.post("/v1/events", json={"events": events[start : start + 500]})
        assert answer.status_code == 202, answer.text
        assert answer.json()["refused"] == {}
    assert metrics.AB_EVENTS.labels("lens", "treatment", "impression")._value.get() > counted
    stray = Producer(client_config(ab_settings))
    stray.produce(ab_settings.topics.engagements, b"no engagement")
    assert stray.flush(10) == 0

    raw = list(read_topic(ab_settings, ab_settings.topics.engagements, ab_settings.topics.partitions))
    assert len(raw) == len(events) + 501
    assert not any(b"alice" in (record.value() or b"") + (record.key() or b"") for record in raw)

    for name, value in ab_settings.environment().items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(command, ["ab", "report", "--application", "lens", "--since", "1d"])
    assert shown.exit_code == 0, shown.output
    assert "The treatment wins: flip lens to cdcdcdcdcdcd" in shown.output
    assert "not counted: 500 events that came again, 1 records that are no events" in shown.output
    printed = CliRunner().invoke(command, ["ab", "report", "--json"])
    assert printed.exit_code == 0, printed.exception
    machine = json.loads(printed.output)
    assert machine["outcome"] == "treatment_wins"
    assert sum(arm["requesters"] for arm in machine["arms"].values()) == 3000
    later = CliRunner().invoke(command, ["ab", "report", "--since", "2999-01-01T00:00:00Z"])
    assert isinstance(later.exception, FatalError) and "no events" in str(later.exception)


def test_only_what_was_appended_since_is_read(producer: EngagementProducer, ab_settings: Settings) -> None:
    raw = Producer(client_config(ab_settings))
    now_ms = time.time_ns() // 1_000_000
    for age_h in (30, 20, 10, 1):
        for partition in range(2):  # of three: one stays empty
            raw.produce(
                ab_settings.topics.engagements, b"%d" % age_h, partition=partition, timestamp=now_ms - age_h * 3_600_000
            )
    assert raw.flush(10) == 0
    for since_h, expected in ((40, 8), (15, 4), (0.5, 0)):
        since_ms = now_ms - int(since_h * 3_600_000)
        assert len(list(read_engagements(ab_settings, since_ms))) == expected


def test_what_is_hostile_is_refused_and_costs_little(front_door: httpx.Client) -> None:
    good = event("bob", 1, "save")
    wrong = {**good, "test": "autumn"}
    answer = front_door.post("/v1/events", json={"events": [good, wrong]})
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "refused": {"unknown_test": 1}})
    for body in (b"", b"{", b'{"events": []}', b"[" * 100_000, json.dumps({"events": [good] * 501}).encode()):
        answer = front_door.post("/v1/events", content=body)
        assert answer.status_code == 422, body[:20]
        assert len(answer.content) < 2000
    assert front_door.post("/v1/events", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
    assert front_door.post("/v1/events", content=iter([b"x"])).status_code == 411


class _Away:
    def publish(self, _engagements: object) -> None:
        raise RetryableError("Kafka is away")


def test_an_answer_is_given_only_when_kafka_has_the_events() -> None:
    for client in served(_Away()):
        answer = client.post("/v1/events", json={"events": [event("bob", 1, "save")]})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_a_producer_gives_up_on_a_kafka_that_is_away(
    settings: Settings, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_engagements, "ensure_topics", lambda *_: [])
    monkeypatch.setattr(kafka_engagements, "reachable_admin", lambda _: None)
    monkeypatch.setattr(kafka_engagements, "_ACKNOWLEDGED_WITHIN_S", 0.5)
    nobody = settings.kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{unused_port}"})
    producer = EngagementProducer(settings.model_copy(update={"kafka": nobody}))
    engagement = INTAKE.check(ReportedEvents.model_validate({"events": [event("bob", 1, "save")]}).events[0], 0)
    assert isinstance(engagement, Engagement)
    with pytest.raises(RetryableError, match="acknowledged"):
        producer.publish([engagement])
