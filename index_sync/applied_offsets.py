"""How far each shard here has applied, and who waits for it: read-your-writes without polling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Waiter:
    wanted: Mapping[int, int]
    then: Callable[[], None]
    gave_up: Callable[[], bool]


class AppliedOffsets:
    """Next offsets of the codes topic, by partition. Thread-safe; nothing blocks.

    The polling thread tells of each apply; a search's continuation runs in the thread that applied what it waited for,
    and so must be short.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._applied: dict[int, int] = {}
        self._waiters: list[_Waiter] = []

    def advance(self, partition: int, offset: int) -> None:
        """Every record before `offset` is searchable."""
        with self._lock:
            self._applied[partition] = offset
            ready = self._take_ready() if self._waiters else []
        for one in ready:
            one.then()

    def forget(self, partition: int) -> None:
        """The shard is not here any more: nobody waits for it here."""
        with self._lock:
            self._applied.pop(partition, None)
            ready = self._take_ready()
        for one in ready:
            one.then()

    def behind(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """The wanted shards that are here and not there yet, each with its applied offset."""
        with self._lock:
            return self._behind(wanted)

    def when(self, wanted: Mapping[int, int], then: Callable[[], None], gave_up: Callable[[], bool]) -> None:
        """Call `then` once, when no wanted shard here is behind: now, in this thread, if that is so already.

        Args:
            gave_up: True once nobody wants to hear of it; `then` is then never called.
        """
        with self._lock:
            self._waiters = [one for one in self._waiters if not one.gave_up()]
            waits = bool(self._behind(wanted))
            if waits:
                self._waiters.append(_Waiter(dict(wanted), then, gave_up))
        if not waits:
            then()

    def _behind(self, wanted: Mapping[int, int]) -> dict[int, int]:
        return {p: self._applied[p] for p, offset in wanted.items() if self._applied.get(p, offset) < offset}

    def _take_ready(self) -> list[_Waiter]:
        ready = [one for one in self._waiters if not self._behind(one.wanted)]
        self._waiters = [one for one in self._waiters if one not in ready and not one.gave_up()]
        return [one for one in ready if not one.gave_up()]
