"""Decides when to pause and when to resume consuming. Pure.

Pausing throws away what librdkafka has prefetched (librdkafka#2703), so the two thresholds lie far apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Flow(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    KEEP = "keep"


@dataclass(slots=True)
class Backpressure:
    """Pauses at a bound on records or bytes in flight, resumes when both are at half of it or less."""

    max_records: int
    max_bytes: int
    paused: bool = False

    def decide(self, records: int, size_bytes: int) -> Flow:
        """What to do now, with `records` and `size_bytes` between poll and commit."""
        if not self.paused and (records >= self.max_records or size_bytes >= self.max_bytes):
            self.paused = True
            return Flow.PAUSE
        if self.paused and records <= self.max_records // 2 and size_bytes <= self.max_bytes // 2:
            self.paused = False
            return Flow.RESUME
        return Flow.KEEP

    def room(self, records: int) -> int:
        """How many more records may be polled."""
        return 0 if self.paused else max(0, self.max_records - records)
