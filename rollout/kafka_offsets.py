"""Where a generation's groups stand, asked of the broker without joining them."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumers.kafka_ends import LogEnds
from pinstream.codes import Fingerprint
from pinstream.kafka_clients import client_config, translate
from pinstream.settings import Settings
from rollout.catch_up import Seen


def embed_group(model: str) -> str:
    return f"pinstream-embed-{Fingerprint(model).short}"


def index_group(model: str) -> str:
    """Of replica 0; replica r's has `-r<r>` added."""
    return f"pinstream-index-{Fingerprint(model).short}"


class GroupOffsets:
    """Committed offsets and log ends. One thread at a time; blocks up to the request time-out. `close` it.

    Raises:
        RetryableError: from `see`: the broker did not answer for all partitions.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ends = LogEnds(settings)
        self._consumers: dict[str, Consumer] = {}

    def see(self, group_id: str, topic: str) -> Seen:
        """The group's offsets on all partitions of the topic, and where these end."""
        partitions = list(range(self._settings.topics.partitions))
        timeout_s = self._settings.kafka.request_timeout_s
        consumer = self._consumers.get(group_id)
        if consumer is None:
            consumer = self._consumers[group_id] = Consumer(client_config(self._settings, group_id=group_id))
        try:
            found = consumer.committed([TopicPartition(topic, p) for p in partitions], timeout_s)
        except KafkaException as error:
            raise translate(error, f"asked where group {group_id} stands") from error
        # ends are asked second: nothing that is committed can be beyond them
        ends = self._ends.ask_all(topic, partitions, timeout_s)
        return Seen(topic, {tp.partition: tp.offset for tp in found if tp.offset >= 0}, ends)

    def close(self) -> None:
        for consumer in self._consumers.values():
            consumer.close()
        self._consumers.clear()
