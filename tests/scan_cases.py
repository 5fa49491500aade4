"""Segments with ties, deaths and filters, for the scans that must find the same: on the CPU and on a device."""

from __future__ import annotations

import numpy as np

from index_sync.code_batch import Bytes, CodeBatch, Int64s
from index_sync.faiss_quantizer import train_quantizer
from index_sync.segment import SearchFilter
from index_sync.segment_view import SegmentView
from index_sync.shard import Shard
from index_sync.top_k import Candidates, Neighbors, best_of

FILTERS = (None, SearchFilter(domains=frozenset({1})), SearchFilter(flags=3), SearchFilter(domains=frozenset({9})))


class ManyTies:
    """Codes of few different bytes: most distances come often."""

    def __init__(self, bits: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._code_bytes = bits // 8
        self._offset = 0
        self.shard = Shard(bits, seal_rows=1_000_000)

    def codes(self, count: int) -> Bytes:
        code_NW = np.zeros((count, self._code_bytes), dtype=np.uint8)
        code_NW[:, :2] = self._rng.integers(0, 256, (count, 2), dtype=np.uint8)
        code_NW[self._rng.random(count) < 0.1] ^= 0xFF
        return code_NW

    def pins(self, count: int, below: int) -> Int64s:
        return self._rng.choice(np.arange(1, below, dtype=np.int64), count, replace=False)

    def apply(self, pin_id: Int64s, *, is_delete: bool = False) -> None:
        count = len(pin_id)
        self._offset += count
        self.shard.apply(
            CodeBatch(
                pin_id=pin_id,
                source_offset=np.arange(self._offset, self._offset + count, dtype=np.int64),
                event_time_ms=np.zeros(count, dtype=np.int64),
                domain=(pin_id % 3).astype(np.uint8),
                flags=(pin_id % 7).astype(np.uint32),
                is_delete=np.full(count, is_delete),
                code_NW=self.codes(count),
                next_offset=self._offset + count,
            )
        )

    def seal(self) -> None:
        """Also merges."""
        self.shard.seal()
        while (plan := self.shard.plan_merge()) is not None:
            self.shard.install(plan.run())

    def group(self, lists: int) -> None:
        """Rows in the order of lists: not in that of their Pins."""
        self.shard.use_quantizer(train_quantizer(self.codes(64 * lists), lists))
        self.seal()

    @property
    def sealed(self) -> SegmentView:
        """The only sealed segment."""
        (view,) = (one for one in self.shard.view().segments if one.segment.is_sealed)
        return view


def best(found: Candidates, k: int) -> Neighbors:
    return best_of(found.distance_QK, found.pin_id_QK, k)


def on_cpu(view: SegmentView, code_QW: Bytes, k: int, where: SearchFilter | None) -> Neighbors:
    return best(view.search(code_QW, k, where, 0, view.row_count), k)


def same(one: Neighbors, other: Neighbors) -> bool:
    return np.array_equal(one.distance_QK, other.distance_QK) and np.array_equal(one.pin_id_QK, other.pin_id_QK)
