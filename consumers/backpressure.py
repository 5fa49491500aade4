"""Decides when to stop polling, when to pause and when to resume. Pure.

Pausing throws away what librdkafka has prefetched (librdkafka#2703): done at every full flight, it halved the embed
worker's rate (bench.stream_cache_hit). So a full flight is first just not added to; only one that stays full pauses,
so that polling can go on and the group sees a live member.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

PAUSE_AFTER_S: Final = 1.0
"""Far below `max.poll.interval.ms` (5 min), far above the time that a healthy flight takes."""


class Flow(StrEnum):
    POLL = "poll"
    WAIT = "wait"
    """The flight is full: do not poll, look again in a moment."""
    PAUSE = "pause"
    """It stays full: pause the partitions, then poll on (nothing comes)."""
    RESUME = "resume"


@dataclass(slots=True)
class Backpressure:
    """Bounds records and bytes in flight; once paused, resumes when both are at half of their bound or less.

    A flight that is `held` back by a replay's pace (`consumers.pace`) waits and pauses as a full one does.
    """

    max_records: int
    max_bytes: int
    paused: bool = field(default=False, init=False)
    _full_since_s: float | None = field(default=None, init=False)

    def decide(self, records: int, size_bytes: int, now_s: float, *, held: bool = False) -> Flow:
        """What to do now, with `records` and `size_bytes` between poll and commit."""
        if self.paused:
            if not held and records <= self.max_records // 2 and size_bytes <= self.max_bytes // 2:
                self.paused = False
                return Flow.RESUME
            return Flow.POLL
        if not held and records < self.max_records and size_bytes < self.max_bytes:
            self._full_since_s = None
            return Flow.POLL
        if self._full_since_s is None:
            self._full_since_s = now_s
        if now_s - self._full_since_s < PAUSE_AFTER_S:
            return Flow.WAIT
        self._full_since_s = None
        self.paused = True
        return Flow.PAUSE

    def room(self, records: int) -> int:
        """How many more records may be polled."""
        return max(0, self.max_records - records)
