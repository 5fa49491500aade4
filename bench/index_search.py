"""`index.search_vs_ivf`: search at recall@100 ≥ 0.99 in the state that streaming leaves ÷ one bare, fresh IVF.

The bare side is IndexBinaryIVF, trained and filled with the same living codes, its nprobe the smallest that reaches
the recall on these queries; of several numbers of lists the fastest counts. Both on two cores, one query at a time and
16 at once. The claim is the worse of the two ratios.

    python -m bench.index_search
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from bench.claims import record_claim
from bench.codes_like_real import Bytes, CodesLikeReal, exact, recall
from bench.index_setup import AT_ONCE, RECALL, THREADS, K, StreamedShard, live_codes, options, our_search
from bench.index_timing import (
    bare_ivf,
    best_threads,
    faiss_threads,
    interleaved,
    median_of,
    queries_per_s,
    ratios,
    tuned_nprobe,
)
from index_sync.searcher import Searcher


def main() -> None:
    given = options(__doc__, rounds=7, nlist="1024,2048,4096")
    world = CodesLikeReal(seed=given.seed)
    state = StreamedShard(world, given.codes)
    view = state.shard.view()
    code_QW = world.codes(given.queries, "queries")
    _, code_NW = live_codes(view)
    with faiss_threads(THREADS):
        true_distance_QK, _ = exact(code_QW, code_NW, K)
    lists = [int(n) for n in given.nlist.split(",") if int(n) * 32 <= given.codes] or [max(1, given.codes // 100)]
    indexes, tried = bare_indexes(code_NW, code_QW, true_distance_QK, lists)
    del code_NW
    searcher = Searcher(THREADS)
    ours = our_search(searcher, view, RECALL)
    reached = recall(ours(code_QW).distance_QK, true_distance_QK)

    medians, samples, details = {}, {}, {}
    for name, at_once in (("one_at_a_time", 1), ("16_at_once", AT_ONCE)):
        speed = {nlist: one[name] for nlist, one in tried.items()}
        index = indexes[max(speed, key=speed.__getitem__)]
        bare = best_threads(partial(index.search, k=K), code_QW, at_once)
        found = interleaved(
            given.rounds,
            {
                "ours": partial(queries_per_s, ours, code_QW, at_once),
                "faiss": partial(queries_per_s, bare, code_QW, at_once),
            },
        )
        samples[name] = ratios(found["ours"], found["faiss"])
        medians[name] = statistics.median(samples[name])
        details[name] = {"ratio": medians[name], "queries_per_s": median_of(found), "nlist": int(index.nlist)}
    searcher.close()
    worse = min(medians, key=lambda name: medians[name])
    record_claim(
        "index.search_vs_ivf",
        samples[worse],
        value=medians[worse] if reached >= RECALL else 0.0,
        bar=0.7,
        better="higher",
        unit=f"ratio of queries/s at recall@{K} ≥ {RECALL}, {worse.replace('_', ' ')}",
        details={**details, "our_recall": reached, "bare_tried": tried, "state": state.describe()},
    )


def bare_indexes(
    code_NW: Bytes, code_QW: Bytes, true_distance_QK: Any, lists: list[int]
) -> tuple[dict[int, Any], dict[int, dict[str, float]]]:
    """A tuned inverted file for each number of lists, and what each one does."""
    indexes, tried = {}, {}
    for nlist in lists:
        index, train_s, add_s = bare_ivf(code_NW, nlist)
        with faiss_threads(THREADS):
            nprobe, reached = tuned_nprobe(index, code_QW, true_distance_QK, RECALL)
        run = partial(index.search, k=K)
        tried[nlist] = {
            "nprobe": nprobe,
            "recall": reached,
            "train_s": round(train_s, 1),
            "add_s": round(add_s, 1),
            "one_at_a_time": round(queries_per_s(best_threads(run, code_QW, 1), code_QW, 1)),
            "16_at_once": round(queries_per_s(best_threads(run, code_QW, AT_ONCE), code_QW, AT_ONCE)),
        }
        indexes[nlist] = index
        print(f"bare IVF of {nlist} lists: {tried[nlist]}", flush=True)
    return indexes, tried


if __name__ == "__main__":
    main()
