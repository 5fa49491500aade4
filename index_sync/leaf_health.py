"""What a root knows of each leaf from asking it: how long it takes, whether it fails, when to hedge. Pure.

Times come in; one thread at a time: the owner locks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

_SAMPLES: Final = 128
_ENOUGH_SAMPLES: Final = 20
"""Fewer say little about a 95th percentile."""
FIRST_HEDGE_S: Final = 0.1
"""Patience with a leaf that is not known yet."""
LEAST_HEDGE_S: Final = 0.005
"""Below this a second request costs more than the wait that it spares."""
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0
_SLOW_STRIKES: Final = 2
"""Lost hedges in a row that count like one failure: the first may be the hedge's luck."""
HEDGE_SHARE: Final = 0.05
"""Hedges per request, in the long run (Dean and Barroso, "The Tail at Scale", 2013: about 5 % of requests)."""
HEDGE_BURST: Final = 10.0


@dataclass(slots=True)
class Circuit:
    """Keeps a leaf that fails from being asked, for a pause that doubles with each failure in a row.

    When a pause ends, one request tries the leaf; the others go on avoiding it until that one is answered.
    """

    _failures: int = 0
    _slow: int = 0
    _until_s: float = float("-inf")

    def is_open(self, now_s: float) -> bool:
        """True: ask another leaf if there is one."""
        return now_s < self._until_s

    def asked(self, now_s: float) -> None:
        """A request goes to this leaf now."""
        if self._failures and not self.is_open(now_s):
            self._until_s = now_s + self._pause_s

    def answered(self) -> None:
        self._failures = self._slow = 0
        self._until_s = float("-inf")

    def failed(self, now_s: float) -> None:
        self._failures += 1
        self._until_s = now_s + self._pause_s

    def lost_hedge(self, now_s: float) -> None:
        """Another replica answered first though it was asked later."""
        self._slow += 1
        if self._slow >= _SLOW_STRIKES:
            self.failed(now_s)

    @property
    def _pause_s(self) -> float:
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 16))


@dataclass(slots=True)
class HedgeBudget:
    """A token bucket that requests fill and hedges empty, so that hedging can't double the load of a slow system."""

    _tokens: float = HEDGE_BURST

    def asked(self) -> None:
        self._tokens = min(HEDGE_BURST, self._tokens + HEDGE_SHARE)

    def take(self) -> bool:
        """True: one hedge may be sent."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(slots=True)
class LeafHealth:
    """One leaf."""

    circuit: Circuit = field(default_factory=Circuit)
    in_flight: int = 0
    """Requests of this root that it has not answered."""
    _latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def took(self, latency_s: float) -> None:
        self._latencies_s.append(latency_s)

    @property
    def hedge_after_s(self) -> float:
        """The recent 95th percentile."""
        if len(self._latencies_s) < _ENOUGH_SAMPLES:
            return FIRST_HEDGE_S
        return max(LEAST_HEDGE_S, sorted(self._latencies_s)[int(0.95 * len(self._latencies_s))])


class HealthBook:
    """All leaves that this root knows."""

    def __init__(self) -> None:
        self._leaves: dict[str, LeafHealth] = {}
        self.budget = HedgeBudget()

    def __getitem__(self, instance: str) -> LeafHealth:
        return self._leaves.setdefault(instance, LeafHealth())

    def keep(self, instances: Collection[str]) -> None:
        """Forget the leaves that are gone."""
        for gone in self._leaves.keys() - set(instances):
            if not self._leaves[gone].in_flight:
                del self._leaves[gone]
