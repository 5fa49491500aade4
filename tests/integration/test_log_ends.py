"""Where a real broker says that partitions end, and how long we ask it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer

from consumers.kafka_ends import LogEnds
from pinstream.errors import RetryableError
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import ensure_topics, pins_topics
from pinstream.settings import Settings
from tests.conftest import wait_for


def test_a_topic_that_comes_while_it_is_asked_for_is_answered(settings: Settings) -> None:
    topic, partitions = settings.topics.pins, list(range(settings.topics.partitions))
    log = LogEnds(settings)
    asked: list[int] = []
    with ThreadPoolExecutor(1) as other:

        def ask() -> dict[int, int]:
            asked.append(1)
            return log.ask_all(topic, partitions, 30)

        answer = other.submit(ask)
        wait_for(lambda: bool(asked), lambda: "the thread began")
        ensure_topics(reachable_admin(settings), pins_topics(settings.topics), settings.topics)
        assert answer.result(60) == dict.fromkeys(partitions, 0)


def test_a_moment_is_the_first_record_of_that_time_or_later(settings: Settings) -> None:
    topic, partitions = settings.topics.pins, list(range(settings.topics.partitions))
    ensure_topics(reachable_admin(settings), pins_topics(settings.topics), settings.topics)
    producer = Producer(client_config(settings))
    for time_ms in (1_000, 2_000, 3_000):
        producer.produce(topic, b"value", b"key", partition=1, timestamp=time_ms)
    assert producer.flush(30) == 0
    found = LogEnds(settings).first_at(topic, partitions, 1_500, 10)
    assert found == {partition: 1 if partition == 1 else None for partition in partitions}


def test_who_does_not_answer_is_named(settings: Settings) -> None:
    log = LogEnds(settings)
    assert log.ask("no-such-topic", [0, 3], 0.5) == {}
    with pytest.raises(
        RetryableError, match=re.escape("no-such-topic did not answer for partitions [0, 3] in 1 s (KafkaError{")
    ):
        log.ask_all("no-such-topic", [0, 3], 1)
