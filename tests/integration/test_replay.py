"""A replay on a real Kafka and a real Redis: its pace, its part of history, how it yields and when it is refused."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from consumers.pace import BURST_S
from consumers.replay_plan import ReplayPlan
from consumers.topic_fold import fold_topic, read_topic
from embedder.worker import EmbedWorker
from pinstream.cli.rollout import app
from pinstream.clock import SystemClock
from pinstream.codes import Fingerprint
from pinstream.errors import BadRecordError, FatalError, RetryableError
from pinstream.events import Domain, Image, Op, PinEvent, parse_event, parse_key
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics, pins_topics
from pinstream.settings import Settings
from producers.pin_source import data_uri
from rollout.commands import Commands
from rollout.controller import prepare
from rollout.front_door import registry_store
from rollout.generation import Registry, Replay, State
from rollout.kafka_offsets import GroupOffsets, embed_group
from rollout.kafka_replay import delete_retention_ms, looked_at, owners, planned
from rollout.redis_replay import ReplayMirror
from rollout.redis_signal import RedisSignal
from rollout.replay_commands import ReplayCommands
from rollout.replay_duty import ReplayDuty
from rollout.start_plan import plan_at_start
from tests.conftest import wait_for
from tests.light_worker import BITS, HashEncoder, image_input
from tests.oracle import check_codes, fold_pins
from tests.pipeline import running
from tests.workload import Workload, jpeg


class CountingEncoder(HashEncoder):
    """Knows how many images it was given."""

    def __init__(self) -> None:
        self.images = 0

    def encode(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        self.images += len(images_BHWC)
        return super().encode(images_BHWC)


@contextmanager
def replaying(
    settings: Settings, model: Fingerprint, plan: ReplayPlan | None = None, encoder: HashEncoder | None = None
) -> Iterator[EmbedWorker]:
    """One embed worker in a thread; drained and gone when the block ends."""
    worker = EmbedWorker(settings, encoder or HashEncoder(), image_input, model, plan=plan)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(60)
        assert not thread.is_alive(), "the worker did not stop"


class Rig:
    """A Pins topic with records on it, and what a test asks of its replay."""

    def __init__(self, settings: Settings, model: Fingerprint) -> None:
        self.settings = settings
        self.model = model
        admin = reachable_admin(settings)
        ensure_topics(admin, (*pins_topics(settings.topics), codes_topic(settings.topics, model)), settings.topics)
        self.admin = admin
        self.offsets = GroupOffsets(settings)
        self.mirror = ReplayMirror(settings.redis.url, settings.redis.timeout_s)
        store, signal = registry_store(settings), RedisSignal(settings.redis.url, settings.topics.pins, 1)
        self.commands = Commands(store, signal, "a test")
        self.replays = ReplayCommands(store, signal, "a test")

    def send(self, records: list[tuple[bytes, bytes | None]]) -> None:
        producer = Producer(client_config(self.settings))
        for key, value in records:
            producer.produce(self.settings.topics.pins, value, key)
        assert producer.flush(30) == 0

    def seen(self) -> tuple[dict[int, int], dict[int, int]]:
        found = self.offsets.see(embed_group(self.model.hex), self.settings.topics.pins)
        return dict(found.committed), dict(found.ends)

    def done(self) -> int:
        return sum(self.seen()[0].values())

    def wait_done(self) -> None:
        def at_end() -> bool:
            committed, ends = self.seen()
            return committed == {p: end for p, end in ends.items() if end or p in committed}

        wait_for(at_end, lambda: f"replayed: {self.seen()}")

    def begin(self, replay: Replay | None = None) -> Registry:
        """Register the generation and let it replay."""
        prepare(self.settings, self.model.hex)
        self.commands.start(self.model.hex, BITS, "light", planned(self.settings, replay or Replay()))
        return self.commands.move(self.model.hex, State.CREATED, State.REPLAYING)

    def commit(self, next_offsets: dict[int, int]) -> None:
        """As an embed worker of the generation would have."""
        consumer = Consumer(client_config(self.settings, group_id=embed_group(self.model.hex)))
        topic = self.settings.topics.pins
        consumer.commit(
            offsets=[TopicPartition(topic, p, offset) for p, offset in next_offsets.items()], asynchronous=False
        )
        consumer.close()

    def close(self) -> None:
        self.offsets.close()
        self.mirror.close()


@pytest.fixture
def rig(settings: Settings, model: Fingerprint) -> Iterator[Rig]:
    made = Rig(settings, model)
    yield made
    made.close()


def upsert(
    pin_id: int, image: int = 0, domain: Domain = Domain.PIN, event_time_ms: int | None = None
) -> tuple[bytes, bytes]:
    data = jpeg(image)
    event = PinEvent(
        pin_id=pin_id,
        op=Op.UPSERT,
        event_time=time.time_ns() // 1_000_000 if event_time_ms is None else event_time_ms,
        image=Image(uri=data_uri(data), signature=hashlib.sha256(data).hexdigest()),
        domain=domain,
    )
    return event.key(), event.value()


def test_a_pace_is_kept_paused_and_over_at_the_end(rig: Rig) -> None:
    rig.send([upsert(pin_id, pin_id % 7) for pin_id in range(1, 1501)])
    rig.mirror.tell(rig.model.hex, ReplayPlan(max_records_per_s=150))
    encoder = CountingEncoder()
    asked_s = time.monotonic()
    with replaying(rig.settings, rig.model, ReplayPlan(max_records_per_s=150), encoder):
        wait_for(lambda: rig.done() > 0, "the replay begins")
        before, started_s = rig.done(), time.monotonic()
        wait_for(lambda: time.monotonic() - started_s > 3, "three seconds of it")
        done, now_s = rig.done(), time.monotonic()
        assert done - before > 50 * (now_s - started_s)
        assert done <= 150 * (now_s - asked_s + BURST_S), f"{done} records in {now_s - asked_s:.1f} s"

        rig.mirror.tell(rig.model.hex, ReplayPlan(paused=True))
        still = stands_still(rig)
        assert still < 1500
        assert len(owners(rig.admin, embed_group(rig.model.hex), rig.settings.topics.pins)) == 3, "it stays a member"

        rig.mirror.tell(rig.model.hex, ReplayPlan())
        rig.wait_done()
        assert encoder.images < 50, "an image that was embedded is not embedded again"

        rig.mirror.tell(rig.model.hex, ReplayPlan(max_records_per_s=0.01))
        wait_for(lambda: _plan_rate(rig) == 0.01, "told")
        rig.send([upsert(pin_id) for pin_id in range(2001, 2101)])
        rig.wait_done()
    check_codes(rig.settings, rig.model, fold_pins(rig.settings)[0], exactly_once=True)


def stands_still(rig: Rig) -> int:
    """Wait until nothing was committed for longer than the worker needs to pause, and return what was."""
    at, since_s = rig.done(), time.monotonic()
    deadline_s = since_s + 30
    while time.monotonic() - since_s < 2:
        assert time.monotonic() < deadline_s, "it goes on"
        time.sleep(0.1)
        now = rig.done()
        if now != at:
            at, since_s = now, time.monotonic()
    return at


def _plan_rate(rig: Rig) -> float | None:
    from consumers.redis_plan import mirrored_plan  # noqa: PLC0415 (one look)

    plan = mirrored_plan(rig.settings.redis.url, rig.model, 1)
    return None if plan is None else plan.max_records_per_s


def test_a_partial_replay_is_partial_about_history_only(rig: Rig) -> None:
    workload = Workload(seed=5, pins=120)
    rig.send([workload.next() for _ in range(600)])
    registry = rig.begin(Replay(partitions=(0, 2), domains=("product",)))
    plan = plan_at_start(rig.settings, rig.model)
    ends = registry.generations[rig.model.hex].replay.ends
    assert plan.starts == (0, ends[1], 0)
    rig.send([workload.next() for _ in range(100)])  # between the start and the first worker
    with replaying(rig.settings, rig.model, plan):
        rig.wait_done()
    with replaying(rig.settings, rig.model, plan):  # a restart does not begin anew
        rig.send([workload.next() for _ in range(200)])
        rig.wait_done()
    held = {
        parse_key(key)
        for key, message in fold_topic(rig.settings, rig.model.codes_topic, 3).items()
        if message.value() is not None
    }
    expected = partial_fold(rig, ends)
    assert held == expected
    whole = {pin_id for pin_id, one in fold_pins(rig.settings)[0].items() if one.code is not None}
    assert held < whole


def partial_fold(rig: Rig, ends: tuple[int, ...]) -> set[int]:
    """The Pins that live when history of partitions 0 and 2 counts for products only, and of 1 not at all."""
    living: set[int] = set()
    for message in read_topic(rig.settings, rig.settings.topics.pins, 3):
        partition, offset, value = message.partition(), message.offset(), message.value()
        assert partition is not None
        assert offset is not None
        history = offset < ends[partition]
        if history and partition == 1:
            continue
        pin_id = parse_key(message.key())
        try:
            event = None if value is None else parse_event(message.key(), value)
        except BadRecordError:
            continue
        if event is not None and event.op is Op.UPSERT and event.image is not None and "AAAA" not in str(event.image):
            lie = event.image.signature == "00" * 32
            if lie and not (history and event.domain is not Domain.PRODUCT):
                continue  # a dead letter: what was before stays
        alive = event is not None and event.op is Op.UPSERT and (not history or event.domain is Domain.PRODUCT)
        (living.add if alive else living.discard)(pin_id)
    return living


def test_history_since_a_moment(rig: Rig) -> None:
    now_ms = SystemClock().wall_ms()
    producer = Producer(client_config(rig.settings))
    for age_ms, count in ((100_000, 5), (50_000, 7)):
        for i in range(count):
            key, value = upsert(i + 1)
            producer.produce(rig.settings.topics.pins, value, key, partition=0, timestamp=now_ms - age_ms)
    assert producer.flush(30) == 0
    found = planned(rig.settings, Replay(from_time_ms=now_ms - 60_000))
    assert (found.starts, found.ends) == ((5, 0, 0), (12, 0, 0))
    assert planned(rig.settings, Replay(from_time_ms=now_ms)).starts == (12, 0, 0)
    with pytest.raises(FatalError, match=r"\[3\]"):
        planned(rig.settings, Replay(partitions=(3,)))
    assert delete_retention_ms(rig.admin, rig.settings.topics.pins) == rig.settings.topics.delete_retention_ms


class JumpingClock(SystemClock):
    """The machine's clock, plus what a test adds."""

    def __init__(self) -> None:
        self.added_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.added_s

    def wall_ms(self) -> int:
        return super().wall_ms() + int(1000 * self.added_s)


