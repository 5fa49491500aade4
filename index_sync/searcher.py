"""Searches several shards of this process as one. Any thread; blocks for the scan.

FAISS scans for one query on one thread and releases the interpreter's lock, so the segments of all shards are shared
out over a pool. Set OMP_NUM_THREADS=1 in the process: threads × OpenMP threads multiply.

Shapes: Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from index_sync.code_batch import Bytes
from index_sync.segment import SearchFilter
from index_sync.shard_view import SegmentView, ShardView
from index_sync.top_k import Neighbors, merge_neighbors


class Searcher:
    """Owns a pool of threads; `close` it.

    Args:
        threads: how many segments are scanned at once, by all searches together. 1: the caller's thread scans.
    """

    def __init__(self, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="search") if threads > 1 else None

    def search(
        self, views: Sequence[ShardView], code_QW: Bytes, k: int, where: SearchFilter | None = None
    ) -> Neighbors:
        """The k nearest Pins of all these shards together, exactly; padded if fewer match.

        Raises:
            ValueError: `code_QW` is not uint8 [Q, W] in C order, or k < 1.
        """
        for view in views:
            view.check_query(code_QW, k)
        segments = [one for view in views for one in view.segments if one.live_rows]

        def search_one(segment: SegmentView) -> Neighbors:
            return segment.search(code_QW, k, where)

        run = map if self._pool is None or len(segments) < 2 else self._pool.map
        parts = list(run(search_one, segments))
        return merge_neighbors(parts, k) if parts else Neighbors.none(len(code_QW), k)

    def close(self) -> None:
        """Let running searches end. Blocks for them."""
        if self._pool is not None:
            self._pool.shutdown()
