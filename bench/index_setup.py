"""What the benchmarks of the index share: the state that streaming leaves, and the live codes in it.

Codes come as from one partition of the codes topic: batches of 10,000 records that the shard applies; merges run as
the worker's upkeep runs them. Every script starts itself again with OMP_NUM_THREADS=1, as the index worker runs; bare
FAISS is then given its threads by hand.

Shapes: N codes, Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from obstore.store import MemoryStore, ObjectStore

from bench.codes_like_real import Bytes, CodesLikeReal
from index_sync.calibration import Effort
from index_sync.code_batch import CodeBatch
from index_sync.grouping import Grouping
from index_sync.searcher import Searcher
from index_sync.shard import Shard
from index_sync.shard_state import ShardState
from index_sync.shard_view import ShardView
from index_sync.store_quantizer import QuantizerStore
from index_sync.top_k import Neighbors
from index_sync.upkeep import PREPARE_S, TICK_S
from pinstream.interpreter import calm_garbage_collector, step_back, take_turns_sooner

Int64s = npt.NDArray[np.int64]

K: Final = 100
BATCH: Final = 10_000
DEAD_SHARE: Final = 0.10
RECALL: Final = 0.99
THREADS: Final = 2
AT_ONCE: Final = 16
EXACT: Final = 1.0


def make_shard(world: CodesLikeReal, codes: int, state: ShardState | None = None) -> Shard:
    """A shard as a worker would make it for a generation of about this many codes; empty unless it has a state."""
    return Shard(world.bits, seal_rows=max(1000, min(16_384, codes // 10)), state=state)


def our_search(searcher: Searcher, view: ShardView, recall_target: float) -> Callable[[Bytes], Neighbors]:
    """Searches for the K nearest of each query, at least this share of them; EXACT: all, by scanning every row."""
    effort = None if recall_target == EXACT else Effort(recall_target)
    return lambda code_QW: searcher.search([view], code_QW, K, effort=effort)


def quantizers(store: ObjectStore, bits: int) -> QuantizerStore:
    """Where the generation's quantizer is kept."""
    return QuantizerStore(store, "codes", bits)