def test_a_replay_yields_when_live_pins_are_late(rig: Rig, settings: Settings) -> None:
    live = Fingerprint(hashlib.sha256(rig.model.hex.encode()).hexdigest())
    rig.send([upsert(pin_id) for pin_id in range(1, 50)])
    clock = JumpingClock()
    with running(settings, live) as pipeline:
        pipeline.settle()
        rig.commands.adopt(live.hex, BITS, "light")
        registry = rig.begin()
        duty = ReplayDuty(settings, rig.replays, clock)
        wait_for(lambda: any(lease.url for lease in rig.mirror.leases(live.hex)), "the live node's lease")
        try:
            duty(registry)
            assert limit(rig) is None, "nothing is late"
            an_hour_ago_ms = SystemClock().wall_ms() - 3_600_000
            pipeline.send([upsert(pin_id, event_time_ms=an_hour_ago_ms) for pin_id in range(100, 400)])
            pipeline.settle()
            duty(registry)
            report = rig.mirror.reported(rig.model.hex)
            assert report is not None
            assert report.live_freshness_s is not None
            assert report.live_freshness_s > 1800
            assert report.limit_per_s == limit(rig) == settings.rollout.replay_floor_per_s
            clock.added_s += 60
            for _ in range(3):
                pipeline.send([upsert(pin_id) for pin_id in range(100, 300)])
                pipeline.settle()
                clock.added_s += 3
                duty(registry)
            grown = limit(rig)
            assert grown is not None
            assert grown > settings.rollout.replay_floor_per_s, "live Pins are fresh again"
        finally:
            duty.close()


