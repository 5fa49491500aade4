"""`index.visible_p99_ms`: from a batch of records in hand to a search that starts and sees all of them.

That is the call of `Shard.apply` and the taking of the next view, while upkeep merges and a second thread searches.
After every batch a search by the code of one of its upserts must find that row first, and one of its deletes must be
gone: a search is never behind a batch that was applied. The details hold the time until that search has its answer.

    python -m bench.index_visible
"""

from __future__ import annotations

import threading
import time

import numpy as np
import numpy.typing as npt

from bench.claims import record_claim
from bench.codes_like_real import CodesLikeReal
from bench.index_setup import RECALL, THREADS, CodeStream, StreamedShard, options, our_search, settle, upkeep
from index_sync.code_batch import CodeBatch
from index_sync.searcher import Searcher

SIZES = (100, 1000, 10_000)
"""Records a batch. At 22,000 a second the worker applies about 1,100 at a time: it polls for up to 50 ms."""


def main() -> None:
    given = options(__doc__, rounds=300)
    world = CodesLikeReal(seed=given.seed)
    state = StreamedShard(world, given.codes)
    codes = CodeStream(world, "updates")
    searcher = Searcher(THREADS)
    settle()
    details = {}
    samples: list[float] = []
    for size in (size for size in SIZES if size <= given.codes // 4):
        before = state.upkeep.merges
        with upkeep([state.upkeep]), another_search(state, searcher):
            seen = [visible(state, searcher, codes, size) for _ in range(given.rounds)]
        applied_ms, answered_ms = np.array(seen).T
        details[f"{size}_records"] = {
            "applied_and_search_starts_ms": quantiles(applied_ms),
            "answered_ms": quantiles(answered_ms),
            "merges": state.upkeep.merges - before,
        }
        if not samples or size == 1000:
            samples = applied_ms.tolist()
    searcher.close()
    record_claim(
        "index.visible_p99_ms",
        [float(np.quantile(samples, q)) for q in (0.5, 0.9, 0.99)],
        value=float(np.quantile(samples, 0.99)),
        bar=10,
        better="lower",
        unit="ms, p99 of batches of 1,000 records",
        details={**details, "searches_behind_their_batch": 0, "state": state.describe()},
    )


def visible(state: StreamedShard, searcher: Searcher, codes: CodeStream, size: int) -> tuple[float, float]:
    """Milliseconds until a search that sees the batch starts, and until it has its answer. Raises AssertionError."""
    deleted = state.pins.choose(size // 10)
    state.pins.forget(deleted)
    upserted = state.pins.choose(size - len(deleted))
    batch = joined(state.arrivals.upserts(upserted, codes.take(len(upserted))), state.arrivals.deletes(deleted))
    code_QW = np.ascontiguousarray(batch.code_NW[:1])
    started_s = time.perf_counter()
    state.shard.apply(batch)
    view = state.shard.view()
    applied_s = time.perf_counter()
    found = our_search(searcher, view, RECALL)(code_QW)
    answered_s = time.perf_counter()
    assert view.checkpoint == batch.next_offset, "the view is behind the batch"
    assert found.distance_QK[0, 0] == 0 and upserted[0] in found.pin_id_QK[0], "a search is behind the batch"
    assert view.get(int(deleted[0])) is None and not np.isin(found.pin_id_QK[0], deleted).any(), "a delete came back"
    return 1000 * (applied_s - started_s), 1000 * (answered_s - started_s)


def joined(first: CodeBatch, second: CodeBatch) -> CodeBatch:
    """Two consecutive batches as one."""
    columns = {
        name: np.concatenate((getattr(first, name), getattr(second, name)))
        for name in ("pin_id", "source_offset", "event_time_ms", "domain", "flags", "is_delete", "code_NW")
    }
    return CodeBatch(**columns, next_offset=second.next_offset)


class another_search:  # noqa: N801 (a context manager)
    """Somebody else searches all the while."""

    def __init__(self, state: StreamedShard, searcher: Searcher) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(state, searcher))

    def _run(self, state: StreamedShard, searcher: Searcher) -> None:
        code_QW = state.world.codes(64, "queries")
        number = 0
        while not self._stop.is_set():
            our_search(searcher, state.shard.view(), RECALL)(code_QW[number % 64][np.newaxis])
            number += 1

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def quantiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {f"p{q:g}": round(float(np.percentile(values, q)), 3) for q in (50, 90, 99, 100)}


if __name__ == "__main__":
    main()
