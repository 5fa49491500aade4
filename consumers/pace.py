"""How many records may be polled now, at a rate that may change at any time: a token bucket. Pure.

Records are let through in handfuls of `HANDFUL_S` of the rate, since every poll has its own cost (one MGET, one wake of
each stage): at 1,000/s a bucket that gave out each token at once would poll a thousand times a second.
"""

from __future__ import annotations

import math
from typing import Final

HANDFUL_S: Final = 0.05
BURST_S: Final = 1.0
"""What was not used is kept for this long: a worker that stalls in a transaction, say, still makes the rate."""


class Pacer:
    """Starts unlimited. Not thread-safe: the polling thread owns it. Never blocks."""

    def __init__(self) -> None:
        self._rate_per_s = math.inf
        self._tokens = 0.0
        self._at_s = 0.0

    def set(self, rate_per_s: float, now_s: float) -> None:
        """From now on this rate: 0 lets nothing through, inf everything.

        Raises:
            ValueError: the rate is negative or NaN.
        """
        if not rate_per_s >= 0:
            raise ValueError(f"rate is {rate_per_s} records/s, expected 0 or more")
        if rate_per_s == self._rate_per_s:
            return
        self._fill(now_s)
        self._rate_per_s = rate_per_s
        self._tokens = min(self._tokens, self._capacity)

    def room(self, now_s: float) -> float:
        """How many records may be polled now: 0, at least a handful, or inf."""
        if math.isinf(self._rate_per_s):
            return math.inf
        self._fill(now_s)
        handful = max(1.0, self._rate_per_s * HANDFUL_S)
        return math.floor(self._tokens) if self._tokens >= handful and self._rate_per_s else 0

    def took(self, records: int) -> None:
        """So many were polled, at most as many as there was room for."""
        if not math.isinf(self._rate_per_s):
            self._tokens -= records

    @property
    def _capacity(self) -> float:
        return 0.0 if math.isinf(self._rate_per_s) else max(2.0, self._rate_per_s * BURST_S)

    def _fill(self, now_s: float) -> None:
        if not math.isinf(self._rate_per_s):
            self._tokens = min(self._capacity, self._tokens + self._rate_per_s * max(0.0, now_s - self._at_s))
        self._at_s = now_s
