"""Asks the broker where the partitions end, once a second, and keeps the lag gauges true."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from prometheus_client import Gauge

from consumers.kafka_ends import LogEnds
from consumers.lag import Lag, PartitionLag
from pinstream import metrics
from pinstream.clock import Clock

log = logging.getLogger(__name__)


class LagMonitor:
    """Lag of one group on one topic, for the partitions that this worker owns. Thread-safe.

    A partition's series is removed when it is revoked: its new owner reports it from then on.
    """

    def __init__(
        self, ends: LogEnds, cluster_name: str, group_id: str, topic: str, clock: Clock, interval_s: float = 1.0
    ) -> None:
        self._ends = ends
        self._labels = (cluster_name, group_id)
        self._topic = topic
        self._clock = clock
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._partitions: dict[int, PartitionLag] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lag", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended: at most one request later."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def assigned(self, partitions: Iterable[int]) -> None:
        with self._lock:
            for partition in partitions:
                self._partitions.setdefault(partition, PartitionLag())

    def revoked(self, partitions: Iterable[int]) -> None:
        with self._lock:
            for partition in partitions:
                if self._partitions.pop(partition, None) is not None:
                    self._forget(partition)

    def done(self, next_offsets: dict[int, int]) -> None:
        """Everything before these offsets is done."""
        with self._lock:
            for partition, offset in next_offsets.items():
                if partition in self._partitions:
                    self._partitions[partition].done(offset)

    def heads(self, heads: Iterable[tuple[int, int, int]]) -> None:
        """(partition, offset, append time in epoch ms) of the oldest record in hand of each partition."""
        with self._lock:
            for partition, offset, append_ms in heads:
                if partition in self._partitions:
                    self._partitions[partition].head(offset, append_ms)

    def lags(self) -> dict[int, Lag]:
        """What is known now."""
        now_ms = self._clock.wall_ms()
        with self._lock:
            known = {partition: state.lag(now_ms) for partition, state in self._partitions.items()}
        return {partition: lag for partition, lag in known.items() if lag is not None}

    def complete_ms(self) -> dict[int, int]:
        """Partition → the latest moment of which everything is done, of those partitions of which one is known."""
        with self._lock:
            known = {partition: state.complete_ms for partition, state in self._partitions.items()}
        return {partition: moment_ms for partition, moment_ms in known.items() if moment_ms is not None}

    def refresh(self) -> None:
        """Ask the broker now where the partitions end. Blocks for one request."""
        with self._lock:
            partitions = list(self._partitions)
        ends = self._ends.ask(self._topic, partitions, timeout_s=5)
        now_ms = self._clock.wall_ms()
        with self._lock:
            for partition, end_offset in ends.items():
                if partition in self._partitions:
                    self._partitions[partition].saw_end(end_offset, now_ms)

    def publish(self) -> None:
        """Write the gauges from what is known now."""
        lags = self.lags()
        for partition, lag in lags.items():
            labels = (*self._labels, self._topic, str(partition))
            metrics.GROUP_LAG.labels(*labels).set(lag.records)
            if lag.seconds is not None:
                metrics.GROUP_LAG_SECONDS.labels(*labels).set(lag.seconds)
            else:
                _remove(metrics.GROUP_LAG_SECONDS, labels)
        known_s = [lag.seconds for lag in lags.values() if lag.seconds is not None]
        if lags:
            metrics.GROUP_MAX_LAG.labels(*self._labels).set(max(lag.records for lag in lags.values()))
        else:
            _remove(metrics.GROUP_MAX_LAG, self._labels)
        if known_s:
            metrics.GROUP_MAX_LAG_SECONDS.labels(*self._labels).set(max(known_s))
        else:
            _remove(metrics.GROUP_MAX_LAG_SECONDS, self._labels)

    def _forget(self, partition: int) -> None:
        labels = (*self._labels, self._topic, str(partition))
        _remove(metrics.GROUP_LAG, labels)
        _remove(metrics.GROUP_LAG_SECONDS, labels)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.refresh()
            self.publish()
            self._stop.wait(self._interval_s)


def _remove(gauge: Gauge, labels: tuple[str, ...]) -> None:
    try:
        gauge.remove(*labels)
    except KeyError:
        return  # it was never set
