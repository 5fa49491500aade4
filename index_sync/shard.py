"""One index shard: an LSM tree of segments with one writer and lock-free readers. Kafka is its write-ahead log.

A batch is applied as a whole: rows are appended to the fresh segment, the rows that they replace are killed, and one
new view is published. Writers (apply, seal, plan, install, capture) are serialised by a lock that no search takes.

Shapes: N records in a batch, U different Pins in it, M chosen ones of them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import numpy as np

from index_sync.calibration import Calibration
from index_sync.code_batch import Bools, CodeBatch, Int64s, NewestPerPin, newest_per_pin
from index_sync.faiss_quantizer import CoarseQuantizer
from index_sync.faiss_segment import SealedSegment
from index_sync.fresh_segment import FreshSegment
from index_sync.graveyard import DEFAULT_CAPACITY, Graveyard
from index_sync.list_probe import ListStack
from index_sync.merge import MergePlan, MergeResult
from index_sync.merge_policy import MergePolicy, SegmentSize
from index_sync.row_loops import loops
from index_sync.segment import ALIVE, CodeRows, Rows, Segment, Tombstones
from index_sync.segment_view import SegmentView
from index_sync.shard_state import ShardCapture, ShardState
from index_sync.shard_view import ShardView
from pinstream.codes import check_bits

FRESH_SEALS: Final = 8
"""A fresh segment has room for so many times `seal_rows`: a writer faster than the sealing makes few large ones."""
REBASE_SEQUENCE: Final = 2**32 - 2**24
"""From here on sequences start again, once no merge runs. At 1,000 applies a second that is every 50 days."""


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """What became of a batch's records; the counts add up to its length."""

    inserted: int
    updated: int
    deleted: int
    absent: int
    """Deletes of Pins that the shard did not hold; remembered all the same."""
    superseded: int
    """Replaced by a newer record of the same Pin in the same batch."""
    stale: int
    """Not newer than what the shard holds: replays and duplicates."""


@dataclass(slots=True)
class _Held:
    """A segment with its tombstones."""

    segment: Segment
    tombstones: Tombstones


@dataclass(slots=True)
class _Place:
    """The living rows of some of a batch's Pins in one segment."""

    held: _Held
    pin: Rows
    """[M] into the batch's different Pins."""
    row: Rows
    """[M] into the segment."""


