"""Searches a few live queries again, exactly, in a thread of its own, and publishes the recall.

It looks at the very views that the query saw, so writes that came since are no errors. It reads the rows themselves,
has FAISS count the bits, and shares no code with the searches that it judges.

Shapes: Q queries of one scan, K places, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.calibration import Effort
from index_sync.code_batch import Bytes
from index_sync.faiss_scan import distances
from index_sync.recall_monitor import RecallWindow, SampleGate, judge
from index_sync.segment import SearchFilter
from index_sync.segment_view import SegmentView
from index_sync.shard_view import ShardView
from index_sync.top_k import PAD_DISTANCE, Neighbors
from pinstream import metrics
from pinstream.clock import Clock, SystemClock

log = logging.getLogger(__name__)

MAX_QUEUED: Final = 2
"""A waiting sample keeps the segments that it saw in memory."""
_TICK_S: Final = 5.0
_OUTCOMES: Final = ("checked", "dropped", "failed")


@dataclass(frozen=True, slots=True)
class _Sample:
    views: tuple[ShardView, ...]
    code_W: Bytes
    k: int
    where: SearchFilter | None
    returned_K: npt.NDArray[np.int32]
    """Distances."""


class RecallProbe:
    """`offer` every scan's answer. Thread-safe.

    Args:
        generation: the metrics' label.
        per_s: searches that are checked a second, on average and at most; 0: none.
        effort: that of the searches to check, the index's own. Who asks for another one knows what it gets.
    """

    def __init__(self, generation: str, per_s: float, effort: Effort | None, clock: Clock | None = None) -> None:
        self._generation = generation
        self._effort = effort
        self._clock = clock or SystemClock()
        self._random = Random()
        self._gate = SampleGate(per_s, self._clock.monotonic_s(), self._random)
        self._lock = threading.Lock()
        self._window = RecallWindow()
        self._samples: queue.Queue[_Sample | None] = queue.Queue(MAX_QUEUED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recall", daemon=True) if per_s else None
        if per_s:
            # From 0 on: an alert on "nothing was checked" needs a series to look at.
            for outcome in _OUTCOMES:
                metrics.RECALL_SAMPLES.labels(generation, outcome)
            for counter in (metrics.RECALL_CHECKED, metrics.RECALL_MISSED, metrics.RECALL_SECONDS):
                counter.labels(generation)

    def start(self) -> None:
        if self._thread is not None:
            self._thread.start()

    def stop(self) -> None:
        """End after the exact search under way."""
        self._stop.set()
        if self._thread is not None and self._thread.is_alive():
            with suppress(queue.Full):  # then it wakes for what is there
                self._samples.put_nowait(None)
            self._thread.join()

    def offer(
        self,
        views: Sequence[ShardView],
        code_QW: Bytes,
        k_Q: Sequence[int],
        where: SearchFilter | None,
        effort: Effort | None,
        found: Neighbors,
        took_s: float,
    ) -> None:
        """A scan of these views has given these answers. Never blocks: what does not fit is dropped and counted.

        Args:
            k_Q: places that each query asked for; `found` may have more.
        """
        if self._thread is None or effort != self._effort:
            return
        with self._lock:
            if not self._gate.picks(took_s, self._clock.monotonic_s()):
                return
            query = self._random.randrange(len(k_Q))
        k = k_Q[query]
        sample = _Sample(tuple(views), code_QW[query].copy(), k, where, found.distance_QK[query, :k].copy())
        try:
            self._samples.put_nowait(sample)
        except queue.Full:
            metrics.RECALL_SAMPLES.labels(self._generation, "dropped").inc()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                sample = self._samples.get(timeout=_TICK_S)
            except queue.Empty:
                sample = None
            if sample is not None:
                self._check(sample)
            self._publish()

    def _check(self, sample: _Sample) -> None:
        started_s = self._clock.monotonic_s()
        try:
            exact_K = exact_distances(sample.views, sample.code_W, sample.k, sample.where)
        except Exception:
            # Searching goes on; the alert on unmeasured recall tells if it stays so.
            log.exception("a search could not be checked against the exact one")
            metrics.RECALL_SAMPLES.labels(self._generation, "failed").inc()
            return
        finally:
            spent_s = self._clock.monotonic_s() - started_s
            metrics.RECALL_SECONDS.labels(self._generation).inc(spent_s)
            with self._lock:
                self._gate.charge(spent_s)
        verdict = judge(sample.returned_K, exact_K)
        self._window.add(verdict, self._clock.monotonic_s())
        metrics.RECALL_CHECKED.labels(self._generation).inc(verdict.checked)
        metrics.RECALL_MISSED.labels(self._generation).inc(verdict.missed)
        metrics.RECALL_SAMPLES.labels(self._generation, "checked").inc()

    def _publish(self) -> None:
        recall = self._window.recall(self._clock.monotonic_s())
        if recall is None:
            metrics.RECALL_AT_K.remove_by_labels({"generation": self._generation})
            metrics.RECALL_BOUND.remove_by_labels({"generation": self._generation})
            return
        metrics.RECALL_AT_K.labels(self._generation).set(recall.mean)
        metrics.RECALL_BOUND.labels(self._generation, "lower").set(recall.lower)
        metrics.RECALL_BOUND.labels(self._generation, "upper").set(recall.upper)


def exact_distances(
    views: Sequence[ShardView], code_W: Bytes, k: int, where: SearchFilter | None
) -> npt.NDArray[np.int32]:
    """The distances of the k nearest living rows that match, of all views together: int32 [k], ascending, padded.

    Blocks for the scan, on one thread; memory of 5 bytes a row of the largest segment.
    """
    nearest = np.full(k, PAD_DISTANCE, dtype=np.int32)
    for view in views:
        for one in view.segments:
            if one.live_rows:
                found = _least(_matching_distances(one, code_W, where), k)
                nearest = _least(np.concatenate((nearest, found)), k)
    return np.sort(nearest)


def _matching_distances(one: SegmentView, code_W: Bytes, where: SearchFilter | None) -> npt.NDArray[np.int32]:
    rows = one.segment.rows[: one.row_count]
    keep = one.visible()
    if where is not None:
        keep &= where.matches(rows.domain, rows.flags)
    return distances(code_W, rows.code_NW)[keep]


def _least(distance_N: npt.NDArray[np.int32], k: int) -> npt.NDArray[np.int32]:
    return distance_N if len(distance_N) <= k else np.partition(distance_N, k - 1)[:k]
