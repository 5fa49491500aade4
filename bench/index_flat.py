"""`index.flat_vs_faiss`, `index.flat_one_vs_faiss`: our exact scan ÷ a bare IndexBinaryFlat of the same living codes.

Ours scans what streaming left: fresh and sealed segments with a tenth of their rows dead. Both may use two cores: ours
by its Searcher's threads, FAISS by OpenMP (one thread where two are slower), 16 queries at once and one at a time.
Both must return the same.

    python -m bench.index_flat
"""

from __future__ import annotations

from functools import partial
from typing import Any

import faiss
import numpy as np

from bench.claims import record_claim
from bench.codes_like_real import CodesLikeReal
from bench.index_setup import AT_ONCE, EXACT, THREADS, K, StreamedShard, live_codes, options, our_search
from bench.index_timing import best_threads, interleaved, median_of, queries_per_s, ratios
from index_sync.searcher import Searcher


def main() -> None:
    given = options(__doc__, rounds=7)
    world = CodesLikeReal(seed=given.seed)
    state = StreamedShard(world, given.codes)
    view = state.shard.view()
    code_QW = world.codes(given.queries, "queries")
    _, code_NW = live_codes(view)
    flat: Any = faiss.IndexBinaryFlat(world.bits)
    flat.add(code_NW)
    del code_NW
    searcher = Searcher(THREADS)
    ours = our_search(searcher, view, EXACT)
    assert np.array_equal(ours(code_QW).distance_QK, flat.search(code_QW, K)[0]), "the exact scan and FAISS differ"

    for claim_id, at_once, bar in (("index.flat_vs_faiss", AT_ONCE, 0.9), ("index.flat_one_vs_faiss", 1, 1.6)):
        queries = code_QW if at_once > 1 else code_QW[: max(1, given.queries // 4)]
        bare = best_threads(partial(flat.search, k=K), queries, at_once)
        found = interleaved(
            given.rounds,
            {
                "ours": partial(queries_per_s, ours, queries, at_once),
                "faiss": partial(queries_per_s, bare, queries, at_once),
            },
        )
        record_claim(
            claim_id,
            ratios(found["ours"], found["faiss"]),
            bar=bar,
            better="higher",
            unit="ratio of queries/s",
            details={"queries_per_s": median_of(found), "at_once": at_once, "state": state.describe()},
        )
    searcher.close()


if __name__ == "__main__":
    main()