class Shard:
    """Holds codes of `bits` bits. Any thread may call any method; `view` never blocks, the others take turns.

    Args:
        seal_rows: rows from which `seal_full` closes the fresh segment, to be sealed by the next merge.
        policy: when sealed segments are merged; tiers of `seal_rows` unless given.
        graveyard_rows: deletes that are remembered against older upserts that come again.
        state: what to start from; empty unless given.
        quantizer: the generation's, once there is one; see `use_quantizer`.

    Raises:
        FatalError: `bits` is not a legal code length.
        ValueError: `seal_rows` < 1, or `state` has codes of another length.
    """

    def __init__(
        self,
        bits: int,
        *,
        seal_rows: int = 100_000,
        policy: MergePolicy | None = None,
        graveyard_rows: int = DEFAULT_CAPACITY,
        state: ShardState | None = None,
        quantizer: CoarseQuantizer | None = None,
    ) -> None:
        check_bits(bits)
        if seal_rows < 1:
            raise ValueError(f"seal_rows is {seal_rows}, expected at least 1")
        self._code_bytes = bits // 8
        self._seal_rows = seal_rows
        self._policy = policy or MergePolicy(tier_floor_rows=seal_rows)
        self._graveyard = Graveyard(graveyard_rows)
        self._lock = threading.Lock()
        self._merging: MergePlan | None = None
        self._quantizer = quantizer
        self._calibration: Calibration | None = None
        self._stack: ListStack | None = None
        self._sequence = 0
        self._checkpoint = 0
        self._newest_event_time_ms: int | None = None
        self._closed: list[_Held] = []
        """Nothing is appended to these any more: sealed ones and full fresh ones, oldest first."""
        self._fresh, self._fresh_held = self._new_fresh()
        if state is not None:
            self._load(state)
        self._restack()
        self._view = self._take_view()

    def view(self) -> ShardView:
        """The state as of the last apply. Never blocks."""
        return self._view

    @property
    def checkpoint(self) -> int:
        """Offset in the codes topic of the first record that is not applied."""
        return self._view.checkpoint

    def apply(self, batch: CodeBatch) -> ApplyResult:
        """Apply a batch of this shard's partition: searches that start later see all of it, earlier ones nothing.

        Blocks for about 1 µs a record, and while another writer has its turn.

        Raises:
            ValueError: the codes have another length than the shard's.
        """
        if batch.code_NW.shape[1] != self._code_bytes:
            raise ValueError(f"batch has codes of {batch.code_NW.shape[1]} bytes, expected {self._code_bytes}")
        with self._lock:
            result = self._fold(batch) if len(batch) else ApplyResult(0, 0, 0, 0, 0, 0)
            self._checkpoint = max(self._checkpoint, batch.next_offset)
            self._view = self._take_view()
        return result

    def seal(self, least_rows: int = 1) -> None:
        """Close the fresh segment if it has so many rows; the next merge seals it."""
        with self._lock:
            if self._fresh.row_count >= least_rows:
                self._close_fresh()
                self._view = self._take_view()

    def seal_full(self) -> None:
        """Close the fresh segment if it has `seal_rows`; call it now and then."""
        self.seal(self._seal_rows)

    def prepare(self) -> None:
        """Have memory at hand for the next rows, so that no apply waits for it. One thread, often; blocks no writer."""
        self._fresh.prepare()

    @property
    def quantizer(self) -> CoarseQuantizer | None:
        return self._quantizer

    def use_quantizer(self, quantizer: CoarseQuantizer) -> None:
        """Group rows by this quantizer's lists: sealed segments are rewritten by the next merges.

        Raises:
            ValueError: its centroids have another length than the shard's codes.
        """
        if quantizer.centroid_CW.shape[1] != self._code_bytes:
            length = quantizer.centroid_CW.shape[1]
            raise ValueError(f"centroids have {length} bytes, expected {self._code_bytes} as the codes")
        with self._lock:
            self._quantizer = quantizer
            if self._calibration is not None and self._calibration.quantizer != quantizer.digest:
                self._calibration = None
            self._restack()
            self._view = self._take_view()

    def use_calibration(self, calibration: Calibration) -> None:
        """Let searches with an effort probe lists; without one they scan all rows."""
        with self._lock:
            self._calibration = calibration
            self._view = self._take_view()

    def plan_merge(self) -> MergePlan | None:
        """What to seal or merge now: run it in another thread, then `install` its result, or `abandon` it.

        None if all is well or a plan is under way.
        """
        with self._lock:
            if self._merging is not None:
                return None
            sizes = [
                SegmentSize(
                    held.segment.segment_id,
                    held.segment.is_sealed,
                    held.segment.row_count,
                    held.tombstones.dead_rows,
                    self._is_grouped(held.segment),
                )
                for held in self._closed
            ]
            chosen = self._policy.choose(sizes)
            if chosen is None:
                return None
            inputs = [self._segment_view(held) for held in self._closed if held.segment.segment_id in chosen]
            self._merging = MergePlan(tuple(inputs), self._quantizer)
            return self._merging

    def install(self, result: MergeResult) -> None:
        """Put a merge's result in place of its inputs, with the deaths that came since the plan. Blocks for ~1 ms.

        Raises:
            ValueError: it is not the result of the plan under way.
        """
        with self._lock:
            self._end_merge(result.plan)
            inputs = {one.segment.segment_id for one in result.plan.inputs}
            at = next(i for i, held in enumerate(self._closed) if held.segment.segment_id in inputs)
            replaced = [held for held in self._closed if held.segment.segment_id in inputs]
            self._closed = [held for held in self._closed if held.segment.segment_id not in inputs]
            if result.segment is not None:
                merged = _Held(result.segment, Tombstones(result.segment.row_count))
                for planned, held in zip(result.plan.inputs, replaced, strict=True):
                    died_at = held.tombstones.died_at[: planned.row_count]
                    later = np.flatnonzero((died_at > planned.sequence) & (died_at != ALIVE))
                    rows = result.segment.find(np.sort(held.segment.rows.pin_id[later]))
                    merged.tombstones.kill(rows, self._sequence)
                self._closed.insert(at, merged)
            self._restack()
            self._view = self._take_view()

    def abandon(self, plan: MergePlan) -> None:
        """Give up the plan under way, because its run failed. Its inputs stay as they are.

        Raises:
            ValueError: it is not the plan under way.
        """
        with self._lock:
            self._end_merge(plan)

    def capture(self) -> ShardCapture:
        """Freeze the state for a snapshot. Blocks for a few ms; the copying is left to `ShardCapture.state`."""
        with self._lock:
            return ShardCapture(self._view, *self._graveyard.columns())

    def _fold(self, batch: CodeBatch) -> ApplyResult:
        """Decide what each Pin comes to, then append, kill and remember. Everything that can fail comes first."""
        if self._sequence >= REBASE_SEQUENCE and self._merging is None:
            self._rebase()
        newest = newest_per_pin(batch)
        known_offset, lives, places = self._find(newest.pin_id)
        applies = newest.source_offset > known_offset
        dies = lives & (applies | newest.any_unconditional)
        comes = applies & ~newest.ends_deleted
        position = newest.position[comes]
        room = self._make_room(len(position))
        sequence = self._sequence + 1

        self._sequence = sequence
        self._append(_rows_of(batch), position, room)
        for place in places:
            place.held.tombstones.kill(place.row[dies[place.pin]], sequence)
        self._graveyard.forget(newest.pin_id[comes])
        self._bury(newest, np.where(applies, newest.source_offset, known_offset), (applies | dies) & ~comes)
        newest_ms = int(batch.event_time_ms.max())
        self._newest_event_time_ms = max(newest_ms, self._newest_event_time_ms or newest_ms)
        return _count(batch, newest, known_offset, applies, comes, dies)

    def _find(self, pin_id: Int64s) -> tuple[Int64s, Bools, list[_Place]]:
        """[U] Pins → the newest source offset known of each (−1: none), whether it lives, and where."""
        known_offset = self._graveyard.offsets(pin_id)
        lives = np.zeros(len(pin_id), dtype=bool)
        places = []
        missing = np.arange(len(pin_id))
        # A Pin lives in one segment at most: the largest first, and no further than where it is found.
        for held in sorted((*self._closed, self._fresh_held), key=lambda held: -held.segment.row_count):
            if not len(missing):
                break
            row = held.segment.find(pin_id[missing])
            pin = np.empty(len(row), dtype=np.intp)
            rows = (row, held.tombstones.died_at, held.segment.rows.source_offset)
            found = loops().take_living(rows, ALIVE, missing, (known_offset, lives), pin)
            if found:
                places.append(_Place(held, pin[:found], row[:found]))
                missing = missing[: len(row) - found]
        return known_offset, lives, places

    def _bury(self, newest: NewestPerPin, offset: Int64s, buried: Bools) -> None:
        chosen = np.flatnonzero(buried)
        chosen = chosen[np.argsort(newest.position[chosen])]
        self._graveyard.bury(newest.pin_id[chosen], offset[chosen])

    def _make_room(self, count: int) -> list[tuple[FreshSegment, _Held]]:
        """New fresh segments for as many of `count` rows as do not fit into the present one."""
        missing = count - self._fresh.free_rows
        return [self._new_fresh() for _ in range(0, missing, FRESH_SEALS * self._seal_rows)]

    def _append(self, rows: CodeRows, chosen: Rows, room: list[tuple[FreshSegment, _Held]]) -> None:
        start = 0
        while start < len(chosen):
            if not self._fresh.free_rows:
                self._close_fresh(room.pop(0))
            part = chosen[start : start + self._fresh.free_rows]
            self._fresh.append(rows, part)
            start += len(part)

    def _new_fresh(self) -> tuple[FreshSegment, _Held]:
        capacity = FRESH_SEALS * self._seal_rows
        segment = FreshSegment(uuid4().hex, capacity, self._code_bytes)
        return segment, _Held(segment, Tombstones(capacity))

    def _close_fresh(self, successor: tuple[FreshSegment, _Held] | None = None) -> None:
        self._closed.append(self._fresh_held)
        self._fresh, self._fresh_held = successor or self._new_fresh()

    def _end_merge(self, plan: MergePlan) -> None:
        if plan is not self._merging:
            raise ValueError("this merge is not the one under way: plan a new one")
        self._merging = None

    def _rebase(self) -> None:
        """Start sequences again. Old views keep their own tombstones."""
        for held in (*self._closed, self._fresh_held):
            held.tombstones = held.tombstones.rebased()
        self._sequence = 0

    def _segment_view(self, held: _Held) -> SegmentView:
        return SegmentView(
            held.segment,
            held.tombstones.died_at,
            held.segment.row_count,
            held.tombstones.dead_rows,
            self._sequence,
        )

    def _take_view(self) -> ShardView:
        return ShardView(
            tuple(self._segment_view(held) for held in (*self._closed, self._fresh_held)),
            self._code_bytes,
            self._checkpoint,
            self._newest_event_time_ms,
            self._stack,
            self._calibration,
        )

    def _is_grouped(self, segment: Segment) -> bool:
        """Whether its rows lie in the lists that the shard uses, if it uses any."""
        if self._quantizer is None:
            return True
        return isinstance(segment, SealedSegment) and segment.quantizer == self._quantizer.digest

    def _restack(self) -> None:
        """Find the segments whose rows lie in the lists that the shard uses."""
        segments = (held.segment for held in self._closed if self._is_grouped(held.segment))
        grouped = tuple(one for one in segments if isinstance(one, SealedSegment))
        self._stack = ListStack(self._quantizer, grouped) if self._quantizer and grouped else None

    def _load(self, state: ShardState) -> None:
        if state.fresh.code_NW.shape[1] != self._code_bytes:
            raise ValueError(f"state has codes of {state.fresh.code_NW.shape[1]} bytes, expected {self._code_bytes}")
        for one in state.sealed:
            tombstones = Tombstones(one.segment.row_count)
            tombstones.kill(one.dead_row.astype(np.intp), 0)
            self._closed.append(_Held(one.segment, tombstones))
        self._append(state.fresh, np.arange(len(state.fresh)), self._make_room(len(state.fresh)))
        self._graveyard.bury(state.graveyard_pin_id, state.graveyard_source_offset)
        self._checkpoint = state.checkpoint
        self._newest_event_time_ms = state.newest_event_time_ms
        self._calibration = state.calibration


def _rows_of(batch: CodeBatch) -> CodeRows:
    return CodeRows(batch.pin_id, batch.source_offset, batch.event_time_ms, batch.domain, batch.flags, batch.code_NW)


def _count(
    batch: CodeBatch, newest: NewestPerPin, known_offset: Int64s, applies: Bools, comes: Bools, dies: Bools
) -> ApplyResult:
    known = known_offset[newest.group] if newest.group is not None else known_offset[np.argsort(newest.position)]
    newer = int(np.count_nonzero(batch.source_offset > known))
    applied = int(np.count_nonzero(applies))
    updated = int(np.count_nonzero(comes & dies))
    inserted = int(np.count_nonzero(comes)) - updated
    deleted = int(np.count_nonzero(dies)) - updated
    absent = applied - inserted - updated - int(np.count_nonzero(dies & applies & ~comes))
    superseded = newer - applied
    stale = len(batch) - inserted - updated - deleted - absent - superseded
    return ApplyResult(inserted, updated, deleted, absent, superseded, stale)