class ShardUpkeep:
    """What the worker's upkeep does for a shard: seal and merge, train the quantizer once, calibrate. One thread.

    Args:
        store: where the quantizer goes; memory unless given.
    """

    def __init__(self, shard: Shard, codes: int, store: ObjectStore | None = None) -> None:
        lists = max(16, min(1024, codes // 64))
        self._shard = shard
        kept = quantizers(store or MemoryStore(), 8 * shard.view().code_bytes)
        self._grouping = Grouping(shard, kept, lists=lists, train_rows=64 * lists, monotonic_s=time.monotonic)
        self.merges = 0

    def step(self) -> None:
        """Do all that is due. Blocks for it."""
        self._shard.seal_full()
        self._merge()
        self._grouping.step()
        self._merge()

    def prepare(self) -> None:
        """Have memory at hand for the next rows."""
        self._shard.prepare()

    def _merge(self) -> None:
        while (plan := self._shard.plan_merge()) is not None:
            self._shard.install(plan.run())
            self.merges += 1


def options(description: str | None, **more: Any) -> argparse.Namespace:
    """The command line that all these scripts take; `more` gives further options and their defaults."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    more = {"codes": 1_000_000, "rounds": 5, "queries": 256, "seed": 2026} | more
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parsed = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ["OMP_NUM_THREADS"] = "1"  # read once, when FAISS is loaded, and valid for threads to come
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (ourselves, no shell)
    calm_garbage_collector()  # as the worker's command does
    take_turns_sooner()  # the same
    return parsed


class Arrivals:
    """Makes the records of one partition: every batch comes after the one before. One thread."""

    def __init__(self, world: CodesLikeReal) -> None:
        self._world = world
        self._offset = 0

    def upserts(self, pin_id: Int64s, code_NW: Bytes) -> CodeBatch:
        return self._batch(pin_id, code_NW, np.zeros(len(pin_id), dtype=bool))

    def deletes(self, pin_id: Int64s) -> CodeBatch:
        code_NW = np.zeros((len(pin_id), self._world.code_bytes), dtype=np.uint8)
        return self._batch(pin_id, code_NW, np.ones(len(pin_id), dtype=bool))

    def _batch(self, pin_id: Int64s, code_NW: Bytes, is_delete: npt.NDArray[np.bool_]) -> CodeBatch:
        count = len(pin_id)
        source_offset = np.arange(self._offset, self._offset + count, dtype=np.int64)
        self._offset += count
        return CodeBatch(
            pin_id=pin_id,
            source_offset=source_offset,
            event_time_ms=source_offset + 1_700_000_000_000,
            domain=(pin_id % 3).astype(np.uint8),
            flags=(pin_id % 16).astype(np.uint32),
            is_delete=is_delete,
            code_NW=code_NW,
            next_offset=self._offset,
        )


class StreamedShard:
    """A shard of `codes` living Pins as streaming leaves it, with what is needed to stream on. One writing thread.

    Pins arrive in batches of 10,000; after every tenth batch one of updates comes, and half a one of deletes with as
    many new Pins. At the end that goes on until a tenth of the rows are tombstones. Merges run after each batch, so
    every run gives the same segments.
    """

    def __init__(self, world: CodesLikeReal, codes: int, seed: int = 1, store: ObjectStore | None = None) -> None:
        self.world = world
        self.shard = make_shard(world, codes)
        self.upkeep = ShardUpkeep(self.shard, codes, store)
        self.arrivals = Arrivals(world)
        self.pins = LivingPins(seed)
        self._corpus, self._updates = CodeStream(world, "corpus"), CodeStream(world, "updates")
        started_s = time.monotonic()
        step = max(1, min(BATCH, codes // 100))
        for number, start in enumerate(range(0, codes, step), start=1):
            self.insert(min(step, codes - start))
            if number % 10 == 0:
                self.update(step)
                self.replace(step // 2)
        while self.dead_share() < DEAD_SHARE:
            self.update(step // 2)
            self.replace(step // 2)
        self.upkeep.step()
        self.build_s = time.monotonic() - started_s

    def insert(self, count: int) -> None:
        """New Pins."""
        self._apply(self.arrivals.upserts(self.pins.add(count), self._corpus.take(count)))

    def update(self, count: int) -> None:
        """Other codes for random living Pins."""
        chosen = self.pins.choose(count)
        self._apply(self.arrivals.upserts(chosen, self._updates.take(len(chosen))))

    def replace(self, count: int) -> None:
        """Random living Pins go, as many new ones come."""
        gone = self.pins.choose(count)
        self.pins.forget(gone)
        self._apply(self.arrivals.deletes(gone))
        self.insert(count)

    def dead_share(self) -> float:
        view = self.shard.view()
        return view.dead_rows / max(1, view.dead_rows + view.live_rows)

    def describe(self) -> dict[str, Any]:
        view = self.shard.view()
        return {
            "live": view.live_rows,
            "dead": view.dead_rows,
            "segments": [
                {"sealed": one.segment.is_sealed, "rows": one.row_count, "dead": one.dead_rows} for one in view.segments
            ],
            "lists": None if self.shard.quantizer is None else self.shard.quantizer.lists,
            "merges": self.upkeep.merges,
            "build_s": round(self.build_s, 1),
        }

    def _apply(self, batch: CodeBatch) -> None:
        self.shard.apply(batch)
        self.upkeep.step()


class LivingPins:
    """Which Pins live, numbered from 1: adding, choosing and forgetting cost as much as they name, whatever lives."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pin = np.empty(1 << 20, dtype=np.int64)
        self._count = 0
        self._place = np.zeros(1 << 20, dtype=np.int64)
        """Pin → where it is in `_pin`."""
        self._next = 1

    def add(self, count: int) -> Int64s:
        """New Pins."""
        pin_id = np.arange(self._next, self._next + count, dtype=np.int64)
        self._next += count
        while self._next > len(self._place):
            self._pin, self._place = np.tile(self._pin, 2), np.tile(self._place, 2)
        self._pin[self._count : self._count + count] = pin_id
        self._place[pin_id] = np.arange(self._count, self._count + count)
        self._count += count
        return pin_id

    def choose(self, count: int) -> Int64s:
        """Random living Pins, each once, in any order."""
        drawn = np.unique(self._rng.integers(0, self._count, 2 * count))
        if len(drawn) < count:
            drawn = np.arange(self._count)
        chosen: Int64s = self._pin[self._rng.permutation(drawn)[:count]]
        return chosen

    def forget(self, pin_id: Int64s) -> None:
        """These live no longer: the last ones take their places."""
        place = self._place[pin_id]
        left = self._count - len(pin_id)
        stays = np.ones(len(pin_id), dtype=bool)
        stays[place[place >= left] - left] = False
        movers, holes = self._pin[left : self._count][stays], place[place < left]
        self._pin[holes], self._place[movers] = movers, holes
        self._count = left


class CodeStream:
    """A stream of codes that is taken from piece by piece, made as needed."""

    def __init__(self, world: CodesLikeReal, stream: str) -> None:
        self._chunks = (chunk for chunk, _ in world.chunks(2**40, stream))
        self._left = np.empty((0, world.code_bytes), dtype=np.uint8)

    def take(self, count: int) -> Bytes:
        parts, missing = [self._left], count - len(self._left)
        while missing > 0:
            parts.append(next(self._chunks))
            missing -= len(parts[-1])
        joined = np.concatenate(parts)
        self._left = joined[count:].copy()
        return joined[:count]


@contextmanager
def upkeep(shards: Sequence[ShardUpkeep]) -> Iterator[None]:
    """Upkeep of these shards in threads of its own, as in the worker. What fails there fails here at the end."""
    stop, failed = threading.Event(), list[BaseException]()

    def run(work: Callable[[ShardUpkeep], None], tick_s: float) -> None:
        step_back()
        try:
            while not stop.wait(tick_s):
                for one in shards:
                    work(one)
        except BaseException as error:  # noqa: BLE001 (raised in the caller's thread)
            failed.append(error)

    threads = [
        threading.Thread(target=run, args=(ShardUpkeep.step, TICK_S), name="upkeep"),
        threading.Thread(target=run, args=(ShardUpkeep.prepare, PREPARE_S), name="memory"),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def live_codes(view: ShardView) -> tuple[Int64s, Bytes]:
    """What lives in a view, by ascending Pin id: ids [N] and codes [N, W] in one block."""
    pin_id, code_NW = np.empty(view.live_rows, np.int64), np.empty((view.live_rows, view.code_bytes), np.uint8)
    start = 0
    for rows in view.items():
        pin_id[start : start + len(rows)], code_NW[start : start + len(rows)] = rows.pin_id, rows.code_NW
        start += len(rows)
    order = np.argsort(pin_id)
    return pin_id[order], code_NW[order]


def settle() -> None:
    """Let go of what nobody holds, back to the system: before a look at memory or at latencies."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
