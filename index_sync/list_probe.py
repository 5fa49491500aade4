"""Searches the grouped segments of a view through their lists: which lists, and what lives of what they hold.

Shapes: Q queries, P probes, F fetched, S segments, C lists, W = bits / 8 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.calibration import Calibration, Effort
from index_sync.code_batch import Bools, Bytes, Int64s
from index_sync.faiss_lists import ListStack
from index_sync.segment import SearchFilter
from index_sync.segment_view import SegmentView, over_fetch
from index_sync.top_k import PAD_DISTANCE, PAD_PIN_ID, Candidates

_NO_LIST: Final = -1


def probe_lists(stack: ListStack, calibration: Calibration, code_QW: Bytes, depth: int, effort: Effort) -> Int64s:
    """The lists that each query reads, nearest first: int64 [Q, P], −1 where a query reads fewer.

    Args:
        depth: the living neighbours to find before filtered ones are dropped.
    """
    distance_QC = stack.quantizer.distances(code_QW)
    if effort.probes is not None:
        chosen = min(effort.probes, stack.quantizer.lists)
        limit_Q1 = np.partition(distance_QC, chosen - 1, axis=1)[:, chosen - 1 : chosen]
    else:
        limit_Q1 = distance_QC.min(axis=1, keepdims=True) + calibration.margin(depth, effort.recall_target)
    read_QC = distance_QC <= limit_Q1
    most = int(read_QC.sum(axis=1).max())
    nearest_QP = np.argsort(np.where(read_QC, distance_QC, PAD_DISTANCE), axis=1)[:, :most]
    return np.where(np.take_along_axis(read_QC, nearest_QP, axis=1), nearest_QP, _NO_LIST)


@dataclass(frozen=True, slots=True)
class ListProbe:
    """One scan of a search: some queries, some of their lists. Any thread."""

    stack: ListStack
    views: Sequence[SegmentView]
    """Of the stack's segments, in its order."""
    where: SearchFilter | None
    share: float
    """About how much of what is read lives and matches."""

    def search(self, code_QW: Bytes, k: int, cell_QP: Int64s) -> Candidates:
        """The k nearest living, matching rows of the lists. Fewer, padded, only if the lists hold fewer."""
        held = int(self.stack.size_C[cell_QP].sum(axis=1).max())
        fetch = max(1, min(over_fetch(k, max(self.share, 1e-3)), held))
        while True:
            distance_QF, segment_QF, row_QF = self.stack.search(code_QW, fetch, cell_QP)
            good, pin_id_QF = self._living(segment_QF, row_QF)
            full = segment_QF[:, -1] >= 0
            if fetch >= held or not (full & (np.count_nonzero(good, axis=1) < k)).any():
                break
            fetch = min(4 * fetch, held)
        return Candidates(np.where(good, distance_QF, np.int32(PAD_DISTANCE)), pin_id_QF)

    def _living(self, segment_QF: npt.NDArray[np.int32], row_QF: Int64s) -> tuple[Bools, Int64s]:
        """Which rows live and match, and their Pin ids."""
        good = np.zeros(row_QF.shape, dtype=bool)
        pin_id_QF = np.full(row_QF.shape, PAD_PIN_ID, dtype=np.int64)
        for number, view in enumerate(self.views):
            here = segment_QF == number
            row = row_QF[here]
            if not len(row):
                continue
            rows = view.segment.rows
            lives = view.died_at[row] > view.sequence
            if self.where is not None:
                lives &= self.where.matches(rows.domain[row], rows.flags[row])
            good[here] = lives
            pin_id_QF[here] = np.where(lives, rows.pin_id[row], PAD_PIN_ID)
        return good, pin_id_QF
