"""Keeps each partition's records in order from poll to commit, though they are finished in any order. Pure.

A lane is one owned partition's queue of records in flight. What may be published is the finished head of each lane;
what may be committed is what was published. A revoked lane is dropped whole: its next owner reads it again.

Not thread-safe: its owner holds a lock around every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class InFlight(Protocol):
    """A record between poll and commit."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def done(self) -> bool: ...


R = TypeVar("R", bound=InFlight)


@dataclass(slots=True)
class _Lane(Generic[R]):
    records: deque[R] = field(default_factory=deque)
    next_offset: int | None = None
    """What to commit next; None until the first record or end of partition was seen."""
    end_offset: int | None = None
    """Where the reader stood when the broker last said that the partition ends."""


@dataclass(frozen=True, slots=True)
class Ready(Generic[R]):
    """Finished records to publish in one go, in each partition's order, and what to commit with them."""

    records: list[R]
    next_offsets: dict[int, int]


class Lanes(Generic[R]):
    def __init__(self) -> None:
        self._lanes: dict[int, _Lane[R]] = {}
        self._count = 0
        self._bytes = 0

    @property
    def partitions(self) -> list[int]:
        return sorted(self._lanes)

    @property
    def in_flight(self) -> int:
        """Records between poll and commit."""
        return self._count

    @property
    def in_flight_bytes(self) -> int:
        return self._bytes

    def open(self, partitions: Iterable[int]) -> None:
        """Own these partitions from now on."""
        for partition in partitions:
            self._lanes.setdefault(partition, _Lane())

    def drop(self, partitions: Iterable[int]) -> list[R]:
        """Give these partitions up; return the records that will never be committed here."""
        dropped: list[R] = []
        for partition in partitions:
            lane = self._lanes.pop(partition, None)
            if lane is not None:
                dropped += lane.records
        self._count -= len(dropped)
        self._bytes -= sum(record.size_bytes for record in dropped)
        return dropped

    def add(self, record: R) -> bool:
        """Append a record that was just polled; False if its partition is no longer owned."""
        lane = self._lanes.get(record.partition)
        if lane is None:
            return False
        lane.records.append(record)
        self._count += 1
        self._bytes += record.size_bytes
        return True

    def end_reached(self, partition: int, offset: int) -> None:
        """The reader stands at the partition's end, `offset`: past control records that carry no data."""
        lane = self._lanes.get(partition)
        if lane is not None:
            lane.end_offset = offset

    def ready(self, max_records: int) -> Ready[R]:
        """The finished heads, at most `max_records` in all, fairly over the partitions. Takes nothing away."""
        records: list[R] = []
        next_offsets: dict[int, int] = {}
        share = max(1, max_records // max(1, len(self._lanes)))
        for partition, lane in self._lanes.items():
            taken = 0
            for record in lane.records:
                if not record.done or taken == share:
                    break
                records.append(record)
                next_offsets[partition] = record.offset + 1
                taken += 1
            if taken == len(lane.records):
                offset = next_offsets.get(partition, lane.next_offset)
                if lane.end_offset is not None and (offset is None or lane.end_offset > offset):
                    next_offsets[partition] = lane.end_offset
        return Ready(records, next_offsets)

    def committed(self, ready: Ready[R]) -> None:
        """What `ready` named is published and committed: forget it.

        Partitions that were dropped meanwhile are passed over.
        """
        for record in ready.records:
            lane = self._lanes.get(record.partition)
            if lane is not None and lane.records and lane.records[0] is record:
                lane.records.popleft()
                self._count -= 1
                self._bytes -= record.size_bytes
        for partition, offset in ready.next_offsets.items():
            lane = self._lanes.get(partition)
            if lane is not None:
                lane.next_offset = offset

    def heads(self) -> dict[int, R]:
        """The oldest record in flight of each partition that has one."""
        return {partition: lane.records[0] for partition, lane in self._lanes.items() if lane.records}
