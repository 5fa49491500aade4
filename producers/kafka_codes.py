"""Publishes what became of Pin events: codes, tombstones and dead letters, with the offsets that they came from.

`exactly_once`: one Kafka transaction holds all of it, fenced by the group's member epoch (KIP-447), so a worker that
lost its partitions commits nothing. `at_least_once`: everything is acknowledged before the offsets are committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from pinstream import metrics
from pinstream.errors import FatalError, OwnershipLostError, RetryableError
from pinstream.kafka_clients import client_config
from pinstream.settings import Delivery, Settings
from producers.dead_letter import Headers

log = logging.getLogger(__name__)

_OWNERSHIP_LOST: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.REBALANCE_IN_PROGRESS,
    }
)
REFENCE_WINDOW_S: Final = 60.0
"""Two fencings by another producer within this time are a twin with our name, not a hiccup."""


Outgoing: TypeAlias = tuple[str, int, bytes | None, bytes | None, Headers | None]
"""One record to publish: topic, partition (the one that its Pin event came from), key, value, headers. A plain tuple:
a named one costs as much to make as the rest of the bookkeeping of a record."""


class CodesPublisher:
    """Not thread-safe: the publishing thread owns it. Every method blocks.

    Args:
        commit_soon: with at_least_once, told the offsets of what was acknowledged.
    """

    def __init__(self, settings: Settings, instance: str, commit_soon: Callable[[dict[int, int]], None]) -> None:
        self._settings = settings
        self._commit_soon = commit_soon
        self._exactly_once = settings.embed.delivery is Delivery.EXACTLY_ONCE
        self._timeout_s = settings.embed.transaction_timeout_ms / 1000
        own: dict[str, Any] = {
            "enable_idempotence": True,
            "linger_ms": 1,
            "retry_backoff_ms": 1,  # librdkafka's 100 ms is what a transaction would cost (CONCURRENT_TRANSACTIONS)
            "queue_buffering_max_messages": 1_000_000,
            "message_timeout_ms": settings.embed.transaction_timeout_ms,
        }
        if self._exactly_once:
            own |= {
                "transactional_id": f"pinstream-embed-{instance}",
                "transaction_timeout_ms": settings.embed.transaction_timeout_ms,
            }
        self._config = client_config(settings, **own) | {"client.id": f"pinstream-embed-{instance}"}
        self._instance = instance
        self._fenced_at_s = float("-inf")
        self._failed: KafkaError | None = None
        self._producer = self._new_producer()

    def publish(self, records: Sequence[Outgoing], next_offsets: dict[int, int], group_metadata: Any) -> None:
        """Publish the records and commit the offsets, both or (with exactly_once) neither.

        `group_metadata` was taken before the caller checked that it owns the partitions: if they are taken away after
        that, the member epoch in it is stale and the broker refuses the transaction.

        Raises:
            RetryableError: nothing took effect (exactly_once), or not all of it (at_least_once); publish again.
            OwnershipLostError: the group went on without us; nothing took effect; drop what was revoked, try the rest.
            FatalError: another live worker has this instance's name, or Kafka refuses for good.
        """
        started_s = time.monotonic()
        if not self._exactly_once:
            self._send(records)
            self._flush()
            self._commit_soon(next_offsets)
            return
        try:
            self._producer.begin_transaction()
            self._send(records)
            offsets = [TopicPartition(self._settings.topics.pins, p, offset) for p, offset in next_offsets.items()]
            self._producer.send_offsets_to_transaction(offsets, group_metadata, self._timeout_s)
            self._producer.commit_transaction(self._timeout_s)
        except (KafkaException, BufferError, RetryableError) as error:
            metrics.TRANSACTIONS.labels("aborted").inc()
            raise self._recover(error) from error
        metrics.TRANSACTIONS.labels("committed").inc()
        metrics.TRANSACTION_SECONDS.observe(time.monotonic() - started_s)

    def close(self) -> None:
        """Give the broker what is left, for a short while."""
        self._producer.flush(2.0)

    def _new_producer(self) -> Producer:
        try:
            producer = Producer(self._config)
            if self._exactly_once:
                producer.init_transactions(self._settings.kafka.request_timeout_s)
        except KafkaException as error:
            raise FatalError(
                f"the producer of {self._instance!r} can't start: {error.args[0].str()}; "
                "is Kafka reachable and its transaction coordinator up?"
            ) from error
        return producer

    def _send(self, records: Sequence[Outgoing]) -> None:
        """Queue the records. A transaction's commit reports every delivery, so only without one is each asked for."""
        self._failed = None
        extra: dict[str, Any] = {} if self._exactly_once else {"on_delivery": self._on_delivery}
        for topic, partition, key, value, headers in records:
            if headers:
                self._produce(topic, value, key, partition, headers=headers, **extra)
            else:
                self._produce(topic, value, key, partition, **extra)
        self._producer.poll(0)

    def _produce(self, *record: Any, **extra: Any) -> None:
        while True:
            try:
                self._producer.produce(*record, **extra)
            except BufferError:
                self._producer.poll(0.05)  # the queue is bounded; the broker empties it
            else:
                return

    def _on_delivery(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failed = error

    def _flush(self) -> None:
        left = self._producer.flush(self._timeout_s)
        if left or self._failed is not None:
            self._producer.purge()
            self._producer.flush(1.0)
            raise RetryableError(f"{left} records were not acknowledged ({self._failed})")

    def _recover(self, error: BaseException) -> Exception:
        """End the open transaction, or start a new producer where it can't be ended; say what the caller shall do."""
        detail = error.args[0] if isinstance(error, KafkaException) else None
        if not isinstance(detail, KafkaError):
            self._abort()
            return RetryableError(f"publishing codes failed: {error}")
        if detail.fatal():
            return self._replace(detail)
        self._abort()
        if detail.code() in _OWNERSHIP_LOST:
            return OwnershipLostError(f"the group went on without this worker: {detail.str()}")
        return RetryableError(f"the transaction was aborted: {detail.str()}")

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(self._timeout_s)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._STATE:  # no transaction is open: nothing to abort
                log.warning("abort failed (%s): starting a new producer", error.args[0].str())
                self._producer = self._new_producer_or_away()

    def _replace(self, detail: KafkaError) -> Exception:
        now_s = time.monotonic()
        fenced = detail.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED)
        if fenced and now_s - self._fenced_at_s < REFENCE_WINDOW_S:
            return FatalError(
                f"another worker runs as {self._instance!r} (model and name) and fences this one: "
                "give each its own embed.instance_id"
            )
        self._fenced_at_s = now_s if fenced else self._fenced_at_s
        log.warning("the producer failed for good (%s): starting a new one", detail.str())
        self._producer = self._new_producer_or_away()
        return OwnershipLostError(f"the producer was replaced: {detail.str()}")

    def _new_producer_or_away(self) -> Producer:
        try:
            return self._new_producer()
        except FatalError as error:  # at start that is fatal; in flight the broker may just be away
            log.warning("%s", error)
            return self._producer
