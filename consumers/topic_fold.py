"""Folds a compacted topic: what is left of each key when its records are read from the beginning. The oracle of audits,
the demo and the fault tests.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumers.kafka_ends import LogEnds
from pinstream.errors import RetryableError
from pinstream.kafka_clients import client_config
from pinstream.settings import Settings

MAX_OFFSET: Final = 2**63 - 1


def read_topic(
    settings: Settings, topic: str, partitions: int, timeout_s: float = 120.0, since_ms: int = 0
) -> Iterator[Message]:
    """Every committed record of the topic up to where it ends now, partition by partition in order. Blocks.

    Belongs to no group, commits nothing and disturbs nobody.

    Args:
        since_ms: only records whose timestamp is this or later; 0: from the beginning.

    Raises:
        RetryableError: the ends were not reached in `timeout_s`.
    """
    ends = LogEnds(settings).ask_all(topic, list(range(partitions)), timeout_s=10)
    config = client_config(
        settings,
        group_id=f"pinstream-fold-{uuid.uuid4()}",
        enable_auto_commit=False,
        isolation_level="read_committed",
        enable_partition_eof=True,
        fetch_wait_max_ms=50,
    )
    open_partitions = {partition for partition in range(partitions) if ends[partition] > 0}
    consumer = Consumer(config)
    try:
        starts = _starts(consumer, topic, open_partitions, since_ms)
        open_partitions -= {start.partition for start in starts if start.offset >= ends[start.partition]}
        consumer.assign([start for start in starts if start.partition in open_partitions])
        deadline_s = time.monotonic() + timeout_s
        while open_partitions:
            if time.monotonic() > deadline_s:
                raise RetryableError(f"{topic}: partitions {sorted(open_partitions)} not read in {timeout_s:g} s")
            for message in consumer.consume(10_000, 0.2):
                yield from _judge(message, ends, open_partitions)
    finally:
        consumer.close()


def _starts(consumer: Consumer, topic: str, partitions: set[int], since_ms: int) -> list[TopicPartition]:
    if since_ms <= 0:
        return [TopicPartition(topic, partition, 0) for partition in sorted(partitions)]
    asked = [TopicPartition(topic, partition, since_ms) for partition in sorted(partitions)]
    try:
        found = consumer.offsets_for_times(asked, timeout=10)
    except KafkaException as error:
        raise RetryableError(f"{topic}: the offsets of {since_ms} ms are not known: {error}") from error
    # a partition without a newer record answers OFFSET_END, -1: nothing of it is wanted
    return [one if one.offset >= 0 else TopicPartition(topic, one.partition, MAX_OFFSET) for one in found]


def _judge(message: Message, ends: dict[int, int], open_partitions: set[int]) -> Iterator[Message]:
    error, partition, offset = message.error(), message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    if error is None:
        if offset < ends[partition]:
            yield message
        if offset + 1 >= ends[partition]:
            open_partitions.discard(partition)
    elif error.code() == KafkaError._PARTITION_EOF:
        if offset >= ends[partition]:
            open_partitions.discard(partition)
    elif not error.retriable():
        raise RetryableError(f"reading {message.topic()}: {error.str()}")


def fold_topic(
    settings: Settings,
    topic: str,
    partitions: int,
    effective: Callable[[Message], bool] = lambda _message: True,
) -> dict[bytes, Message]:
    """The newest record of each key, tombstones included, among those that are `effective`."""
    newest: dict[bytes, Message] = {}
    for message in read_topic(settings, topic, partitions):
        key = message.key()
        if key is not None and effective(message):
            newest[key] = message
    return newest
