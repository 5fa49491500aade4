"""The sealed segment: immutable rows in ascending Pin id order, searched exactly for now.

`nearest` is where an IVF over the generation's shared quantizer goes: it may return −1 where its lists held fewer
rows, and its caller falls back to the exact scan of `rows` when a search needs more than that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bytes, Int64s
from index_sync.faiss_scan import nearest_rows
from index_sync.segment import CodeRows, Rows
from pinstream.errors import CorruptStateError


class SealedSegment:
    """Never changes. Any thread.

    Raises:
        CorruptStateError: Pin ids do not ascend, or there is no row.
    """

    is_sealed = True

    def __init__(self, segment_id: str, rows: CodeRows) -> None:
        if not len(rows):
            raise CorruptStateError(f"segment {segment_id} has no rows: rebuild it")
        if not (rows.pin_id[1:] > rows.pin_id[:-1]).all():
            raise CorruptStateError(f"segment {segment_id} has Pin ids that do not ascend: rebuild it")
        self.segment_id = segment_id
        self.rows = rows
        self.row_count = len(rows)

    def find(self, pin_id: Int64s) -> Rows:
        at = np.minimum(np.searchsorted(self.rows.pin_id, pin_id), self.row_count - 1)
        return np.where(self.rows.pin_id[at] == pin_id, at, -1)

    def find_any(self, pin_id: Int64s, row_count: int) -> Rows:
        rows = self.find(pin_id)
        return rows[(rows >= 0) & (rows < row_count)]

    def nearest(self, code_QW: Bytes, fetch: int, row_count: int) -> tuple[npt.NDArray[np.int32], Int64s]:
        return nearest_rows(code_QW, self.rows.code_NW[:row_count], fetch)