def limit(rig: Rig) -> float | None:
    report = rig.mirror.reported(rig.model.hex)
    assert report is not None
    assert report.limit_per_s == _plan_rate(rig)
    return report.limit_per_s


def test_a_replay_that_outlasts_the_deletes_is_paused_with_the_reason(rig: Rig) -> None:
    producer = Producer(client_config(rig.settings))
    for pin_id in range(1, 3001):
        producer.produce(rig.settings.topics.pins, None, b"%d" % pin_id, partition=pin_id % 3)
    assert producer.flush(30) == 0
    registry = rig.begin()
    clock = JumpingClock()
    duty = ReplayDuty(rig.settings, rig.replays, clock)
    try:
        for second in range(6):  # 30 records in 100,000 s: 10 M s for all of them, and deletes are kept for 7 days
            rig.commit(dict.fromkeys(range(3), 10 * second + 30))
            duty(registry)
            registry = registry_store(rig.settings).read()
            clock.added_s += 100_000
    finally:
        duty.close()
    assert registry.generations[rig.model.hex].replay.paused
    assert "delete.retention.ms" in registry.action
    report = rig.mirror.reported(rig.model.hex)
    assert report is not None
    assert report.paused
    assert "--force" in report.warning
    assert plan_at_start(rig.settings, rig.model).paused


