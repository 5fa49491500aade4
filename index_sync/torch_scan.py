"""Exact scans of sealed segments on a torch device. Codes stay there packed; blocks are unpacked on the fly.

A code of B bits as B numbers of ±1 turns Hamming distances into a matrix product: (B − q·x) ÷ 2. That costs one pass
over the unpacked block however many queries there are; counting bits in int32 takes a dozen passes over queries × rows
unless a compiler fuses them (`python -m bench.index_device` measures both). fp16 is exact: sums are kept in fp32, and
what is rounded to fp16 (q·x, or a share of it that a kernel splits off) is a sum of an even number of ±1, at most
4096: fp16 holds every even integer up to there.

Neighbours come in the order of the CPU's: the key of a row is its distance above the rank of its Pin id in the segment,
so no two are equal and ties go to the lower Pin id. A row's death is copied over when a view that is newer than the
copy has seen deaths, and compared with the view's own sequence there: older views stay exact (`segment.py` says why).

Shapes: N rows of a segment, R rows of a block, Q queries, K places, W = bits / 8 bytes, B bits.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from index_sync.code_batch import Bytes
from index_sync.segment import SearchFilter, Segment
from index_sync.segment_view import SegmentView
from index_sync.top_k import PAD_PIN_ID, Candidates
from pinstream.errors import FatalError

log = logging.getLogger(__name__)

WORKSPACE_BYTES: Final = 256 * 2**20
"""About what one block takes while it is scanned, beside the codes."""
_BESIDE_CODE: Final = 16
"""Bytes a row on the device beside its code: rank, Pin id, death."""
_PAD_KEY: Final = 2**63 - 1
"""Of a row that may not be found: PAD_DISTANCE above the greatest rank."""
_RANK_BITS: Final = 32
_BIAS: Final = 2**31
"""torch compares signed numbers; sequences are unsigned."""


@dataclass(slots=True)
class _Resident:
    """A segment on the device."""

    code_NW: torch.Tensor
    rank_N: torch.Tensor
    """int32 [N]: place of the row's Pin id among the segment's."""
    pin_id_N: torch.Tensor
    """int64 [N], ascending."""
    died_N: torch.Tensor
    """int32 [N], less by 2^31."""
    died_of: npt.NDArray[np.uint32]
    """The array that `died_N` is a copy of."""
    sequence: int
    """Deaths up to this one are in the copy, and maybe later ones."""
    dead_rows: int
    """Of the view at `sequence`."""


class TorchScan:
    """See `DeviceScan`.

    Args:
        device: a torch device, such as `cuda` or `cuda:1`; `cpu` runs the same code, for tests.
        memory_bytes: of segments on the device; what does not fit is scanned on the CPU.

    Raises:
        FatalError: the device is not there.
    """

    def __init__(self, device: str, memory_bytes: int) -> None:
        try:
            self._device = torch.device(device)
            bit_VB = (torch.arange(256, device=self._device)[:, None] >> torch.arange(8, device=self._device)) & 1
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
            reason = str(error).partition("\n")[0]
            raise FatalError(
                f"index.device is {device!r}, which torch can't use ({reason}): set it to 'cpu'"
            ) from error
        self._dtype = torch.float32 if self._device.type == "cpu" else torch.float16
        self._sign_VB = (2 * bit_VB - 1).to(self._dtype)
        """[256, 8]: a byte as eight numbers of ±1."""
        self._memory_bytes = memory_bytes
        self._used_bytes = 0
        self._resident: dict[str, _Resident] = {}
        self._gone: deque[str] = deque()
        """Segments that nobody holds any more; filled by whatever thread dropped the last one."""
        self._turn = threading.Lock()

    def takes(self, view: SegmentView) -> bool:
        segment = view.segment
        if not segment.is_sealed:
            return False
        with self._turn:
            self._forget_gone()
            return segment.segment_id in self._resident or self._fits(segment)

    def search(self, view: SegmentView, code_QW: Bytes, k: int, where: SearchFilter | None) -> Candidates:
        with self._turn, torch.inference_mode():
            self._forget_gone()
            try:
                resident = self._admitted(view)
                if resident is not None:
                    self._refresh(resident, view)
                    return self._scan(resident, view, code_QW, k, where)
            except torch.OutOfMemoryError as error:
                self._give_back(view.segment, error)
        return view.search(code_QW, k, where, 0, view.row_count)

    def _scan(
        self, resident: _Resident, view: SegmentView, code_QW: Bytes, k: int, where: SearchFilter | None
    ) -> Candidates:
        """The k nearest of the rows that live in the view and match, as keys, block by block."""
        alive_N = resident.died_N > view.sequence - _BIAS
        if where is not None:
            alive_N &= torch.tensor(view.segment.matches(where, view.row_count), device=self._device)
        bits = 8 * code_QW.shape[1]
        query_QB = self._unpacked(torch.tensor(code_QW, device=self._device))
        step = max(1, WORKSPACE_BYTES // max(bits * self._dtype.itemsize, 3 * 8 * len(code_QW)))
        best_QK = torch.empty((len(code_QW), 0), dtype=torch.int64, device=self._device)
        for start in range(0, view.row_count, step):
            end = min(start + step, view.row_count)
            product_QR = query_QB @ self._unpacked(resident.code_NW[start:end]).T
            distance_QR = (bits - product_QR.to(torch.int64)) >> 1
            key_QR = (distance_QR << _RANK_BITS) | resident.rank_N[start:end]
            key_QR.masked_fill_(~alive_N[start:end], _PAD_KEY)
            best_QK = _lowest(torch.cat((best_QK, _lowest(key_QR, k)), dim=1), k)
        rank_QK = (best_QK & (2**_RANK_BITS - 1)).clamp_(max=view.row_count - 1)
        pin_id_QK = torch.where(best_QK == _PAD_KEY, PAD_PIN_ID, resident.pin_id_N[rank_QK])
        distance_QK = (best_QK >> _RANK_BITS).to(torch.int32)
        return Candidates(distance_QK.cpu().numpy(), pin_id_QK.cpu().numpy())

    def _unpacked(self, code_RW: torch.Tensor) -> torch.Tensor:
        """[R, B] of ±1."""
        return torch.nn.functional.embedding(code_RW.to(torch.int32), self._sign_VB).flatten(1)

    def _admitted(self, view: SegmentView) -> _Resident | None:
        """The segment on the device, copied there if need be; None if it does not fit."""
        segment = view.segment
        known = self._resident.get(segment.segment_id)
        if known is not None:
            return known
        if not self._fits(segment):
            return None
        rows = segment.rows
        order = np.argsort(rows.pin_id)
        rank_N = np.empty(len(order), dtype=np.int32)
        rank_N[order] = np.arange(len(order), dtype=np.int32)
        made = _Resident(
            code_NW=torch.tensor(rows.code_NW, device=self._device),
            rank_N=torch.tensor(rank_N, device=self._device),
            pin_id_N=torch.tensor(rows.pin_id[order], device=self._device),
            died_N=self._deaths(view),
            died_of=view.died_at,
            sequence=view.sequence,
            dead_rows=view.dead_rows,
        )
        self._resident[segment.segment_id] = made
        self._used_bytes += _bytes_of(segment)
        weakref.finalize(segment, self._gone.append, segment.segment_id)
        return made

    def _refresh(self, resident: _Resident, view: SegmentView) -> None:
        """Copy the deaths again, unless all that this view sees are in the copy."""
        same = resident.died_of is view.died_at
        if same and (view.sequence <= resident.sequence or view.dead_rows == resident.dead_rows):
            return
        resident.died_N, resident.died_of = self._deaths(view), view.died_at
        resident.sequence, resident.dead_rows = view.sequence, view.dead_rows

    def _deaths(self, view: SegmentView) -> torch.Tensor:
        biased_N = (view.died_at[: view.row_count] ^ np.uint32(_BIAS)).view(np.int32)
        return torch.tensor(biased_N, device=self._device)

    def _fits(self, segment: Segment) -> bool:
        return self._used_bytes + _bytes_of(segment) <= self._memory_bytes

    def _forget_gone(self) -> None:
        while self._gone:
            self._forget(self._gone.popleft())

    def _forget(self, segment_id: str) -> None:
        resident = self._resident.pop(segment_id, None)
        if resident is not None:
            self._used_bytes -= resident.code_NW.shape[0] * (resident.code_NW.shape[1] + _BESIDE_CODE)

    def _give_back(self, segment: Segment, error: Exception) -> None:
        """The device has less room than the setting says: keep less there from now on."""
        self._forget(segment.segment_id)
        self._memory_bytes = self._used_bytes
        log.warning(
            "%s has no room for a segment of %d rows, which is scanned on the CPU; keeping %.2f GiB there from now on, "
            "lower index.device_memory_gib: %s",
            *(self._device, segment.row_count, self._memory_bytes / 2**30, str(error).partition("\n")[0]),
        )


def _lowest(key_QC: torch.Tensor, k: int) -> torch.Tensor:
    """The k lowest keys of each query, ascending."""
    return key_QC.topk(min(k, key_QC.shape[1]), largest=False).values


def _bytes_of(segment: Segment) -> int:
    code_bytes: int = segment.rows.code_NW.shape[1]
    return segment.row_count * (code_bytes + _BESIDE_CODE)
