"""`index.memory_ratio`: memory that a shard adds to its process ÷ the bytes of its codes.

Built by applying batches with merges in between; measured after a collection and `malloc_trim`, against the process
just before the first batch. The details hold the sum of all arrays, and the same for the state that updates and
deletes leave.

    python -m bench.index_memory
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped] # no stubs in the lock

from bench.claims import record_claim
from bench.codes_like_real import CodesLikeReal
from bench.index_setup import (
    BATCH,
    RECALL,
    Arrivals,
    CodeStream,
    ShardUpkeep,
    StreamedShard,
    make_shard,
    options,
    our_search,
    settle,
)
from index_sync.searcher import Searcher
from index_sync.shard import Shard


def main() -> None:
    given = options(__doc__)
    world = CodesLikeReal(seed=given.seed)
    code_QW = world.codes(16, "queries")
    warm = StreamedShard(world, 2 * BATCH)  # so that libraries and pools are not counted
    searcher = Searcher(2)
    our_search(searcher, warm.shard.view(), RECALL)(code_QW)
    del warm
    payload = given.codes * world.code_bytes

    before = resident()
    shard = fill(world, given.codes)
    our_search(searcher, shard.view(), RECALL)(code_QW)
    grown = resident() - before
    arrays = sum(one.nbytes for one in arrays_of(shard))
    segments = [one.row_count for one in shard.view().segments]
    del shard

    before = resident()
    streamed = StreamedShard(world, given.codes)
    our_search(searcher, streamed.shard.view(), RECALL)(code_QW)
    del streamed.pins  # what the benchmark itself remembers of them
    streamed_grown = resident() - before
    searcher.close()
    record_claim(
        "index.memory_ratio",
        [grown / payload],
        bar=1.2,
        better="lower",
        unit="ratio",
        details={
            "payload_mib": round(payload / 2**20, 1),
            "resident_mib": round(grown / 2**20, 1),
            "arrays_mib": round(arrays / 2**20, 1),
            "arrays_ratio": round(arrays / payload, 4),
            "segments": segments,
            "with_tombstones": {"ratio": round(streamed_grown / payload, 4), **streamed.describe()},
        },
    )


def fill(world: CodesLikeReal, codes: int) -> Shard:
    shard, arrivals, corpus = make_shard(world, codes), Arrivals(world), CodeStream(world, "corpus")
    upkeep = ShardUpkeep(shard, codes)
    for start in range(0, codes, BATCH):
        pin_id = np.arange(start + 1, min(codes, start + BATCH) + 1, dtype=np.int64)
        shard.apply(arrivals.upserts(pin_id, corpus.take(len(pin_id))))
        upkeep.step()
    return shard


def resident() -> int:
    """Bytes of this process in memory."""
    settle()
    return int(psutil.Process().memory_info().rss)


def arrays_of(held: object, seen: set[int] | None = None) -> Iterator[np.ndarray[Any, Any]]:
    """Every array that an object holds, however deep; a view stands for its base. Untouched pages count here."""
    seen = set() if seen is None else seen
    if id(held) in seen:
        return
    seen.add(id(held))
    if isinstance(held, np.ndarray):
        if held.base is None:
            yield held
        else:
            yield from arrays_of(held.base, seen)
        return
    parts: list[object] = []
    if isinstance(held, dict):
        parts = list(held.values()) if len(held) < 1000 else []
    elif isinstance(held, (list, tuple, set, frozenset)):
        parts = list(held)
    elif type(held).__module__.startswith("index_sync"):
        names = [
            *getattr(held, "__dict__", ()),
            *(n for one in type(held).__mro__ for n in getattr(one, "__slots__", ())),
        ]
        parts = [getattr(held, name, None) for name in names]
    for part in parts:
        yield from arrays_of(part, seen)


if __name__ == "__main__":
    main()
