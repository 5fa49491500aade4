"""Searches the grouped segments of a view through their lists: which lists, and what lives of what they hold.

The lists of a shard are those of its quantizer, in every grouped segment; a list of a segment is a range of its rows,
so it is read where it lies.

Shapes: Q queries, C lists, W = bits / 8 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_sync.calibration import Calibration, Effort
from index_sync.code_batch import Bytes
from index_sync.faiss_quantizer import CoarseQuantizer
from index_sync.faiss_segment import SealedSegment
from index_sync.hamming_scan import choose_lists, scan_lists
from index_sync.segment import SearchFilter
from index_sync.segment_view import SegmentView
from index_sync.top_k import Candidates


@dataclass(frozen=True, slots=True)
class ListStack:
    """The segments of a shard that are grouped by its quantizer. Immutable; any thread."""

    quantizer: CoarseQuantizer
    segments: tuple[SealedSegment, ...]

    @property
    def segment_ids(self) -> frozenset[str]:
        return frozenset(one.segment_id for one in self.segments)

    @property
    def rows(self) -> int:
        return sum(one.row_count for one in self.segments)


def probe_lists(
    quantizer: CoarseQuantizer, calibration: Calibration, code_QW: Bytes, depth: int, effort: Effort
) -> npt.NDArray[np.int32]:
    """The lists that each query reads, nearest first: int32 [Q, C], −1 after the last.

    Args:
        depth: the living neighbours to find before filtered ones are dropped.
    """
    if effort.probes is not None:
        return choose_lists(code_QW, quantizer.centroid_CW, probes=effort.probes)
    return choose_lists(code_QW, quantizer.centroid_CW, margin=calibration.margin(depth, effort.recall_target))


@dataclass(frozen=True, slots=True)
class ListProbe:
    """What a search reads of the lists, to be shared out over threads."""

    views: Sequence[SegmentView]
    """Grouped segments."""
    cell_QC: npt.NDArray[np.int32]
    """From `probe_lists`."""

    @property
    def rows(self) -> int:
        """About how many rows are met by a query, all queries together."""
        held = sum(one.row_count for one in self.views)
        read = int(np.count_nonzero(self.cell_QC >= 0))
        lists: int = self.cell_QC.shape[1]
        return read * held // lists

    def scan(self, code_QW: Bytes, where: SearchFilter | None, way: int, ways: int, heap: Candidates) -> None:
        """Part `way` of `ways`: some of the queries, or of the lists if there are fewer queries than ways."""
        queries = len(code_QW)
        share = (0, queries, way, ways)
        if queries >= ways:
            share = (queries * way // ways, queries * (way + 1) // ways, 0, 1)
        for one in self.views:
            assert isinstance(one.segment, SealedSegment) and one.segment.list_end is not None
            rows, list_end_C = one.segment.rows, one.segment.list_end
            scan_lists(code_QW, rows, one.died_at, one.sequence, where, list_end_C, self.cell_QC, share, heap)
