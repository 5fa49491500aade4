"""Reads one partition of a codes topic from an offset to where it ends now. Belongs to no group, disturbs nobody."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from consumers.kafka_ends import LogEnds
from pinstream.errors import FatalError, RetryableError
from pinstream.kafka_clients import client_config
from pinstream.settings import Settings

_BATCH: Final = 10_000
_WAIT_S: Final = 0.2
_ASK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class TailBatch:
    """Consecutive records, and the position after them: control records may lie between."""

    messages: list[Message]
    next_offset: int


def end_of(settings: Settings, topic: str, partition: int) -> int:
    """The offset that the partition's next record will get. Blocks. Raises RetryableError: no broker answered."""
    return LogEnds(settings).ask_all(topic, [partition], _ASK_S)[partition]


def read_tail(
    settings: Settings, topic: str, partition: int, start: int, end: int, silence_s: float = 60.0
) -> Iterator[TailBatch]:
    """Every committed record with `start` ≤ offset < `end`, in order; the last batch stands at `end`. Blocks.

    Raises:
        RetryableError: nothing came for `silence_s`.
        FatalError: the broker refuses us.
    """
    if start >= end:
        return
    config = client_config(
        settings,
        group_id=f"pinstream-tail-{uuid.uuid4()}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        enable_partition_eof=True,
        fetch_wait_max_ms=50,
    )
    consumer = Consumer(config)
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        heard_s = time.monotonic()
        position = start
        while position < end:
            found = consumer.consume(_BATCH, _WAIT_S)
            messages, at_end = _sort_out(found, end)
            if found:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > silence_s:
                raise RetryableError(
                    f"{topic} partition {partition} is silent at {position} of {end}: is a broker away?"
                )
            if messages:
                position = (messages[-1].offset() or 0) + 1
            if at_end:
                position = end
            if messages or at_end:
                yield TailBatch(messages, position)
    finally:
        consumer.close()


def _sort_out(found: list[Message], end: int) -> tuple[list[Message], bool]:
    """The records before `end`, and whether there are no more of them."""
    messages: list[Message] = []
    for message in found:
        error, offset = message.error(), message.offset()
        if error is None and offset is not None:
            if offset >= end:
                return messages, True
            messages.append(message)
        elif error is not None and error.code() == KafkaError._PARTITION_EOF:
            if offset is not None and offset >= end:
                return messages, True
        elif error is not None and not error.retriable():
            raise FatalError(f"Kafka refused to let us read {message.topic()}: {error.str()}")
    return messages, False
