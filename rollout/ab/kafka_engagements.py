"""`engagements.v1`: published by front doors, read by reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from consumers.topic_fold import read_topic
from pinstream.errors import BadRecordError, RetryableError
from pinstream.kafka_clients import client_config, reachable_admin, translate
from pinstream.kafka_topics import TopicSpec, ensure_topics
from pinstream.settings import Settings, TopicSettings
from rollout.ab.events import Engagement, parse_engagement

_QUEUE_EVENTS: Final = 50_000
_ACKNOWLEDGED_WITHIN_S: Final = 5.0


def engagements_topic(settings: TopicSettings) -> TopicSpec:
    """Its retention bounds how long a test may run."""
    return TopicSpec(
        settings.engagements,
        settings.partitions,
        "delete",
        (("retention.ms", str(settings.engagements_retention_ms)),),
    )


class EngagementProducer:
    """Publishes engagements; creates their topic if it is missing. Thread-safe.

    Raises:
        FatalError: Kafka does not answer, or the topic exists otherwise.
    """

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topics.engagements
        ensure_topics(reachable_admin(settings), (engagements_topic(settings.topics),), settings.topics)
        self._producer = Producer(
            client_config(
                settings,
                enable_idempotence=True,
                linger_ms=5,
                queue_buffering_max_messages=_QUEUE_EVENTS,
                delivery_timeout_ms=int(_ACKNOWLEDGED_WITHIN_S * 1000),
                partitioner="murmur2_random",
            )
        )

    def publish(self, engagements: Sequence[Engagement]) -> None:
        """Publish them and wait until Kafka has them. Blocks, 6 s at most.

        Raises:
            RetryableError: Kafka has perhaps only some of them; sent again under the same ids they count once.
        """
        waiting = _Acknowledgements(len(engagements))
        for engagement in engagements:
            try:
                self._producer.produce(
                    self._topic, engagement.value(), engagement.key(), on_delivery=waiting.acknowledged
                )
            except BufferError as error:
                raise RetryableError(f"{_QUEUE_EVENTS} engagements wait for Kafka already") from error
            except KafkaException as error:
                raise translate(error, "an engagement") from error
        deadline_s = time.monotonic() + _ACKNOWLEDGED_WITHIN_S + 1
        while not waiting.all() and time.monotonic() < deadline_s:
            self._producer.poll(0.02)
        waiting.check()

    def close(self) -> None:
        """Wait for what is under way; a few seconds at most."""
        self._producer.flush(_ACKNOWLEDGED_WITHIN_S)


class _Acknowledgements:
    """Counts deliveries, which librdkafka reports in whichever thread polls."""

    def __init__(self, expected: int) -> None:
        self._lock = threading.Lock()
        self._left = expected
        self._failed: KafkaError | None = None

    def acknowledged(self, error: KafkaError | None, _message: Any) -> None:
        with self._lock:
            self._left -= 1
            self._failed = self._failed or error

    def all(self) -> bool:
        with self._lock:
            return self._left == 0

    def check(self) -> None:
        with self._lock:
            if self._failed is not None:
                raise RetryableError(f"engagements were not acknowledged: {self._failed.str()}")
            if self._left:
                raise RetryableError(f"{self._left} engagements are not acknowledged: is Kafka reachable?")


def read_engagements(settings: Settings, since_ms: int = 0) -> Iterator[Engagement | BadRecordError]:
    """Every record of the topic that was appended since then, up to where it ends now. Blocks.

    Records that are no engagements come as errors: the reader counts them.

    Raises:
        RetryableError: the topic can't be read.
    """
    for message in read_topic(
        settings, settings.topics.engagements, settings.topics.partitions, timeout_s=3600, since_ms=since_ms
    ):
        try:
            yield parse_engagement(message.value())
        except BadRecordError as error:
            yield error
