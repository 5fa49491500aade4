"""How far a replay is, how fast, and when it will have caught up, per partition and in all. Pure.

What is counted is records, not offsets: a compacted topic has gaps, wide where it is old, and an ETA by offsets is far
too early at first (`LogDensity`). Time counts from the first commit on, while the replay is not held, and the rate is
that of the last half of it: long enough to bridge the noise, short enough to follow a worker that came or went.

The log grows meanwhile, so what closes the gap is the difference of the two rates. The whole ends when its slowest
worker does, whose partitions share its speed: so ETAs are made per owner, and the largest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from rollout.generation import State, Step
from rollout.log_density import LogDensity

MAX_SAMPLES: Final = 512
MIN_WINDOW_S: Final = 10.0
"""No rate is told from less than about this much."""
CAUGHT_UP_S: Final = 3.0
"""Under traffic no reader is ever at the end: who has less left than what came in this time has caught up."""

Offsets: TypeAlias = Mapping[int, int]
"""Partition → offset."""


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    partition: int
    done: float
    """Records replayed, of `total`; estimates, since offsets have gaps."""
    total: float
    rate_per_s: float | None
    """Records/s replayed; None until it is known."""
    eta_s: float | None
    """Seconds until it has caught up, if it goes on like this; 0 once it has; None: not known, or never."""

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 1.0


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    partitions: tuple[PartitionProgress, ...]
    rate_per_s: float | None
    eta_s: float | None
    observed_s: float
    """How long the replay was watched, without the time in which it was held."""

    @property
    def fraction(self) -> float:
        total = sum(one.total for one in self.partitions)
        return min(1.0, sum(one.done for one in self.partitions) / total) if total else 1.0


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    done: dict[int, int]
    ends: dict[int, int]


@dataclass(slots=True)
class ReplayEstimator:
    """Fed with what is observed; asked at any time. One thread at a time; never blocks.

    Args:
        starts: partition → where its replay began, for all partitions.
    """

    starts: Offsets
    density: LogDensity = field(default_factory=LogDensity)
    _samples: list[_Sample] = field(default_factory=list, init=False)
    _active_s: float = field(default=0.0, init=False)
    _seen_at_s: float | None = field(default=None, init=False)
    _latest: tuple[dict[int, int], dict[int, int]] = field(default=({}, {}), init=False)

    def observe(self, now_s: float, done: Offsets, ends: Offsets, *, held: bool = False) -> None:
        """Committed offsets and log ends, as seen at one moment. Partitions that are unknown may be left out.

        Args:
            held: the replay is paused: this time says nothing about its speed.
        """
        passed_s = 0.0 if self._seen_at_s is None else max(0.0, now_s - self._seen_at_s)
        self._seen_at_s = now_s
        self._latest = (self._latest[0] | dict(done), self._latest[1] | dict(ends))
        known_done, known_ends = self._latest
        if held or all(known_done.get(p, start) <= start for p, start in self.starts.items()):
            self.forget()  # before the first commit its workers start
            return
        self._active_s += passed_s
        self._samples.append(
            _Sample(
                self._active_s,
                {p: known_done.get(p, start) for p, start in self.starts.items()},
                {p: known_ends.get(p, start) for p, start in self.starts.items()},
            )
        )
        if len(self._samples) > MAX_SAMPLES:
            del self._samples[1:-1:2]

    def forget(self) -> None:
        """What was learnt about the speed no longer holds: the rate was set anew, say."""
        self._samples.clear()
        self._active_s = 0.0

    def progress(self, *, max_per_s: float | None = None, owners: Mapping[int, str] | None = None) -> ReplayProgress:
        """What is known now.

        Args:
            max_per_s: the pace of all workers together, which no ETA exceeds.
            owners: partition → the worker that has it; partitions without one share one that nobody knows.
        """
        done, ends = self._latest
        left = {p: self._left(p, done.get(p, start), ends) for p, start in self.starts.items()}
        rates, growth = self._rates(self._window(self._active_s / 2))
        groups: dict[str, list[int]] = {}
        for partition in self.starts:
            groups.setdefault((owners or {}).get(partition, ""), []).append(partition)
        slow_down = self._slow_down(rates, max_per_s)
        etas = {name: _eta(members, left, rates, growth, slow_down) for name, members in groups.items()}
        owner_of = {p: name for name, members in groups.items() for p in members}
        partitions = tuple(
            PartitionProgress(
                p,
                self._records(p, done.get(p, start)),
                self._records(p, done.get(p, start)) + left[p],
                rates.get(p),
                _sooner(_eta([p], left, rates, growth, slow_down), etas[owner_of[p]]),
            )
            for p, start in self.starts.items()
        )
        whole = None if None in etas.values() else max((eta for eta in etas.values() if eta is not None), default=0.0)
        return ReplayProgress(partitions, sum(rates.values()) if rates else None, whole, self._active_s)

    def recent_per_s(self, window_s: float) -> float | None:
        """Records/s of the last moments; None while less than that was seen."""
        if self._active_s < window_s:
            return None
        rates, _ = self._rates(self._window(window_s))
        return sum(rates.values()) if rates else None

    def growth_per_s(self, window_s: float) -> float | None:
        """Records/s that were appended meanwhile; None as above."""
        if self._active_s < window_s:
            return None
        _, growth = self._rates(self._window(window_s))
        return sum(growth.values()) if growth else None

    def _window(self, back_s: float) -> tuple[_Sample, _Sample] | None:
        """The last sample, and one that is about so much older; None while that is too little to tell a rate."""
        if not self._samples:
            return None
        last = self._samples[-1]
        from_s = last.at_s - max(back_s, MIN_WINDOW_S)
        first = next(sample for sample in self._samples if sample.at_s >= from_s)
        return (first, last) if last.at_s - first.at_s >= MIN_WINDOW_S * 0.8 else None

    def _rates(self, window: tuple[_Sample, _Sample] | None) -> tuple[dict[int, float], dict[int, float]]:
        """Records/s done and records/s appended, by partition."""
        if window is None:
            return {}, {}
        first, last = window
        passed_s = last.at_s - first.at_s
        rates = {p: self.density.records(p, first.done[p], last.done[p]) / passed_s for p in self.starts}
        growth = {p: max(0, last.ends[p] - first.ends[p]) / passed_s for p in self.starts}
        return rates, growth

    @staticmethod
    def _slow_down(rates: Mapping[int, float], max_per_s: float | None) -> float:
        total = sum(rates.values())
        return 1.0 if max_per_s is None or total <= max_per_s else max_per_s / total

    def _records(self, partition: int, offset: int) -> float:
        """Records from the replay's start to this offset."""
        return self.density.records(partition, self.starts[partition], offset)

    def _left(self, partition: int, done: int, ends: Offsets) -> float:
        return self.density.records(partition, done, ends.get(partition, done))


def _eta(
    members: Iterable[int],
    left: Mapping[int, float],
    rates: Mapping[int, float],
    growth: Mapping[int, float],
    slow_down: float,
) -> float | None:
    """Seconds until these partitions, which share one speed, have caught up."""
    members = list(members)
    remaining = sum(left[p] for p in members)
    grows = sum(growth.get(p, 0.0) for p in members)
    if remaining <= max(grows * CAUGHT_UP_S, len(members)):  # a record each may have come since the last commit
        return 0.0
    closing = sum(rates.get(p, 0.0) for p in members) * slow_down - grows
    return remaining / closing if closing > 0 else None


def _sooner(own: float | None, owners: float | None) -> float | None:
    """A partition is done at the latest when its owner is; one that waits for its turn has no speed of its own."""
    if own is None or owners is None:
        return owners if own is None else own
    return min(own, owners)


def elapsed_s(history: Iterable[Step], now_ms: int) -> float:
    """Seconds since the replay began for the last time, pauses included; 0 if it has not."""
    started_ms = max((step.at_ms for step in history if step.state is State.REPLAYING), default=now_ms)
    return max(0.0, (now_ms - started_ms) / 1000)
