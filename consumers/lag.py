"""How far behind a group is, in records and in seconds, per partition. Pure.

Offsets may have gaps (compaction, control records of transactions), so the end of a partition is what the broker
calls its end, and a reader that saw "end of partition" at that offset is not behind, whatever the last record was.

Time lag is the age of the oldest record that is not done, counted from when it was appended. That moment is known
exactly for a record in hand, and else from when this worker first saw the log's end beyond it: so an idle partition
that gets a record is a moment behind, not an hour (kafka-lag-exporter#353, #496).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

MAX_SAMPLES: Final = 600
"""Ten minutes of the log's end at one sample a second; older ends are covered by the record's own time."""


@dataclass(frozen=True, slots=True)
class Lag:
    records: int
    seconds: float | None
    """None while it is not known: not 0 and not NaN."""


@dataclass(slots=True)
class PartitionLag:
    """What is known of one partition. One thread at a time."""

    done_offset: int | None = None
    """Next offset that is not done; None until something tells."""
    complete_ms: int | None = None
    """The latest moment that is known of which everything that the partition had then is done; epoch milliseconds."""
    _ends: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    _head_ms: tuple[int, int] | None = None

    def saw_end(self, end_offset: int, now_ms: int) -> None:
        """The broker says that the next record will get `end_offset`."""
        if not self._ends or end_offset > self._ends[-1][1]:
            self._ends.append((now_ms, end_offset))
        if self.done_offset is not None and self.done_offset >= end_offset:
            self.complete_ms = now_ms

    def done(self, next_offset: int) -> None:
        """Everything before `next_offset` is done."""
        self.done_offset = next_offset
        while len(self._ends) > 1 and self._ends[1][1] <= next_offset:
            self._ends.popleft()
        if self._ends and self._ends[0][1] <= next_offset:
            self.complete_ms = max(self.complete_ms or 0, self._ends[0][0])

    def head(self, offset: int, append_ms: int) -> None:
        """The oldest record in hand has this offset and was appended then."""
        self._head_ms = (offset, append_ms)

    def lag(self, now_ms: int) -> Lag | None:
        """None until both ends are known."""
        if self.done_offset is None or not self._ends:
            return None
        records = max(0, self._ends[-1][1] - self.done_offset)
        return Lag(records, self._seconds(now_ms) if records else 0.0)

    def _seconds(self, now_ms: int) -> float | None:
        assert self.done_offset is not None
        if self._head_ms is not None and self._head_ms[0] >= self.done_offset:
            return max(0.0, (now_ms - self._head_ms[1]) / 1000)
        seen_before = False
        for seen_ms, end_offset in self._ends:
            if end_offset > self.done_offset:
                return max(0.0, (now_ms - seen_ms) / 1000) if seen_before else None
            seen_before = True
        return None
