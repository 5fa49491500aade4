"""A lone query runs at once; those that come meanwhile run together, each with its own answer; no time is wasted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from index_sync.admission import BusyError
from index_sync.coalescer import Coalescer, DeadlinePassedError, QueryQueue, Waiting, k_class

FAR_S = float("inf")


def waiting(query: str, deadline_s: float = FAR_S) -> Waiting[str, str]:
    return Waiting(query, query[0], deadline_s, Future())


def test_the_queue_takes_the_oldest_with_those_like_it_and_keeps_the_order_of_the_rest() -> None:
    queue: QueryQueue[str, str] = QueryQueue(max_batch=3)
    for name in ("a1", "b1", "a2", "c1", "a3", "a4", "b2"):
        queue.put(waiting(name))
    taken = []
    while len(queue):
        batch, dropped = queue.take(0.0)
        assert not dropped
        taken.append([one.query for one in batch])
    assert taken == [["a1", "a2", "a3"], ["b1", "b2"], ["c1"], ["a4"]]


def test_the_queue_gives_up_on_those_whose_time_is_up_or_that_were_cancelled() -> None:
    queue: QueryQueue[str, str] = QueryQueue(max_batch=8)
    late, cancelled, good = waiting("a1", 5.0), waiting("a2"), waiting("a3", 5.1)
    for one in (late, cancelled, good):
        queue.put(one)
    cancelled.answer.cancel()
    assert queue.take(5.0) == ([good], [late, cancelled])


class Scan:
    """Answers each query with itself; holds the first scan until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.began = threading.Event()
        self.go = threading.Event()

    def __call__(self, queries: Sequence[str]) -> list[str]:
        self.batches.append(list(queries))
        self.began.set()
        assert self.go.wait(10)
        if "bad" in queries:
            raise RuntimeError("broken scan")
        return [f"answer to {query}" for query in queries]


def make(scan: Scan, **given: Any) -> Coalescer[str, str]:
    bounds = {"lanes": 1, "max_batch": 16, "max_waiting": 100} | given
    return Coalescer(scan, lambda query: query[0], **bounds)


def put(coalescer: Coalescer[str, str], query: str, deadline_s: float = FAR_S) -> Future[str]:
    answer: Future[str] = Future()
    coalescer.put(query, deadline_s, answer)
    return answer


def test_queries_that_come_during_a_scan_share_the_next_one() -> None:
    scan = Scan()
    coalescer = make(scan)
    first = put(coalescer, "a0")
    assert scan.began.wait(10)
    others = [put(coalescer, f"a{i}") for i in range(1, 9)]
    passed = put(coalescer, "a-late", time.monotonic())
    cancelled = put(coalescer, "a-cancelled")
    cancelled.cancel()
    assert coalescer.in_flight == 11
    scan.go.set()
    assert [one.result(10) for one in (first, *others)] == [f"answer to a{i}" for i in range(9)]
    with pytest.raises(DeadlinePassedError):
        passed.result(10)
    coalescer.close()
    assert scan.batches == [["a0"], [f"a{i}" for i in range(1, 9)]]
    assert coalescer.in_flight == 0


def test_a_scan_that_fails_fails_its_own_queries_only() -> None:
    scan = Scan()
    scan.go.set()
    coalescer = make(scan)
    bad = put(coalescer, "bad")
    with pytest.raises(RuntimeError, match="broken scan"):
        bad.result(10)
    assert put(coalescer, "a").result(10) == "answer to a"
    coalescer.close()


def test_one_too_many_is_told_to_come_back() -> None:
    scan = Scan()
    coalescer = make(scan, max_waiting=2)
    running = put(coalescer, "a0")
    assert scan.began.wait(10)
    kept = [put(coalescer, f"a{i}") for i in (1, 2)]
    with pytest.raises(BusyError) as refused:
        put(coalescer, "a3").result(10)
    assert refused.value.retry_after_s >= 1
    scan.go.set()
    assert [one.result(10) for one in (running, *kept)] == [f"answer to a{i}" for i in range(3)]
    coalescer.close()


def test_k_classes() -> None:
    assert [k_class(k) for k in (1, 20, 21, 32, 33, 1000, 1001)] == [32, 32, 32, 32, 64, 1024, 1024]
