"""Gets a shard's searches from exact scans to lists: a quantizer for the generation, a calibration for the shard.

Runs beside applying and searching, in the upkeep thread. Until both are there, and whenever the store is away, searches
scan every row: slower, never wrong.

Shapes: N rows, Q queries, K true neighbours, W = bits / 8 bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from index_sync.calibration import DEPTH, QUERIES, Calibration, needs_again
from index_sync.code_batch import Bytes
from index_sync.faiss_lists import ListStack
from index_sync.faiss_quantizer import SAMPLE_PER_LIST, CoarseQuantizer, train_quantizer
from index_sync.faiss_scan import distances
from index_sync.segment_view import SegmentView
from index_sync.shard import Shard
from index_sync.shard_view import ShardView
from index_sync.store_quantizer import QuantizerStore
from pinstream.errors import CorruptStateError, RetryableError

log = logging.getLogger(__name__)

RETRY_S: Final = 30.0


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
    """Ask with a sample of the grouped rows, each for the others, exactly. Blocks: ~30 ns × rows × queries."""
    views = view.grouped
    rng = np.random.default_rng(seed)
    query_QW = sample_codes(view, QUERIES, rng)
    from_centroid_QC = stack.quantizer.distances(query_QW)
    cells = [part.segment.cells() for part in stack.parts]
    needed_QK = np.full((len(query_QW), DEPTH), -1, dtype=np.int16)
    for query, code_W in enumerate(query_QW):
        cell_K = _true_cells(code_W, views, cells)
        margin_K = from_centroid_QC[query, cell_K] - from_centroid_QC[query].min()
        needed_QK[query, : len(margin_K)] = margin_K
    return Calibration(needed_QK, stack.rows)


def _true_cells(code_W: Bytes, views: tuple[SegmentView, ...], cells: list[np.ndarray]) -> np.ndarray:
    """The lists of the true neighbours, nearest first, without the row that the query itself is."""
    near_distance, near_cell = [], []
    for one, cell_N in zip(views, cells, strict=True):
        distance_N = distances(code_W, one.segment.rows.code_NW[: one.row_count])
        row_K = np.flatnonzero(one.visible())
        if len(row_K) > DEPTH + 1:
            alive = distance_N[row_K]
            row_K = row_K[np.argpartition(alive, DEPTH)[: DEPTH + 1]]
        near_distance.append(distance_N[row_K])
        near_cell.append(cell_N[row_K])
    distance_K = np.concatenate(near_distance)
    order = np.argsort(distance_K, kind="stable")
    order = order[1:] if len(order) and distance_K[order[0]] == 0 else order
    return np.concatenate(near_cell)[order[:DEPTH]]
