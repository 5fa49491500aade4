"""Gets a shard's searches from exact scans to lists: a quantizer for the generation, a calibration for the shard.

Runs beside applying and searching, in the upkeep thread. Until both are there, and whenever the store is away, searches
scan every row: slower, never wrong.

Shapes: N rows, Q queries, K true neighbours, W = bits / 8 bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.calibration import DEPTH, QUERIES, Calibration, calibration_of, needs_again
from index_sync.code_batch import Bytes, Int64s
from index_sync.faiss_quantizer import SAMPLE_PER_LIST, CoarseQuantizer, train_quantizer
from index_sync.faiss_segment import SealedSegment
from index_sync.list_probe import ListStack
from index_sync.segment_view import SegmentView
from index_sync.shard import Shard
from index_sync.shard_view import ShardView
from index_sync.store_quantizer import QuantizerStore
from index_sync.top_k import Candidates, best_of
from pinstream.errors import CorruptStateError, RetryableError

log = logging.getLogger(__name__)

RETRY_S: Final = 30.0
_AT_ONCE: Final = 16
"""Calibration queries of one scan."""


class Grouping:
    """One shard's. `step` belongs to one thread.

    Args:
        lists: of a quantizer that is trained here; one that is stored already has its own number.
        train_rows: living rows that a shard must have for one to be trained on them.
    """

    def __init__(
        self, shard: Shard, store: QuantizerStore, *, lists: int, train_rows: int, monotonic_s: Callable[[], float]
    ) -> None:
        self._shard = shard
        self._store = store
        self._lists = lists
        self._train_rows = max(train_rows, lists)
        self._monotonic_s = monotonic_s
        self._next_try_s = -RETRY_S

    def step(self) -> None:
        """Do what is due: find or train the quantizer, or calibrate. Blocks for the work, and nobody else."""
        if self._shard.quantizer is None:
            self._find_quantizer()
            return
        view = self._shard.view()
        if view.stack is not None and needs_again(view.calibration, view.stack.rows):
            started_s = time.monotonic()
            calibration = calibrate(view, view.stack)
            self._shard.use_calibration(calibration)
            log.info(
                "calibrated lists of %d rows in %.1f s: recall 0.99 at 100 takes a margin of %d bits",
                *(view.stack.rows, time.monotonic() - started_s, calibration.margin(100, 0.99)),
            )

    def _find_quantizer(self) -> None:
        """Take the generation's quantizer, or train it once there is enough to train on."""
        view = self._shard.view()
        if self._monotonic_s() < self._next_try_s or view.live_rows < self._train_rows:
            return
        self._next_try_s = self._monotonic_s() + RETRY_S
        try:
            quantizer = self._store.load()
            if quantizer is None:
                quantizer = self._store.publish(self._train(view))
        except (RetryableError, CorruptStateError) as error:
            log.warning("no quantizer yet, searches scan every row: %s", error)
            return
        self._shard.use_quantizer(quantizer)

    def _train(self, view: ShardView) -> CoarseQuantizer:
        started_s = time.monotonic()
        sample_NW = sample_codes(view, SAMPLE_PER_LIST * self._lists, np.random.default_rng(0))
        quantizer = train_quantizer(sample_NW, self._lists)
        log.info(
            "trained a quantizer of %d lists on %d codes in %.1f s",
            *(self._lists, len(sample_NW), time.monotonic() - started_s),
        )
        return quantizer


def sample_codes(view: ShardView, count: int, rng: np.random.Generator) -> Bytes:
    """Codes of up to `count` living rows, each as likely: uint8 [N, W]."""
    chosen = [one.visible_rows() for one in view.segments]
    ends = np.cumsum([len(rows) for rows in chosen])
    picks = np.sort(rng.choice(int(ends[-1]), min(count, int(ends[-1])), replace=False))
    parts = np.split(picks, np.searchsorted(picks, ends[:-1]))
    starts = ends - [len(rows) for rows in chosen]
    codes: Bytes = np.concatenate(
        [
            one.segment.rows.code_NW[rows[part - start]]
            for one, rows, part, start in zip(view.segments, chosen, parts, starts.tolist(), strict=True)
        ]
    )
    return codes


def calibrate(view: ShardView, stack: ListStack, seed: int = 0) -> Calibration:
    """Ask with a sample of the grouped rows, each for the others, exactly. Blocks: ~10 ns × rows × queries."""
    views = view.grouped
    query_QW = sample_codes(view, QUERIES, np.random.default_rng(seed))
    parts = [_needed(query_QW[start : start + _AT_ONCE], views, stack) for start in range(0, len(query_QW), _AT_ONCE)]
    return calibration_of(np.concatenate(parts), stack.rows, stack.quantizer.digest)


def _needed(query_QW: Bytes, views: Sequence[SegmentView], stack: ListStack) -> npt.NDArray[np.int16]:
    """int16 [Q, K]: how much farther than the nearest centroid each true neighbour's is; −1: there are fewer."""
    heap = Candidates.none(len(query_QW), DEPTH + 1)
    for one in views:
        one.scan(query_QW, None, 0, one.row_count, heap)
    found = best_of(heap.distance_QK, heap.pin_id_QK, DEPTH + 1)
    cell_QK = _cells(found.pin_id_QK, views)
    from_centroid_QC = stack.quantizer.distances(query_QW)
    needed_QK = np.take_along_axis(from_centroid_QC, cell_QK, axis=1) - from_centroid_QC.min(axis=1, keepdims=True)
    needed_QK[cell_QK < 0] = -1
    is_itself_Q = found.distance_QK[:, 0] == 0
    others_QK: npt.NDArray[np.int16] = np.where(is_itself_Q[:, None], needed_QK[:, 1:], needed_QK[:, :-1]).astype(
        np.int16
    )
    return others_QK


def _cells(pin_id_QK: Int64s, views: Sequence[SegmentView]) -> npt.NDArray[np.int64]:
    """int64 [Q, K]: the list in which each Pin lives; −1 for none."""
    cell = np.full(pin_id_QK.size, -1, dtype=np.int64)
    for one in views:
        assert isinstance(one.segment, SealedSegment) and one.segment.list_end is not None
        row = one.segment.find(pin_id_QK.ravel())
        lives = (row >= 0) & (one.died_at[row] > one.sequence)
        cell[lives] = np.searchsorted(one.segment.list_end, row[lives], side="right")
    return cell.reshape(pin_id_QK.shape)
