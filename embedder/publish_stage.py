"""One thread that publishes what is finished, in order, and commits the offsets with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from consumers.assignment import Lanes, Ready
from embedder.breaker import Breaker
from embedder.pin_work import Outcome, PinWork
from embedder.publication import PublicationPlan
from pinstream import metrics
from pinstream.clock import Clock
from pinstream.errors import OwnershipLostError, RetryableError
from producers.kafka_codes import CodesPublisher

log = logging.getLogger(__name__)

IDLE_WAIT_S: Final = 0.2
RETRY_WAIT_S: Final = 0.2
REVOKE_WAIT_S: Final = 20.0
"""How long a rebalance waits for the transaction under way. Past it the broker fences that transaction for us."""


class PublishStage:
    """Holds the lanes: records enter when polled, and leave when their offset is committed.

    `add`, `assigned`, `revoked` and `end_reached` are the polling thread's; `wake` is anybody's.

    Args:
        group_metadata: see `CodesPublisher.publish`.
        on_committed: called with the next offset of each partition after every commit.
        on_fatal: called with what must stop the worker.
    """

    def __init__(
        self,
        publisher: CodesPublisher,
        plan: PublicationPlan,
        breaker: Breaker,
        clock: Clock,
        *,
        max_records: int,
        group_metadata: Callable[[], Any],
        on_committed: Callable[[dict[int, int]], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._publisher = publisher
        self._plan = plan
        self._breaker = breaker
        self._clock = clock
        self._max_records = max_records
        self._group_metadata = group_metadata
        self._on_committed = on_committed
        self._on_fatal = on_fatal
        self._lanes: Lanes[PinWork] = Lanes()
        self._lock = threading.Lock()
        """Around the lanes; held for microseconds."""
        self._publishing = threading.Lock()
        """Held while a transaction is under way."""
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the transaction that it holds."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._publisher.close()

    def add(self, works: Iterable[PinWork]) -> None:
        """Take polled records; those of partitions that are gone are marked dropped."""
        with self._lock:
            for work in works:
                work.dropped = not self._lanes.add(work)

    def end_reached(self, partition: int, offset: int) -> None:
        with self._lock:
            self._lanes.end_reached(partition, offset)
        self._wake.set()

    def assigned(self, partitions: list[int]) -> None:
        with self._lock:
            self._lanes.open(partitions)

    def revoked(self, partitions: list[int]) -> None:
        """Wait for the transaction under way, then drop what is left of these partitions. Blocks."""
        finished = self._publishing.acquire(timeout=REVOKE_WAIT_S)
        try:
            self.lost(partitions)
        finally:
            if finished:
                self._publishing.release()

    def lost(self, partitions: list[int]) -> None:
        """Drop these partitions at once."""
        with self._lock:
            for work in self._lanes.drop(partitions):
                work.dropped = True

    def in_flight(self) -> tuple[int, int]:
        """Records and bytes between poll and commit."""
        with self._lock:
            return self._lanes.in_flight, self._lanes.in_flight_bytes

    def heads(self) -> list[tuple[int, int, int]]:
        """(partition, offset, append time in epoch ms) of each partition's oldest record in flight."""
        with self._lock:
            return [(p, work.offset, work.append_ms) for p, work in self._lanes.heads().items()]

    def wake(self) -> None:
        """Something may be finished."""
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wake.wait(IDLE_WAIT_S)
                self._wake.clear()
                while self._publish_once() and not self._stop.is_set():
                    pass
        except Exception as error:  # noqa: BLE001 (a thread must not die in silence: the worker stops with it)
            self._on_fatal(error)

    def _publish_once(self) -> bool:
        """Publish one transaction of finished records; False if there is nothing to publish."""
        try:
            with self._publishing:
                metadata = self._group_metadata()
                with self._lock:
                    ready = self._lanes.ready(self._max_records)
                if not ready.next_offsets:
                    return False
                breaker = self._breaker.after(ready.records)
                records, outcomes = self._plan.outgoing(ready.records)
                self._publisher.publish(records, ready.next_offsets, metadata)
                self._breaker = breaker
                with self._lock:
                    self._lanes.committed(ready)
        except (RetryableError, OwnershipLostError) as error:
            log.warning("%s; trying again", error)
            metrics.RETRIES.labels("publish").inc()
            self._stop.wait(RETRY_WAIT_S)
            return not self._stop.is_set()
        self._on_committed(ready.next_offsets)
        self._count(ready, outcomes)
        return True

    def _count(self, ready: Ready[PinWork], outcomes: dict[Outcome, int]) -> None:
        now_ms = self._clock.wall_ms()
        for outcome, count in outcomes.items():
            metrics.EMBED_RECORDS.labels(outcome.value).inc(count)
        published = [w for w in ready.records if w.outcome in (Outcome.EMBEDDED, Outcome.CACHED, Outcome.DELETED)]
        metrics.FRESHNESS.observe("published", _ages_s(published, now_ms))
        for work in ready.records:
            if work.error is not None:
                metrics.DEAD_LETTERS.labels(work.error.stage, work.error.reason).inc()
                log.warning(
                    "dead letter: partition %d offset %d: %s: %s",
                    *(work.partition, work.offset, work.error.reason, work.error),
                )


def _ages_s(works: Sequence[PinWork], now_ms: int) -> list[float]:
    return [(now_ms - work.event_time_ms) / 1000 for work in works]
