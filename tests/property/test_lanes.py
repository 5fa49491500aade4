"""Lanes never commit past an unfinished record, and never lose, double or reorder one, whatever happens when."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consumers.assignment import Lanes

PARTITIONS = 3
partitions = st.integers(0, PARTITIONS - 1)


@dataclass
class Record:
    partition: int
    offset: int
    size_bytes: int = 10
    done: bool = False


class LanesMachine(RuleBasedStateMachine):
    """The model: a log per partition, what each owner's reader has polled, and what is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[Record] = Lanes()
        self.owned: set[int] = set()
        self.read_to = dict.fromkeys(range(PARTITIONS), 0)
        self.committed = dict.fromkeys(range(PARTITIONS), 0)
        self.in_flight: list[Record] = []
        self.published: list[tuple[int, int]] = []

    @rule(partition=partitions)
    def assign(self, partition: int) -> None:
        if partition not in self.owned:
            self.lanes.open([partition])
            self.owned.add(partition)
            self.read_to[partition] = self.committed[partition]

    @rule(partition=partitions)
    def revoke(self, partition: int) -> None:
        dropped = self.lanes.drop([partition])
        assert [r.offset for r in dropped] == [r.offset for r in self.in_flight if r.partition == partition]
        self.in_flight = [r for r in self.in_flight if r.partition != partition]
        self.owned.discard(partition)

    @rule(partition=partitions, gap=st.integers(0, 2))
    def poll(self, partition: int, gap: int) -> None:
        record = Record(partition, self.read_to[partition] + gap)
        assert self.lanes.add(record) == (partition in self.owned)
        if partition in self.owned:
            self.read_to[partition] = record.offset + 1
            self.in_flight.append(record)

    @rule(partition=partitions, control_records=st.integers(0, 2))
    def reach_the_end(self, partition: int, control_records: int) -> None:
        if partition in self.owned:
            self.read_to[partition] += control_records
            self.lanes.end_reached(partition, self.read_to[partition])

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 1000))
    def finish(self, which: int) -> None:
        self.in_flight[which % len(self.in_flight)].done = True

    @rule(max_records=st.integers(1, 5), broker_takes_it=st.booleans())
    def publish(self, max_records: int, broker_takes_it: bool) -> None:
        ready = self.lanes.ready(max_records)
        assert len(ready.records) <= max(max_records, len(self.owned))
        for partition, offset in ready.next_offsets.items():
            unfinished = [r.offset for r in self.in_flight if r.partition == partition and not r.done]
            assert offset <= min(unfinished, default=self.read_to[partition])
            taken = [r.offset for r in ready.records if r.partition == partition]
            assert taken == [r.offset for r in self.in_flight if r.partition == partition and r.offset < offset]
        if broker_takes_it:
            self.lanes.committed(ready)
            self.committed |= ready.next_offsets
            self.published += [(r.partition, r.offset) for r in ready.records]
            self.in_flight = [r for r in self.in_flight if r not in ready.records]

    @invariant()
    def counts_agree(self) -> None:
        assert self.lanes.in_flight == len(self.in_flight)
        assert self.lanes.in_flight_bytes == 10 * len(self.in_flight)
        assert self.lanes.partitions == sorted(self.owned)

    @invariant()
    def each_record_is_published_once_and_in_order(self) -> None:
        assert len(set(self.published)) == len(self.published)
        for partition in range(PARTITIONS):
            offsets = [offset for p, offset in self.published if p == partition]
            assert offsets == sorted(offsets)


TestLanes = LanesMachine.TestCase
