"""SIGKILL of embed and index workers at random moments: nothing is lost, doubled or stale.

The oracle is a fold of the Pins topic from zero.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from consumers.kafka_ends import LogEnds
from pinstream.codes import Fingerprint
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics, pins_topics
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Delivery, Settings
from tests.conftest import asked_for, wait_for
from tests.oracle import check_codes, check_dead_letters, check_index, fold_pins
from tests.workload import Workload

ROUNDS = asked_for("PINSTREAM_FAULT_ROUNDS", 20)
PINS = 400
EVENTS_PER_S = 400

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


def worker(role: str, number: int, settings: Settings, model: Fingerprint, folder: Path) -> WorkerProcess:
    """A light worker with a name that outlives it, as a StatefulSet's pod has."""
    named = settings.environment()
    section = "PINSTREAM_EMBED__INSTANCE_ID" if role == "embed" else "PINSTREAM_INDEX__INSTANCE_ID"
    named[section] = f"{role}-{number}-{model.short}"
    command = ["-m", "tests.light_worker", role, model.hex]
    return WorkerProcess(command, named, folder / f"{role}-{number}.log")


@contextmanager
def producing(settings: Settings, seed: int) -> Iterator[None]:
    """Events on the Pins topic at a steady rate for as long as the block lasts."""
    stop = threading.Event()
    producer = Producer(client_config(settings, linger_ms=2))
    workload = Workload(seed, PINS)

    def run() -> None:
        while not stop.wait(1 / 20):
            for _ in range(EVENTS_PER_S // 20):
                key, value = workload.next()
                producer.produce(settings.topics.pins, value, key)
            producer.poll(0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        assert producer.flush(30) == 0


def caught_up(settings: Settings, topic: str, group_id: str) -> bool:
    """The group's committed offsets are at the topic's end."""
    from confluent_kafka import Consumer, TopicPartition  # noqa: PLC0415 (a client of its own each time)

    partitions = list(range(settings.topics.partitions))
    ends = LogEnds(settings).ask(topic, partitions, 10)
    consumer = Consumer(client_config(settings, group_id=group_id))
    try:
        committed = consumer.committed([TopicPartition(topic, p) for p in partitions], 10)
    finally:
        consumer.close()
    return all(tp.offset == ends.get(tp.partition) or ends.get(tp.partition) == 0 for tp in committed)


@pytest.mark.parametrize("delivery", [Delivery.EXACTLY_ONCE, Delivery.AT_LEAST_ONCE])
def test_nothing_is_lost_doubled_or_stale(
    settings: Settings, model: Fingerprint, tmp_path: Path, delivery: Delivery
) -> None:
    settings = settings.model_copy(update={"embed": settings.embed.model_copy(update={"delivery": delivery})})
    ensure_topics(
        reachable_admin(settings), (*pins_topics(settings.topics), codes_topic(settings.topics, model)), settings.topics
    )
    rounds = ROUNDS if delivery is Delivery.EXACTLY_ONCE else max(2, ROUNDS // 4)
    chance = random.Random(7)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(worker(role, number, settings, model, tmp_path))
            for role in ("embed", "index")
            for number in range(2)
        ]
        for one in workers:
            one.url()
        with producing(settings, seed=3):
            for _ in range(rounds):
                time.sleep(chance.uniform(0.1, 1.2))  # the random moment; nothing is awaited
                victim = chance.choice(workers)
                victim.kill()
                victim.start()
        wait_for(
            lambda: caught_up(settings, settings.topics.pins, f"pinstream-embed-{model.short}"), "embed caught up", 90
        )
        expected, bad = fold_pins(settings)
        assert len(expected) > PINS // 2
        assert bad.unreadable
        assert bad.imageless
        exactly_once = delivery is Delivery.EXACTLY_ONCE
        check_codes(settings, model, expected, exactly_once=exactly_once)
        check_dead_letters(settings, bad, exactly_once=exactly_once)
        wait_for(
            lambda: caught_up(settings, model.codes_topic, f"pinstream-index-{model.short}"), "index caught up", 90
        )
        check_index([one.url() for one in workers[2:]], expected)
        assert [one.exit_code for one in workers] == [None] * 4, "a worker ended by itself"
