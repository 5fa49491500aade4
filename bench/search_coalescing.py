"""`index.search_coalescing`: queries/s of 16 clients at one leaf, with concurrent queries sharing scans ÷ each alone.

Both leaves serve the same shard in this process, in turn, several rounds; the answers are compared hit by hit. Beside
it the latency of a lone client, which must not pay for the others' company.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time

import faiss
import numpy as np

from bench.claims import record_claim
from index_sync.code_batch import Bytes, CodeBatch
from index_sync.leaf import LocalLeaf
from index_sync.leaf_messages import LeafQuery
from index_sync.searcher import Searcher
from index_sync.shard import Shard

BITS = 2048
K = 20
MODEL = "ab" * 32
BATCH = 50_000


def filled_shard(pins: int) -> Shard:
    """Random codes, all segments sealed."""
    random = np.random.default_rng(0)
    shard = Shard(BITS)
    for start in range(0, pins, BATCH):
        count = min(BATCH, pins - start)
        numbers = np.arange(start, start + count)
        shard.apply(
            CodeBatch(
                pin_id=numbers + 1,
                source_offset=numbers,
                event_time_ms=numbers,
                domain=np.zeros(count, dtype=np.uint8),
                flags=np.zeros(count, dtype=np.uint32),
                is_delete=np.zeros(count, dtype=bool),
                code_NW=random.integers(0, 256, (count, BITS // 8), dtype=np.uint8),
                next_offset=start + count,
            )
        )
    shard.seal()
    while (plan := shard.plan_merge()) is not None:
        shard.install(plan.run())
    return shard


def serve(shard: Shard, threads: int, max_batch: int) -> tuple[LocalLeaf, Searcher]:
    searcher = Searcher(threads)
    leaf = LocalLeaf(searcher, MODEL, dict, lanes=threads, max_batch=max_batch, max_waiting=1000)
    leaf.add(0, shard)
    return leaf, searcher


def ask(leaf: LocalLeaf, code_W: Bytes) -> list[int]:
    query = LeafQuery(MODEL, code_W, K, (0,), None, None, {})
    found: list[int] = leaf.submit(query, float("inf")).result().hits["pin_id"].tolist()
    return found


def load(leaf: LocalLeaf, code_QW: Bytes, clients: int, seconds: float) -> tuple[float, float]:
    """(queries/s, median latency in ms) of clients that each ask one query after the other."""
    until_s = time.monotonic() + seconds
    taken_s: list[float] = []

    def run(client: int) -> None:
        at = client
        while (started_s := time.monotonic()) < until_s:
            ask(leaf, code_QW[at % len(code_QW)])
            taken_s.append(time.monotonic() - started_s)
            at += clients

    threads = [threading.Thread(target=run, args=(client,)) for client in range(clients)]
    started_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(taken_s) / (time.monotonic() - started_s), 1000 * statistics.median(taken_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pins", type=int, default=400_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    shard = filled_shard(arguments.pins)
    code_QW = np.random.default_rng(1).integers(0, 256, (256, BITS // 8), dtype=np.uint8)
    shared, shared_searcher = serve(shard, arguments.threads, max_batch=32)
    alone, alone_searcher = serve(shard, arguments.threads, max_batch=1)
    for code_W in code_QW[:8]:
        assert ask(shared, code_W) == ask(alone, code_W)
    ratios, rates, lone_ms = [], [], []
    for _ in range(arguments.rounds):
        alone_rate, alone_ms = load(alone, code_QW, arguments.clients, arguments.seconds)
        shared_rate, shared_ms = load(shared, code_QW, arguments.clients, arguments.seconds)
        lone_ms.append([load(leaf, code_QW, 1, arguments.seconds / 3)[1] for leaf in (alone, shared)])
        ratios.append(shared_rate / alone_rate)
        rates.append({"alone": [alone_rate, alone_ms], "shared": [shared_rate, shared_ms]})
        print(
            f"alone {alone_rate:.0f}/s, {alone_ms:.1f} ms; shared {shared_rate:.0f}/s, {shared_ms:.1f} ms", flush=True
        )
    for leaf, searcher in ((shared, shared_searcher), (alone, alone_searcher)):
        leaf.close()
        searcher.close()
    record_claim(
        "index.search_coalescing",
        ratios,
        bar=None,
        better="higher",
        unit="ratio",
        details={
            "pins": arguments.pins,
            "clients": arguments.clients,
            "threads": arguments.threads,
            "queries_per_s_and_median_ms": rates,
            "lone_client_median_ms_alone_and_shared": lone_ms,
        },
    )


if __name__ == "__main__":
    main()
