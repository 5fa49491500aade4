"""`index.delete_flat`: what a batch of deletes costs in shards of 0.1, 1 and 4 times `--codes`.

Each shard is as streaming leaves it. A batch deletes 1,000 random living Pins; the time is that of `Shard.apply`, no
merge beside it, the sizes in turn. The claim is the dearest size's median ÷ the cheapest one's.

    python -m bench.index_delete
"""

from __future__ import annotations

import time
from functools import partial

from bench.claims import record_claim
from bench.codes_like_real import CodesLikeReal
from bench.index_setup import StreamedShard, options, settle
from bench.index_timing import interleaved, median_of


def main() -> None:
    given = options(__doc__, rounds=41, batch=1000)
    world = CodesLikeReal(seed=given.seed)
    states = {}
    for name, share in (("0.1", 0.1), ("1", 1), ("4", 4)):
        states[name] = StreamedShard(world, int(share * given.codes))
        print(f"{name} × {given.codes} codes: {states[name].describe()}", flush=True)
    settle()
    batch = min(given.batch, given.codes // 400)
    found = interleaved(given.rounds, {name: partial(delete_ms, state, batch) for name, state in states.items()})
    medians = median_of(found)
    record_claim(
        "index.delete_flat",
        list(medians.values()),
        value=max(medians.values()) / min(medians.values()),
        bar=1.5,
        better="lower",
        unit="ratio, dearest size ÷ cheapest",
        details={
            "batch": batch,
            "median_ms_by_size": medians,
            "codes_of_size_1": given.codes,
            "states": {name: state.describe() for name, state in states.items()},
        },
    )


def delete_ms(state: StreamedShard, batch: int) -> float:
    """Milliseconds to apply one batch of deletes."""
    chosen = state.pins.choose(batch)
    records = state.arrivals.deletes(chosen)
    started_s = time.perf_counter()
    result = state.shard.apply(records)
    took_ms = 1000 * (time.perf_counter() - started_s)
    assert result.deleted == len(chosen), result
    state.pins.forget(chosen)
    state.upkeep.step()
    return took_ms


if __name__ == "__main__":
    main()
