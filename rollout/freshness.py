"""A quantile over the last moments from histograms that only grow. Pure.

Prometheus keeps counts since each process began; the difference of two scrapes is what happened between them. A count
that went down is a process that began again: all that it has counted is new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pinstream.worker_metrics import Buckets

MIN_VALUES: Final = 100
"""Fewer values have no p99: the window reaches further back for more, up to `LONGEST` windows."""
LONGEST: Final = 3
OUTLIERS: Final = 2
"""So many late values say nothing, however few there are in all: with little traffic one would be the p99."""


@dataclass(slots=True)
class RecentQuantile:
    """Of several processes together. One thread at a time.

    Args:
        window_s: how far back.
    """

    window_s: float
    _last: dict[str, Buckets] = field(default_factory=dict, init=False)
    _deltas: deque[tuple[float, Buckets]] = field(default_factory=deque, init=False)
    _from_s: float = field(default=float("-inf"), init=False)

    def saw(self, now_s: float, scraped: Mapping[str, Buckets]) -> None:
        """One scrape of each process that answered. The first of a process counts nothing: it may be days of counts."""
        news = [_news(self._last[name], counts) for name, counts in scraped.items() if name in self._last]
        self._last.update(scraped)
        if now_s >= self._from_s:
            self._deltas.append((now_s, _sum(news)))
        while self._deltas and self._deltas[0][0] < now_s - LONGEST * self.window_s:
            self._deltas.popleft()

    def ignore_before(self, moment_s: float) -> None:
        """What is seen until then was caused by what has ended."""
        self._from_s = moment_s
        self._deltas.clear()

    def quantile(self, q: float, now_s: float) -> float | None:
        """Interpolated inside its bucket; beyond all bounds, the last of them. None: there were too few values."""
        recent: list[Buckets] = []
        values = 0.0
        for at_s, delta in reversed(self._deltas):
            if at_s <= now_s - self.window_s and values >= MIN_VALUES:
                break
            recent.append(delta)
            values += delta.total
        return None if values <= OUTLIERS else _sum(recent).quantile(min(q, 1 - OUTLIERS / values))


def _news(before: Buckets, now: Buckets) -> Buckets:
    restarted = any(count < before.counts.get(bound, 0.0) for bound, count in now.counts.items())
    return now if restarted else now.since(before)


def _sum(parts: Iterable[Buckets]) -> Buckets:
    total: dict[float, float] = {}
    for part in parts:
        for bound, count in part.counts.items():
            total[bound] = total.get(bound, 0.0) + count
    return Buckets(total)
