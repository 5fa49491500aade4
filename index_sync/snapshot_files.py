"""A shard's state as files: one for each sealed segment, and one for all the rest. Pure.

Everything that is read is checked before it becomes a part of a shard, so that no later step trips over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.array_file import Array, read_arrays, write_arrays
from index_sync.calibration import DEPTHS, Calibration
from index_sync.code_batch import Bytes
from index_sync.faiss_segment import SealedSegment
from index_sync.segment import CodeRows
from index_sync.shard_state import SealedState, ShardState
from pinstream.errors import CorruptStateError

_SEGMENT: Final = "segment"
_STATE: Final = "state"
_DIGEST_BYTES: Final = 32
_COLUMNS: Final = ("pin_id", "source_offset", "event_time_ms", "domain", "flags", "code")
_DTYPES: Final = ("<i8", "<i8", "<i8", "|u1", "<u4", "|u1")


def write_segment(segment: SealedSegment, bits: int) -> list[memoryview]:
    """The bytes of a sealed segment's file, in pieces that point into it."""
    arrays = _named(segment.rows)
    if segment.list_end is not None and segment.quantizer is not None:
        arrays["list_end"] = segment.list_end.astype("<i8")
        arrays["quantizer"] = np.frombuffer(segment.quantizer, dtype=np.uint8)
    return write_arrays(_SEGMENT, bits, arrays)


def read_segment(content: Bytes, bits: int, segment_id: str) -> SealedSegment:
    """Raises CorruptStateError. The segment points into `content`."""
    arrays = read_arrays(content, _SEGMENT, bits)
    rows = _rows(arrays, bits)
    if "list_end" not in arrays:
        return SealedSegment(segment_id, rows)
    list_end = _column(arrays, "list_end", "<i8").astype(np.int64)
    quantizer = _column(arrays, "quantizer", "|u1")
    if list_end.ndim != 1 or quantizer.shape != (_DIGEST_BYTES,):
        raise CorruptStateError(f"segment {segment_id} has lists of shape {list_end.shape}: rebuild it")
    return SealedSegment(segment_id, rows, list_end, quantizer.tobytes())


def write_state(state: ShardState, bits: int) -> list[memoryview]:
    """The bytes of the file with the fresh rows, the remembered deletes, the dead rows and the calibration."""
    arrays = _named(state.fresh)
    arrays["graveyard_pin_id"] = state.graveyard_pin_id
    arrays["graveyard_source_offset"] = state.graveyard_source_offset
    for i, one in enumerate(state.sealed):
        arrays[f"dead_{i}"] = one.dead_row
    if state.calibration is not None:
        arrays["calibration"] = state.calibration.recall_ppm_DM
        arrays["calibration_rows"] = np.array([state.calibration.rows], dtype=np.int64)
        arrays["calibration_quantizer"] = np.frombuffer(state.calibration.quantizer, dtype=np.uint8)
    return write_arrays(_STATE, bits, arrays)


def read_state(
    content: Bytes,
    bits: int,
    segments: Sequence[SealedSegment],
    checkpoint: int,
    newest_event_time_ms: int | None,
) -> ShardState:
    """The whole state again; `segments` in the order in which they were saved. Raises CorruptStateError."""
    arrays = read_arrays(content, _STATE, bits)
    fresh = _rows(arrays, bits)
    if len(np.unique(fresh.pin_id)) != len(fresh):
        raise CorruptStateError("fresh rows hold a Pin twice: rebuild the shard from an older snapshot")
    buried, offsets = (_column(arrays, name, "<i8") for name in ("graveyard_pin_id", "graveyard_source_offset"))
    if len(buried) != len(offsets):
        raise CorruptStateError(f"{len(buried)} remembered deletes have {len(offsets)} offsets, expected as many")
    sealed = [
        SealedState(segment, _dead_rows(_column(arrays, f"dead_{i}", "<u4"), segment))
        for i, segment in enumerate(segments)
    ]
    return ShardState(
        tuple(sealed),
        fresh,
        buried.astype(np.int64),
        offsets.astype(np.int64),
        checkpoint,
        newest_event_time_ms,
        _calibration(arrays),
    )


def _named(rows: CodeRows) -> dict[str, Array]:
    return dict(zip(_COLUMNS, rows.columns, strict=True))


def _rows(arrays: dict[str, Array], bits: int) -> CodeRows:
    found = [_column(arrays, name, dtype) for name, dtype in zip(_COLUMNS, _DTYPES, strict=True)]
    *plain, code = found
    count = len(code)
    if code.shape != (count, bits // 8) or any(column.shape != (count,) for column in plain):
        shapes = {name: column.shape for name, column in zip(_COLUMNS, found, strict=True)}
        raise CorruptStateError(f"columns have shapes {shapes}, expected [N] and code [N, {bits // 8}]")
    rows = CodeRows(*found)  # type: ignore[arg-type]  # the dtypes were checked one by one
    if count and (rows.pin_id.min() < 1 or rows.source_offset.min() < 0):
        raise CorruptStateError("rows have Pin ids below 1 or source offsets below 0: rebuild them")
    return rows


def _column(arrays: dict[str, Array], name: str, dtype: str) -> npt.NDArray[np.generic]:
    if name not in arrays:
        raise CorruptStateError(f"file lacks array {name!r}: rebuild it")
    if arrays[name].dtype.str != dtype:
        raise CorruptStateError(f"array {name!r} is {arrays[name].dtype.str}, expected {dtype}: rebuild it")
    return arrays[name]


def _calibration(arrays: dict[str, Array]) -> Calibration | None:
    if "calibration" not in arrays:
        return None
    recall_ppm_DM = _column(arrays, "calibration", "<u4").astype(np.uint32)
    rows = _column(arrays, "calibration_rows", "<i8").astype(np.int64)
    quantizer = _column(arrays, "calibration_quantizer", "|u1")
    right = recall_ppm_DM.ndim == 2 and len(recall_ppm_DM) == len(DEPTHS) and recall_ppm_DM.shape[1] > 0
    if not right or rows.shape != (1,) or rows[0] < 1 or quantizer.shape != (_DIGEST_BYTES,):
        raise CorruptStateError(f"calibration has shape {recall_ppm_DM.shape}, expected [{len(DEPTHS)}, at least 1]")
    return Calibration(recall_ppm_DM, int(rows[0]), quantizer.tobytes())


def _dead_rows(found: npt.NDArray[np.generic], segment: SealedSegment) -> npt.NDArray[np.uint32]:
    dead_row = found.astype(np.uint32)
    ascending = (dead_row[1:] > dead_row[:-1]).all()
    if dead_row.ndim != 1 or not ascending or (len(dead_row) and dead_row[-1] >= segment.row_count):
        raise CorruptStateError(f"dead rows of segment {segment.segment_id} are not ascending rows of it: rebuild it")
    return dead_row
