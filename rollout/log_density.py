"""How many records there are between two offsets of a compacted log, from a few places where it was looked at. Pure.

Compaction leaves the offsets of what it kept, so the old part of a log may hold one record in ten offsets and the new
part all of them. Between two places the share of offsets that hold a record is interpolated.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class LogDensity:
    """Before the first look every offset counts as a record; a partition that was not looked at is as the others are.

    One thread at a time.
    """

    _places: dict[int, list[tuple[int, float]]] = field(default_factory=dict, init=False)

    def saw(self, partition: int, offset: int, share: float) -> None:
        """Around `offset`, this share of the offsets holds a record, 0 < share ≤ 1."""
        insort(self._places.setdefault(partition, []), (offset, min(1.0, max(1e-6, share))))

    def records(self, partition: int, first: int, end: int) -> float:
        """About how many records have an offset of `first` up to, but not including, `end`."""
        places = self._places.get(partition)
        if end <= first:
            return 0.0
        if not places:
            return (end - first) * self._mean()
        offsets = [offset for offset, _ in places]
        inside = offsets[bisect_right(offsets, first) : bisect_right(offsets, end)]
        corners = np.array([first, *inside, end], dtype=np.float64)
        shares = np.interp(corners, offsets, [share for _, share in places])
        return float(np.trapezoid(shares, corners))

    def _mean(self) -> float:
        shares = [share for places in self._places.values() for _, share in places]
        return sum(shares) / len(shares) if shares else 1.0
