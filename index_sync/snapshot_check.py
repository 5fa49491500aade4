"""Is a snapshot true? Its own order, and against the topic: does it, with the tail applied, equal a plain fold?

The fold here goes record by record with a dict, on purpose not by the code that the shard applies batches with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from index_sync.code_batch import UNCONDITIONAL, CodeBatch, Int64s
from index_sync.segment import CodeRows
from index_sync.shard import Shard
from index_sync.shard_state import ShardState
from pinstream.errors import CorruptStateError

_Row = tuple[int, bytes]
"""(source offset, digest of the rest)"""


class PlainFold:
    """What is left of each Pin. Memory: ~200 bytes a Pin. Not thread-safe."""

    def __init__(self) -> None:
        self.living: dict[int, _Row] = {}
        self._buried: dict[int, int] = {}

    def apply(self, batch: CodeBatch) -> None:
        """One record after the other: a newer source offset wins; a delete without one takes whatever is there."""
        digests = _digests(batch.event_time_ms, batch.domain, batch.flags, batch.code_NW)
        records = zip(
            batch.pin_id.tolist(), batch.source_offset.tolist(), batch.is_delete.tolist(), digests, strict=True
        )
        for pin_id, source_offset, is_delete, digest in records:
            held = self.living.get(pin_id)
            known = held[0] if held is not None else self._buried.get(pin_id, -1)
            if source_offset == UNCONDITIONAL:
                if held is not None:
                    self._buried[pin_id] = known
                    del self.living[pin_id]
            elif source_offset > known:
                self.living.pop(pin_id, None)
                self._buried.pop(pin_id, None)
                if is_delete:
                    self._buried[pin_id] = source_offset
                else:
                    self.living[pin_id] = (source_offset, digest)


def check_order(state: ShardState) -> None:
    """Every Pin lives once, and none both lives and is remembered as deleted.

    That segments ascend and dead rows are rows is checked by whoever reads a snapshot.

    Raises:
        CorruptStateError: names the first Pin that is wrong.
    """
    living = [state.fresh.pin_id]
    for one in state.sealed:
        alive = np.ones(one.segment.row_count, dtype=bool)
        alive[one.dead_row] = False
        living.append(one.segment.rows.pin_id[alive])
    pin_id, count = np.unique(np.concatenate(living), return_counts=True)
    if (count > 1).any():
        raise CorruptStateError(f"Pin {pin_id[count > 1][0]} lives in two rows: rebuild the shard")
    both = np.intersect1d(pin_id, state.graveyard_pin_id)
    if len(both):
        raise CorruptStateError(f"Pin {both[0]} lives and is remembered as deleted: rebuild the shard")


def differences(shard: Shard, fold: PlainFold) -> Iterator[str]:
    """A sentence for each Pin that the shard holds otherwise than the fold, or lacks, or should not have."""
    missing = dict(fold.living)
    for rows in shard.view().items():
        for pin_id, row in _rows(rows):
            expected = missing.pop(pin_id, None)
            if expected is None:
                yield f"Pin {pin_id} is held at source offset {row[0]}, expected none: a ghost"
            elif expected[0] != row[0]:
                yield f"Pin {pin_id} is held at source offset {row[0]}, expected {expected[0]}: stale"
            elif expected != row:
                yield f"Pin {pin_id} at source offset {row[0]} has other bytes than the topic"
    for pin_id, row in sorted(missing.items()):
        yield f"Pin {pin_id} is missing, expected at source offset {row[0]}"


def _rows(rows: CodeRows) -> Iterable[tuple[int, _Row]]:
    digests = _digests(rows.event_time_ms, rows.domain, rows.flags, rows.code_NW)
    return zip(rows.pin_id.tolist(), zip(rows.source_offset.tolist(), digests, strict=True), strict=True)


def _digests(event_time_ms: Int64s, *columns: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> list[bytes]:
    """[N] → N digests of all that a row holds beside its id and source offset."""
    parts = [np.ascontiguousarray(column).view(np.uint8).reshape(len(event_time_ms), -1) for column in columns]
    table = np.concatenate([event_time_ms.astype("<i8")[:, np.newaxis].view(np.uint8), *parts], axis=1)
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in table] if len(table) else []
