"""What a consumer makes of a broker that has just come up. Its answers are played: a real one gives them at will."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from consumers.kafka_source import KafkaSource
from pinstream.errors import FatalError, RetryableError
from pinstream.settings import KafkaSettings, Settings


class NoOwnership:
    def assigned(self, partitions: list[int]) -> dict[int, int]:
        del partitions
        return {}

    def revoked(self, partitions: list[int]) -> None:
        del partitions

    lost = revoked


class Broker:
    """Answers with the given errors, and then with the offset of each partition."""

    def __init__(self, *errors: KafkaError) -> None:
        self._errors = iter(errors)
        self.asked = 0

    def committed(self, partitions: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
        assert timeout_s > 0
        self.asked += 1
        if (error := next(self._errors, None)) is not None:
            raise KafkaException(error)
        return [
            TopicPartition(tp.topic, tp.partition, tp.partition * 10 if tp.partition else -1001) for tp in partitions
        ]


@pytest.fixture
def source() -> Iterator[KafkaSource]:
    settings = Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:9"))
    made = KafkaSource(settings, "topic", "group", "client", NoOwnership())
    consumer = made._consumer
    yield made
    consumer.close()


def answering(source: KafkaSource, monkeypatch: pytest.MonkeyPatch, *errors: KafkaError) -> Broker:
    broker = Broker(*errors)
    monkeypatch.setattr(source, "_consumer", broker)
    return broker


def test_a_broker_that_does_not_know_yet_is_asked_again(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR)
    broker = answering(source, monkeypatch, *map(KafkaError, codes))
    assert source.committed([0, 1, 2], 30) == {1: 10, 2: 20}
    assert broker.asked == 4


def test_it_is_not_asked_for_ever(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = answering(source, monkeypatch, *[KafkaError(KafkaError.NOT_COORDINATOR)] * 1000)
    with pytest.raises(RetryableError, match="asked for committed offsets"):
        source.committed([0], 0.2)
    assert 1 < broker.asked < 10


def test_a_refusal_for_good_is_not_asked_again(source: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = answering(source, monkeypatch, KafkaError(KafkaError._FATAL, "fenced", fatal=True))
    with pytest.raises(FatalError):
        source.committed([0], 30)
    assert broker.asked == 1
