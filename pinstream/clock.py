"""Where time comes from. Pure modules take `now`; only workers read a clock, and tests hand them another."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic_s(self) -> float:
        """Seconds that never go back, for ages and deadlines."""

    def wall_ms(self) -> int:
        """Epoch milliseconds, for freshness and lag against event times."""


class SystemClock:
    """The machine's clocks. Thread-safe."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
