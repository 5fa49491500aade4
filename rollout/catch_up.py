"""Whether a generation has caught up with the Pins topic, and whether it still has. Pure: times and offsets come in.

A partition is as far behind as its oldest record that is not done, in the embed worker or in the index worker. Under
traffic no offset ever stands at the end, so the age counts and not the number of records. That age grows from 0 in a
group that does nothing at all, so it must stay small for longer than it may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from consumers.lag import PartitionLag
from rollout.generation import Generation, State


@dataclass(frozen=True, slots=True)
class Seen:
    """One group's partitions of one topic at one moment."""

    topic: str
    committed: Mapping[int, int]
    ends: Mapping[int, int]


@dataclass(slots=True)
class CatchUp:
    """One generation's way. One thread at a time."""

    started_ms: int
    """When it was first looked at."""
    _lags: dict[tuple[str, int], PartitionLag] = field(default_factory=dict, init=False)
    _near_since_ms: int | None = field(default=None, init=False)

    def saw(self, seen: Seen, now_ms: int) -> None:
        """What the broker says now; a partition that it leaves out is not known."""
        for partition, end in seen.ends.items():
            lag = self._lags.setdefault((seen.topic, partition), PartitionLag())
            lag.saw_end(end, now_ms)
            lag.done(seen.committed.get(partition, 0))

    def next_state(
        self,
        generation: Generation,
        topics: Mapping[str, frozenset[int]],
        now_ms: int,
        *,
        caught_up_s: float,
        fallen_behind_s: float,
    ) -> State | None:
        """Where a generation moves by itself; None: it stays. Judging, flipping and retiring are for people.

        Args:
            topics: topic → the partitions of it that count.
        """
        least, most = self.behind_s(topics, now_ms)
        if most is None or most > caught_up_s:
            self._near_since_ms = None
        elif self._near_since_ms is None:
            self._near_since_ms = now_ms
        if generation.state is State.REPLAYING and self._near_since_ms is not None:
            return State.CAUGHT_UP if now_ms - self._near_since_ms > 1000 * caught_up_s else None
        if least > fallen_behind_s:
            return {State.CAUGHT_UP: State.REPLAYING, State.VALIDATED: State.CAUGHT_UP}.get(generation.state)
        return None

    def behind_s(self, topics: Mapping[str, frozenset[int]], now_ms: int) -> tuple[float, float | None]:
        """How far behind the worst of these partitions is: at least, and at most (None: not known yet)."""
        least, most = 0.0, 0.0
        unknown = False
        for topic, partitions in topics.items():
            for partition in partitions:
                state = self._lags.get((topic, partition))
                lag = None if state is None else state.lag(now_ms)
                if lag is None:
                    unknown = True
                elif lag.seconds is None:
                    unknown = True
                    least = max(least, (now_ms - self.started_ms) / 1000)
                else:
                    least, most = max(least, lag.seconds), max(most, lag.seconds)
        return least, None if unknown else most
