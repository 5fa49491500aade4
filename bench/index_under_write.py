"""`index.p99_under_write`: search p99 while 20,000 upserts and 2,000 deletes a second are applied ÷ idle p99.

In one process, as in the worker: a thread applies a batch every 50 ms, upkeep merges in a second one, and searches at
the recall target come one after the other. Phases with and without writing alternate; nine upserts of ten are updates
of random living Pins, and as many new Pins come as go. A write phase goes on until a merge has run in it.

    python -m bench.index_under_write
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import numpy as np

from bench.claims import record_claim
from bench.codes_like_real import Bytes, CodesLikeReal
from bench.index_setup import RECALL, THREADS, StreamedShard, options, our_search, settle, upkeep
from bench.index_visible import joined, quantiles
from index_sync.searcher import Searcher

UPSERTS_S, DELETES_S, PERIOD_S = 20_000, 2_000, 0.05
POOL_ROWS = 200_000
"""Codes of upserts are made before and used in turn, so that making them takes no time from searches."""


class Writer:
    """Applies at the given rate in a thread of its own; a batch that comes late is followed at once by the next."""

    def __init__(self, state: StreamedShard, share: float) -> None:
        self._state = state
        self._pool_NW = state.world.codes(int(POOL_ROWS * share) + 2000, "training")
        self._upserts, self._deletes = int(UPSERTS_S * PERIOD_S * share), max(1, int(DELETES_S * PERIOD_S * share))
        self._used = 0
        self._stop = threading.Event()
        self.apply_ms: list[float] = []
        self.seconds = 0.0

    def run(self) -> None:
        started_s = next_s = time.monotonic()
        while not self._stop.wait(max(0.0, next_s - time.monotonic())):
            next_s += PERIOD_S
            self._write()
        self.seconds = time.monotonic() - started_s

    def stop(self) -> None:
        self._stop.set()

    def _write(self) -> None:
        state = self._state
        gone = state.pins.choose(self._deletes)
        state.pins.forget(gone)
        updated = state.pins.choose(self._upserts - self._deletes)
        new = state.pins.add(self._deletes)
        batch = joined(
            state.arrivals.upserts(np.concatenate((updated, new)), self._codes(self._upserts)),
            state.arrivals.deletes(gone),
        )
        started_s = time.perf_counter()
        state.shard.apply(batch)
        self.apply_ms.append(1000 * (time.perf_counter() - started_s))

    def _codes(self, count: int) -> Bytes:
        if self._used + count > len(self._pool_NW):
            self._used = 0
        self._used += count
        return self._pool_NW[self._used - count : self._used]


def main() -> None:
    given = options(__doc__, rounds=3, seconds=15.0)
    world = CodesLikeReal(seed=given.seed)
    state = StreamedShard(world, given.codes)
    searcher = Searcher(THREADS)
    code_QW = world.codes(given.queries, "queries")
    settle()
    searches(state, searcher, code_QW, given.seconds / 5)
    rounds: list[dict[str, Any]] = []
    for _ in range(given.rounds):
        state.upkeep.step()
        settle()
        idle_ms = searches(state, searcher, code_QW, given.seconds)
        rounds.append({"idle_ms": quantiles(idle_ms), **under_write(state, searcher, code_QW, given)})
        rounds[-1]["ratio"] = rounds[-1]["writing_ms"]["p99"] / rounds[-1]["idle_ms"]["p99"]
        print(rounds[-1], flush=True)
    searcher.close()
    found = [one["ratio"] for one in rounds]
    record_claim(
        "index.p99_under_write",
        found,
        value=statistics.median(found),
        bar=2,
        better="lower",
        unit="ratio of p99",
        details={"rounds": rounds, "state_at_the_end": state.describe()},
    )


def under_write(state: StreamedShard, searcher: Searcher, code_QW: Bytes, given: Any) -> dict[str, Any]:
    """One phase with writing."""
    writer = Writer(state, min(1.0, given.codes / 1_000_000))
    thread = threading.Thread(target=writer.run, name="writer")
    before = state.upkeep.merges
    with upkeep([state.upkeep]):
        thread.start()
        parts = [searches(state, searcher, code_QW, given.seconds)]
        while state.upkeep.merges == before and len(parts) < 8:
            parts.append(searches(state, searcher, code_QW, given.seconds))
        writer.stop()
        thread.join()
    batches = len(writer.apply_ms)
    return {
        "writing_ms": quantiles(np.concatenate(parts)),
        "searches": sum(len(part) for part in parts),
        "merges": state.upkeep.merges - before,
        "upserts_s": round(batches * writer._upserts / writer.seconds),
        "deletes_s": round(batches * writer._deletes / writer.seconds),
        "apply_ms": quantiles(np.array(writer.apply_ms)),
    }


def searches(state: StreamedShard, searcher: Searcher, code_QW: Bytes, seconds: float) -> Any:
    """Milliseconds of each search, one after the other, each on the newest view."""
    took_ms: list[float] = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        query = code_QW[len(took_ms) % len(code_QW)][np.newaxis]
        started_s = time.perf_counter()
        our_search(searcher, state.shard.view(), RECALL)(query)
        took_ms.append(1000 * (time.perf_counter() - started_s))
    return np.array(took_ms)


if __name__ == "__main__":
    main()
