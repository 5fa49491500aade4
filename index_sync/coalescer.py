"""Makes one scan of the queries that came while the last one ran: memory is read once for all of them.

Nothing waits for company. A query that finds a free lane is scanned at once; those that come while all lanes scan are
the next batch, with those like them, up to a bound. The queue is pure; `Coalescer` gives it threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from index_sync.admission import Admission, BusyError
from pinstream import metrics
from pinstream.errors import PinstreamError

Q = TypeVar("Q")
A = TypeVar("A")

_LEAST_K: Final = 32


class DeadlinePassedError(PinstreamError):
    """Nobody waits for this query any more, so it was not started."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting(Generic[Q, A]):
    query: Q
    likeness: Hashable
    deadline_s: float
    answer: Future[A]


class QueryQueue(Generic[Q, A]):
    """First come, first served; with the first go those of the same likeness. Pure; one thread at a time."""

    def __init__(self, max_batch: int) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch is {max_batch}, expected at least 1")
        self._max_batch = max_batch
        self._waiting: deque[Waiting[Q, A]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, one: Waiting[Q, A]) -> None:
        self._waiting.append(one)

    def take(self, now_s: float) -> tuple[list[Waiting[Q, A]], list[Waiting[Q, A]]]:
        """The next batch, in order of arrival; and those whose time is up or that were cancelled."""
        batch: list[Waiting[Q, A]] = []
        dropped: list[Waiting[Q, A]] = []
        kept: deque[Waiting[Q, A]] = deque()
        while self._waiting and len(batch) < self._max_batch:
            one = self._waiting.popleft()
            if one.deadline_s <= now_s or one.answer.cancelled():
                dropped.append(one)
            elif not batch or one.likeness == batch[0].likeness:
                batch.append(one)
            else:
                kept.append(one)
        kept.extend(self._waiting)
        self._waiting = kept
        return batch, dropped


class Coalescer(Generic[Q, A]):
    """Runs `scan` over batches of queries in `lanes` threads; `close` it. Thread-safe.

    Args:
        scan: queries of one likeness → their answers, in order. What it raises fails the whole batch.
        likeness: queries that may share a scan have the same one.
        lanes: scans at once. More than the searcher has threads adds nothing but smaller batches.
        max_batch: queries in one scan.
        max_waiting: queries that wait for a lane; one more is refused.
    """

    def __init__(
        self,
        scan: Callable[[Sequence[Q]], Sequence[A]],
        likeness: Callable[[Q], Hashable],
        *,
        lanes: int,
        max_batch: int,
        max_waiting: int,
    ) -> None:
        self._scan = scan
        self._likeness = likeness
        self._queue: QueryQueue[Q, A] = QueryQueue(max_batch)
        self._admission = Admission(lanes, max_waiting)
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"scan-{i}", daemon=True) for i in range(lanes)]
        for thread in self._threads:
            thread.start()

    @property
    def in_flight(self) -> int:
        """Queries that wait or are being scanned."""
        return self._admission.inside

    @property
    def service_s(self) -> float:
        """Recent mean seconds of a scan per query in it."""
        return self._admission.service_s

    def put(self, query: Q, deadline_s: float, answer: Future[A]) -> None:
        """Have `answer` resolved: with the answer, DeadlinePassedError, BusyError, or what the scan raised.

        Never blocks. A future that is cancelled before its scan costs none.
        """
        waiting = Waiting(query, self._likeness(query), deadline_s, answer)
        try:
            with self._changed:
                if self._closed:
                    raise BusyError("this node is stopping", 1)
                self._admission.enter()
                self._queue.put(waiting)
                self._changed.notify()
        except BusyError as error:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)

    def close(self) -> None:
        """Answer what waits, then end. Blocks for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not len(self._queue) and not self._closed:
                    self._changed.wait()
                if not len(self._queue):
                    return
                batch, dropped = self._queue.take(time.monotonic())
                for _ in dropped:
                    self._admission.leave(None)
                if len(self._queue):
                    self._changed.notify()
            for one in dropped:
                if one.answer.set_running_or_notify_cancel():
                    one.answer.set_exception(DeadlinePassedError("the deadline passed before the scan began"))
            if batch:
                self._answer(batch)

    def _answer(self, batch: list[Waiting[Q, A]]) -> None:
        started_s = time.monotonic()
        claimed = [one for one in batch if one.answer.set_running_or_notify_cancel()]
        try:
            answers = self._scan([one.query for one in claimed]) if claimed else []
        except Exception as error:  # noqa: BLE001 (each of the batch's askers is told; the lane must live on)
            for one in claimed:
                one.answer.set_exception(error)
        else:
            for one, answer in zip(claimed, answers, strict=True):
                one.answer.set_result(answer)
            metrics.SEARCH_BATCH_QUERIES.observe(len(claimed))
        finally:
            each_s = (time.monotonic() - started_s) / len(batch)
            with self._changed:
                for _ in batch:
                    self._admission.leave(each_s)


def k_class(k: int) -> int:
    """The k that a scan asks for: a power of two, so that 20 and 21 share one. The first k of its answer are exact."""
    return max(_LEAST_K, 1 << (k - 1).bit_length())
