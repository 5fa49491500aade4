"""One consumer of one topic in one group: polls, follows the group's assignment, pauses, and says where it ends.

Works with KIP-848 (`group.protocol=consumer`) and with classic cooperative groups; both hand partitions over
incrementally.

Everything but `group_metadata` and `commit_soon` belongs to the thread that polls: confluent-kafka 2.16 holds a lock
for the length of `consume`, and another thread that wants it starves (seen: no call got through in 4 s of polling).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, Final, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pinstream.errors import FatalError, RetryableError
from pinstream.kafka_clients import client_config, translate
from pinstream.settings import Settings

log = logging.getLogger(__name__)

_AWAY: Final = frozenset(
    {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE}
)
_SETTLING: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.REBALANCE_IN_PROGRESS, KafkaError._MAX_POLL_EXCEEDED}
)


_ASK_AGAIN_S: Final = 0.05


class Ownership(Protocol):
    """What a worker does when partitions come and go. Called inside `poll`, by the polling thread."""

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        """These partitions are ours. Return where to start those that shall not start at the group's offset."""

    def revoked(self, partitions: list[int]) -> None:
        """Finish or drop their work before returning: the next owner starts when this returns."""

    def lost(self, partitions: list[int]) -> None:
        """They belong to somebody else already: drop their work, commit nothing."""


