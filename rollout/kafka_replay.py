"""What the broker knows of a replay: offsets at a time, how long deletes are kept, who reads what, log density."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from consumers.kafka_ends import LogEnds
from pinstream.errors import FatalError, RetryableError
from pinstream.kafka_clients import client_config, translate
from pinstream.settings import Settings
from rollout.generation import Replay
from rollout.replay_plan import resolved

_ASK_S: Final = 10.0
_PROBE_S: Final = 2.0
PLACES: Final = 12
"""Of a partition's log that are looked at: density changes slowly along it."""
MIN_PROBED: Final = 10_000
"""Offsets; an ETA for less is over before it matters."""
_RECORDS: Final = 64


def planned(settings: Settings, replay: Replay) -> Replay:
    """The replay with its offsets as of now: what `pinstream rollout start` puts into the registry. Blocks.

    Raises:
        RetryableError: the broker did not answer for all partitions.
        FatalError: a partition is named that the topic lacks.
    """
    topic, partitions = settings.topics.pins, list(range(settings.topics.partitions))
    log = LogEnds(settings)
    at_time = {} if replay.from_time_ms is None else log.first_at(topic, partitions, replay.from_time_ms, _ASK_S)
    ends = log.ask_all(topic, partitions, _ASK_S)
    return resolved(replay, ends, at_time)


def delete_retention_ms(admin: AdminClient, topic: str) -> int:
    """How long the broker really keeps this topic's tombstones. Blocks. Raises RetryableError, FatalError."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        found = admin.describe_configs([resource], request_timeout=_ASK_S)[resource].result(_ASK_S + 1)
        return int(found["delete.retention.ms"].value)
    except KafkaException as error:
        detail = error.args[0]
        if isinstance(detail, KafkaError) and not detail.retriable() and detail.code() > 0:
            raise FatalError(f"{topic} can't be described: {detail.str()}") from error
        raise translate(error, f"asked for delete.retention.ms of {topic}") from error
    except TimeoutError as error:
        raise RetryableError(f"Kafka did not say delete.retention.ms of {topic} in time") from error


def owners(admin: AdminClient, group_id: str, topic: str) -> dict[int, str]:
    """Partition → the group's member that has it. Empty while nobody knows. Blocks."""
    try:
        future = admin.describe_consumer_groups([group_id], request_timeout=_ASK_S)[group_id]
        members = future.result(_ASK_S + 1).members
    except (KafkaException, TimeoutError):
        return {}
    return {
        tp.partition: member.member_id
        for member in members
        for tp in member.assignment.topic_partitions
        if tp.topic == topic
    }


def looked_at(settings: Settings, partition: int, start: int, end: int) -> Mapping[int, float]:
    """Some offsets of the Pins topic between these → the share of the offsets after each that hold a record.

    Blocks for up to `PLACES` fetches; places that the broker does not show in time are left out.
    """
    if end - start < MIN_PROBED:
        return {}
    topic = settings.topics.pins
    config = client_config(
        settings,
        group_id="pinstream-density",  # it joins no group and commits nothing
        enable_auto_commit=False,
        enable_partition_eof=True,
        fetch_wait_max_ms=20,
        max_partition_fetch_bytes=64 * 1024,
        queued_max_messages_kbytes=256,
    )
    consumer = Consumer(config)
    shares: dict[int, float] = {}
    try:
        for place in range(PLACES):
            offset = start + (end - start) * (2 * place + 1) // (2 * PLACES)
            consumer.assign([TopicPartition(topic, partition, offset)])
            first = consumer.poll(_PROBE_S)  # and what came with it: `consume` would wait for the last one
            came = [] if first is None else [first, *consumer.consume(_RECORDS - 1, 0)]
            read = [message for message in came if message.error() is None]
            if read:
                last = read[-1].offset()
                assert last is not None
                shares[offset] = len(read) / (last + 1 - offset)
    except KafkaException:
        return shares
    finally:
        consumer.close()
    return shares
