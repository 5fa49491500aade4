"""Searches several shards of this process as one. Any thread; blocks for the scan.

A scan runs on one thread without the interpreter's lock, so a search is cut into scans that are shared out over a pool
and the caller.

Shapes: Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from index_sync.calibration import Effort
from index_sync.code_batch import Bytes
from index_sync.device_scan import DeviceScan
from index_sync.segment import SearchFilter
from index_sync.shard_view import Scan, ShardView
from index_sync.top_k import Candidates, Neighbors, merge_neighbors


class Searcher:
    """Owns a pool of threads; `close` it.

    Args:
        threads: how many scans run at once for one search, the caller's among them.
        device: where sealed segments are scanned, as far as it takes them.
    """

    def __init__(self, threads: int = 1, device: DeviceScan | None = None) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        self._threads = threads
        self._device = device
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="search") if threads > 1 else None

    def search(
        self,
        views: Sequence[ShardView],
        code_QW: Bytes,
        k: int,
        where: SearchFilter | None = None,
        effort: Effort | None = None,
    ) -> Neighbors:
        """The k nearest Pins of all these shards together, padded if fewer match; exactly, unless an `effort` is given.

        Raises:
            ValueError: `code_QW` is not uint8 [Q, W] in C order, or k < 1.
        """
        for view in views:
            view.check_query(code_QW, k)
        if not views:
            return Neighbors.none(len(code_QW), k)
        ways = -(-self._threads // len(views))
        scans = [view.scans(code_QW, k, where, effort, ways, self._device) for view in views]
        found = iter(self._run([scan for of_view in scans for scan in of_view]))
        answers = [
            view.complete(code_QW, k, where, effort, [next(found) for _ in of_view])
            for view, of_view in zip(views, scans, strict=True)
        ]
        return answers[0] if len(answers) == 1 else merge_neighbors(answers, k)

    def _run(self, scans: Sequence[Scan]) -> list[Candidates]:
        """Run every scan; results in order. The caller takes its share, so that one scan needs no other thread."""
        shares = [range(start, len(scans), self._threads) for start in range(min(self._threads, len(scans)))]
        others = [self._pool.submit(_run_some, scans, share) for share in shares[1:]] if self._pool else []
        done = _run_some(scans, shares[0]) if shares else {}
        for other in others:
            done |= other.result()
        return [done[number] for number in range(len(scans))]

    def close(self) -> None:
        """Let running searches end. Blocks for them."""
        if self._pool is not None:
            self._pool.shutdown()


def _run_some(scans: Sequence[Scan], share: Sequence[int]) -> dict[int, Candidates]:
    return {number: scans[number]() for number in share}