def test_log_density_is_seen_where_offsets_are_missing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.kafka_replay.MIN_PROBED", 100)
    producer = Producer(client_config(rig.settings, transactional_id=rig.model.short))
    producer.init_transactions(30)
    for i in range(300):  # every transaction leaves an offset that holds no record
        producer.begin_transaction()
        producer.produce(rig.settings.topics.pins, None, b"%d" % (i + 1), partition=0)
        producer.commit_transaction(30)
    found = looked_at(rig.settings, 0, 0, 600)
    assert len(found) == 12
    assert all(share == pytest.approx(0.5, abs=0.1) for share in found.values())


def test_a_worker_that_can_t_know_its_plan_does_not_guess(rig: Rig, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    index = rig.settings.index.model_copy(update={"snapshot_url": "s3://nobody/here"})
    fetch = rig.settings.fetch.model_copy(
        update={"store_options": {"endpoint": "http://127.0.0.1:1", "allow_http": "true", "skip_signature": "true"}}
    )
    away = rig.settings.model_copy(update={"index": index, "fetch": fetch, "local_dir": gone})
    with pytest.raises(RetryableError, match="Redis has no plan"):
        plan_at_start(away, rig.model)
    rig.mirror.tell(rig.model.hex, ReplayPlan(paused=True, starts=(1, 2, 3)))
    assert plan_at_start(away, rig.model) == ReplayPlan(paused=True, starts=(1, 2, 3))


def test_an_operator_has_it_in_hand(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rig.settings.environment().items():
        monkeypatch.setenv(name, value)
    rig.send([upsert(pin_id) for pin_id in range(1, 101)])
    registry = rig.begin()
    short = rig.model.hex[:12]

    def run(*words: str) -> str:
        found = CliRunner().invoke(app, list(words))
        if isinstance(found.exception, FatalError):
            return str(found.exception)
        assert found.exit_code == 0, found.output
        return found.output

    def replay() -> Replay:
        return registry_store(rig.settings).read().generations[rig.model.hex].replay

    assert "delete.retention.ms" in run("rate", short, "0.0001")
    assert replay().max_records_per_s is None
    assert "at most 0.0001" in run("rate", short, "0.0001", "--force")
    assert replay().force
    assert "paused" in run("pause", short)
    assert replay().paused
    assert _plan_rate(rig) == 0.0001
    assert "goes on" in run("resume", short)
    assert "unlimited" in run("rate", short, "unlimited")
    assert "expected records/s above 0" in run("rate", short, "0")
    assert (replay().paused, replay().max_records_per_s) == (False, None)
    assert "names 0 generations" in run("pause", "0" * 12)
    duty = ReplayDuty(rig.settings, rig.replays)
    duty(registry_store(rig.settings).read())
    duty.close()
    shown = run("progress", short)
    assert "100" in shown
    assert "0.0%" in shown
    assert json.loads(run("progress", short, "--json"))["progress"]["partitions"][0]["done"] == 0
    rig.commands.move(registry.generations[rig.model.hex].model, State.REPLAYING, State.CAUGHT_UP)
    assert "nothing to pause" in run("pause", short)
