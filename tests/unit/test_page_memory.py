"""Columns that grow: memory that is at hand before it is needed, and nobody's content changed by that."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest

from index_sync.fresh_segment import FreshSegment
from index_sync.page_memory import bring, reserve
from index_sync.segment import CodeRows

ROWS = 4096
WIDTH = 256


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def test_reserved_memory_is_zeros_and_keeps_what_is_written() -> None:
    column = reserve((ROWS, WIDTH), np.uint8)
    assert not column.any()
    column[:] = 7
    bring(column, 0, ROWS)
    bring(column, 17, 18)
    bring(column, ROWS, ROWS)
    assert (column == 7).all()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked for pages ahead")
def test_memory_that_was_brought_is_written_without_a_wait() -> None:
    column = reserve((ROWS, WIDTH), np.uint8)
    bring(column, 0, ROWS)
    before = page_faults()
    column[:] = 1
    assert page_faults() - before < 8  # 256 pages


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be asked for pages ahead")
def test_a_fresh_segment_that_is_prepared_appends_without_a_wait() -> None:
    segment = FreshSegment("fresh", 10 * ROWS, WIDTH)
    rows = CodeRows.empty(ROWS, WIDTH)
    for column in rows.columns:
        column[:] = 1
    segment.append(rows, np.arange(ROWS))  # the table of rows, too, takes pages when it grows
    segment.prepare()
    before = page_faults()
    segment.append(rows, np.arange(ROWS))
    assert page_faults() - before < 64  # 291 pages of rows; 16 or so of the table
    segment.prepare()
    before = page_faults()
    segment.append(rows, np.arange(ROWS))
    segment.append(rows, np.arange(ROWS))
    assert page_faults() - before < 96
