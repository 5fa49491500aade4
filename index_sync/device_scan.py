"""Exact scans of sealed segments beside the CPU's: what a search asks of a device, and whether there is one."""

from __future__ import annotations

from typing import Protocol

from index_sync.code_batch import Bytes
from index_sync.segment import SearchFilter
from index_sync.segment_view import SegmentView
from index_sync.top_k import Candidates


class DeviceScan(Protocol):
    """Any thread may call it; scans take turns."""

    def takes(self, view: SegmentView) -> bool:
        """Whether the segment is on the device, or there is room for it."""

    def search(self, view: SegmentView, code_QW: Bytes, k: int, where: SearchFilter | None) -> Candidates:
        """What `SegmentView.search` over all rows of the view finds, bit for bit. Blocks for the scan."""


def open_device(name: str, memory_gib: float) -> DeviceScan | None:
    """The device of this name; None for `cpu`, whose scans need none.

    Raises:
        FatalError: it is not there.
    """
    if name == "cpu":
        return None
    from index_sync.torch_scan import TorchScan  # noqa: PLC0415 (torch takes seconds to load, and most need none)

    return TorchScan(name, int(memory_gib * 2**30))
