"""One search's requests to leaves: what is answered, what is under way, what to ask again, when to hedge. Pure.

An answer covers all shards that it names, merged into one list of hits, so it is taken whole or not at all; of answers
that overlap, the one that covers more is taken, then the earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Call:
    """One request to one leaf."""

    number: int
    instance: str
    partitions: frozenset[int]
    started_s: float
    hedge_at_s: float
    """Ask another leaf then, if this one has not answered. Infinity: never."""
    hedge_of: int | None
    """The call that this one is a second try of while it runs."""


class FanOut:
    """Wants an answer for every one of `wanted`. One thread at a time; times come in."""

    def __init__(self, wanted: frozenset[int]) -> None:
        self._wanted = wanted
        self._calls: list[Call] = []
        self._open: dict[int, Call] = {}
        self._answers: dict[int, frozenset[int]] = {}
        self._tried: dict[int, set[str]] = {}

    @property
    def tried(self) -> Mapping[int, set[str]]:
        """Partition → instances asked for it so far."""
        return self._tried

    @property
    def open_calls(self) -> list[Call]:
        return list(self._open.values())

    def start(
        self, instance: str, partitions: frozenset[int], now_s: float, hedge_after_s: float, hedge_of: int | None = None
    ) -> Call:
        """A request goes out now. No leaf is asked twice for a shard."""
        call = Call(len(self._calls), instance, partitions, now_s, now_s + hedge_after_s, hedge_of)
        self._calls.append(call)
        self._open[call.number] = call
        for partition in partitions:
            self._tried.setdefault(partition, set()).add(instance)
        return call

    def answered(self, number: int, partitions: frozenset[int]) -> Call:
        """It answered for these of its shards."""
        call = self._open.pop(number)
        self._answers[number] = partitions & call.partitions
        return call

    def failed(self, number: int) -> Call:
        return self._open.pop(number)

    def is_open(self, number: int) -> bool:
        """False once it answered or failed; what comes of it later is of no interest."""
        return number in self._open

    def accepted(self) -> list[int]:
        """The calls whose answers make up the result. No shard is in two of them."""
        taken: list[int] = []
        covered: set[int] = set()
        for number in sorted(self._answers, key=lambda number: -len(self._answers[number])):
            if self._answers[number] and not covered & self._answers[number]:
                taken.append(number)
                covered |= self._answers[number]
        return taken

    def missing(self) -> frozenset[int]:
        """Shards that no accepted answer covers."""
        return self._wanted.difference(*(self._answers[number] for number in self.accepted()))

    def to_ask(self) -> frozenset[int]:
        """Missing shards that nobody is being asked for."""
        return self.missing().difference(*(call.partitions for call in self._open.values()))

    def due(self, now_s: float) -> list[Call]:
        """Calls that have taken too long, for shards still missing."""
        missing = self.missing()
        return [call for call in self._open.values() if call.hedge_at_s <= now_s and call.partitions & missing]

    def next_hedge_s(self) -> float:
        """When the next call will be due; infinity if none will."""
        missing = self.missing()
        return min((c.hedge_at_s for c in self._open.values() if c.partitions & missing), default=float("inf"))

    def was_hedged(self, call: Call) -> bool:
        """Whether a second try of this call answered."""
        return any(one.hedge_of == call.number and one.number in self._answers for one in self._calls)
