"""The Pins topic, as a validation reads it: what lives, what became a dead letter, and single events. Blocks.

Belongs to no group and commits nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Final

from confluent_kafka import Consumer, Message, TopicPartition

from consumers.kafka_ends import LogEnds
from consumers.topic_fold import read_topic
from index_sync.kafka_tail import read_tail
from pinstream.codes import Fingerprint
from pinstream.errors import BadRecordError
from pinstream.events import Image, Op, parse_event, parse_key
from pinstream.kafka_clients import client_config
from pinstream.settings import Settings
from producers.dead_letter import HEADER_PREFIX
from rollout.coverage import Kind, PinFold, Records
from rollout.kafka_offsets import GroupOffsets, embed_group

_ASK_S: Final = 10.0
_EVENT_S: Final = 5.0


class PinsReader:
    """Folds the Pins topic, in as many steps as are asked for. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folds = [PinFold() for _ in range(settings.topics.partitions)]
        self._next = [0] * settings.topics.partitions

    def go_on(self) -> dict[int, int]:
        """Read to where the topic ends now. Returns partition → the offset after its last record (0: none)."""
        topic = self._settings.topics.pins
        ends = log_ends(self._settings, topic)
        for partition, fold in enumerate(self._folds):
            for tail in read_tail(self._settings, topic, partition, self._next[partition], ends[partition]):
                fold.add(_records(tail.messages))
                if tail.messages:
                    self._next[partition] = (tail.messages[-1].offset() or 0) + 1
        return dict(enumerate(self._next))

    def result(self, partition: int) -> Records:
        """The newest record of each Pin."""
        return self._folds[partition].result()


def log_ends(settings: Settings, topic: str) -> dict[int, int]:
    """Partition → end, of all partitions. Raises RetryableError: a broker is away."""
    return LogEnds(settings).ask_all(topic, list(range(settings.topics.partitions)), _ASK_S)


def embedded_up_to(settings: Settings, model: Fingerprint) -> dict[int, int]:
    """Partition → the offset of the Pins topic up to which this model's embed workers are done.

    Raises:
        RetryableError: no broker answers.
    """
    offsets = GroupOffsets(settings)
    try:
        committed = offsets.see(embed_group(model.hex), settings.topics.pins).committed
    finally:
        offsets.close()
    return {partition: committed.get(partition, 0) for partition in range(settings.topics.partitions)}


def dead_letters(settings: Settings, model: Fingerprint) -> dict[int, set[int]]:
    """Partition → offsets of the events that this model could not embed, as far as the letters are still kept."""
    found: dict[int, set[int]] = {partition: set() for partition in range(settings.topics.partitions)}
    for message in read_topic(settings, settings.topics.dead_letters, settings.topics.partitions):
        headers = dict(message.headers() or [])
        if headers.get("pinstream.model") == model.hex.encode():
            partition = int(headers[HEADER_PREFIX + "partition"] or b"-1")
            if partition in found:
                found[partition].add(int(headers[HEADER_PREFIX + "offset"] or b"-1"))
    return found


def images_at(settings: Settings, places: Iterable[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], Image]]:
    """The images of single events, by (partition, offset). One that compaction took meanwhile is left out."""
    config = client_config(
        settings,
        group_id=f"pinstream-events-{uuid.uuid4()}",
        enable_auto_commit=False,
        isolation_level="read_committed",
        enable_partition_eof=True,
        fetch_wait_max_ms=5,
        fetch_queue_backoff_ms=1,
        queued_min_messages=1,
        queued_max_messages_kbytes=1024,
    )
    consumer = Consumer(config)
    try:
        for partition, offset in places:
            consumer.assign([TopicPartition(settings.topics.pins, partition, offset)])
            message = _next_message(consumer, partition, offset)
            if message is not None and message.offset() == offset:
                try:
                    event = parse_event(message.key(), message.value() or b"")
                except BadRecordError:
                    continue
                if event.image is not None:
                    yield (partition, offset), event.image
    finally:
        consumer.close()


def _next_message(consumer: Consumer, partition: int, offset: int) -> Message | None:
    deadline_s = time.monotonic() + _EVENT_S
    while time.monotonic() < deadline_s:
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error() is None and message.partition() == partition and (message.offset() or 0) >= offset:
            return message
        if message.error() is not None:
            return None
    return None


def _records(messages: Iterable[Message]) -> Iterator[tuple[int, int, Kind]]:
    for message in messages:
        offset, value = message.offset() or 0, message.value()
        try:
            pin_id = parse_key(message.key())
        except BadRecordError:
            continue  # no Pin at all
        try:
            deleted = value is None or parse_event(message.key(), value).op is Op.DELETE
        except BadRecordError:
            yield pin_id, offset, Kind.UNREADABLE
            continue
        yield pin_id, offset, Kind.DELETED if deleted else Kind.LIVING