class KafkaSource:
    """Reads `topic` in `group_id`, committed records only, from the group's offsets or the earliest.

    Raises:
        FatalError: from the constructor and `poll`: configuration that Kafka refuses for good.
    """

    def __init__(self, settings: Settings, topic: str, group_id: str, client_id: str, ownership: Ownership) -> None:
        self.topic = topic
        self.group_id = group_id
        self._ownership = ownership
        self._assigned: set[int] = set()
        self._paused = False
        self._commit_lock = threading.Lock()
        self._to_commit: dict[int, int] = {}
        self._metadata: Any = None
        own: dict[str, Any] = {
            "group_id": group_id,
            "group_protocol": settings.kafka.group_protocol,
            "enable_auto_commit": False,
            "enable_auto_offset_store": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
            "enable_partition_eof": True,
            "fetch_wait_max_ms": 100,
            "fetch_error_backoff_ms": 100,
            # A full queue is looked at again so soon; librdkafka's own second starves a reader of a backlog.
            "fetch_queue_backoff_ms": 10,
        }
        if settings.kafka.group_protocol == "classic":
            own["partition_assignment_strategy"] = "cooperative-sticky"
        try:
            self._consumer = Consumer(client_config(settings, **own) | {"client.id": client_id})
            self._consumer.subscribe(
                [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        except KafkaException as error:
            raise FatalError(f"the consumer of {topic} can't be made: {error.args[0]}") from error

    @property
    def paused_partitions(self) -> int:
        return len(self._assigned) if self._paused else 0

    def poll(self, max_records: int, timeout_s: float, at_end: Callable[[int, int], None]) -> list[Message]:
        """Up to `max_records` records of all partitions, in order within each. Blocks up to `timeout_s`.

        `at_end(partition, offset)` is called for every partition end that was reached, after the records before it
        are in the returned list. Rebalance callbacks run inside. While paused it returns nothing and keeps the
        group's membership alive.
        """
        try:
            self.commit(self._take_commits())
            polled = self._wait_and_take(max_records, timeout_s)
            self._metadata = self._consumer.consumer_group_metadata()
        except KafkaException as error:
            raise translate(error, f"polling {self.topic}") from error
        if not any(map(Message.error, polled)):
            return polled
        records = []
        for message in polled:
            error_ = message.error()
            if error_ is None:
                records.append(message)
            elif error_.code() == KafkaError._PARTITION_EOF:
                partition, offset = message.partition(), message.offset()
                assert partition is not None and offset is not None
                at_end(partition, offset)
            else:
                self._judge(error_)
        return records

    def _wait_and_take(self, max_records: int, timeout_s: float) -> list[Message]:
        """Wait for one record, take what came with it: `consume` alone waits its whole time-out for the last one."""
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        return [first, *self._consumer.consume(max_records - 1, 0)] if max_records > 1 else [first]

    def pause(self) -> None:
        """Stop fetching all partitions, also those that come later, until `resume`. Drops what was prefetched."""
        self._paused = True
        self._consumer.pause(self._partitions(self._assigned))

    def resume(self) -> None:
        self._paused = False
        self._consumer.resume(self._partitions(self._assigned))

    def commit(self, next_offsets: dict[int, int]) -> None:
        """Commit for lag tools, without waiting. A stale commit after a rebalance is dropped."""
        if not next_offsets:
            return
        try:
            self._consumer.commit(offsets=self._offsets(next_offsets), asynchronous=True)
        except KafkaException as error:
            log.debug("commit of %s was dropped: %s", next_offsets, error)

    def commit_soon(self, next_offsets: dict[int, int]) -> None:
        """Have the polling thread commit these before its next poll, or before it hands them over. Thread-safe."""
        with self._commit_lock:
            self._to_commit |= next_offsets

    def committed(self, partitions: list[int], timeout_s: float) -> dict[int, int]:
        """The group's committed offsets of those partitions that have one. Blocks up to `timeout_s`.

        A broker that has just come up answers NOT_COORDINATOR at once, and again for as long as it takes to load the
        group: it is asked until it knows.

        Raises:
            RetryableError: it did not tell them in that time.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = max(_ASK_AGAIN_S, deadline_s - time.monotonic())
            try:
                found = self._consumer.committed(self._partitions(set(partitions)), left_s)
                if failed := [tp.error for tp in found if tp.error is not None]:
                    raise KafkaException(failed[0])
            except KafkaException as error:
                reason = translate(error, "asked for committed offsets")
                if not isinstance(reason, RetryableError) or time.monotonic() + _ASK_AGAIN_S > deadline_s:
                    raise reason from error
                time.sleep(_ASK_AGAIN_S)
            else:
                return {tp.partition: tp.offset for tp in found if tp.offset >= 0}

    def group_metadata(self) -> Any:
        """What a transaction must carry so that a member that lost its partitions is fenced. Thread-safe.

        As of the last poll: older than the assignment, at worst, and then the broker refuses it.
        """
        return self._metadata

    def close(self) -> None:
        """Leave the group, after a last `revoked`. Blocks until the group knows."""
        self._consumer.close()

    def _take_commits(self) -> dict[int, int]:
        with self._commit_lock:
            taken, self._to_commit = self._to_commit, {}
        return taken

    def _partitions(self, partitions: set[int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition) for partition in sorted(partitions)]

    def _offsets(self, next_offsets: dict[int, int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition, offset) for partition, offset in next_offsets.items()]

    def _judge(self, error: KafkaError) -> None:
        """Most consumer errors mend themselves; librdkafka goes on trying. The rest stop the worker."""
        if error.fatal():
            raise FatalError(f"the consumer of {self.topic} failed for good: {error.str()}")
        if error.code() in _AWAY or error.code() in _SETTLING or error.retriable():
            log.warning("reading %s: %s; trying again", self.topic, error.str())
            return
        raise FatalError(f"Kafka refused to let this worker read {self.topic}: {error.str()} ({error.name()})")

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [tp.partition for tp in partitions]
        starts = self._ownership.assigned(numbers)
        for tp in partitions:
            if tp.partition in starts:
                tp.offset = starts[tp.partition]
        consumer.incremental_assign(partitions)
        self._assigned.update(numbers)
        if self._paused:
            consumer.pause(partitions)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [tp.partition for tp in partitions]
        self._ownership.revoked(numbers)
        self.commit(self._take_commits())
        self._assigned.difference_update(numbers)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [tp.partition for tp in partitions]
        self._ownership.lost(numbers)
        self._assigned.difference_update(numbers)
        consumer.incremental_unassign(partitions)


def by_partition(messages: Iterable[Message]) -> dict[int, list[Message]]:
    """Partition → its records, in their order. Quickest where they come in runs, as fetches bring them."""
    found: dict[int, list[Message]] = {}
    for partition, run in groupby(messages, Message.partition):
        assert partition is not None
        found.setdefault(partition, []).extend(run)
    return found
