"""Remembers recent deletes, so that an older upsert that comes again does not bring a Pin back. Pure.

With `at_least_once` a crashed embed worker publishes its last records again: …upsert@10, delete@11, upsert@10,
delete@11… Between the two last ones a shard that had forgotten the delete would show the Pin. The repeat is at most
what the embed worker had in flight (4,096 records by default), so a bounded memory of the newest deletes is enough;
beyond the bound the oldest are forgotten, and a repeat from before that would show the Pin until its own delete comes
again. A delete that is repeated after a whole replay of the topic is in order anyway.
"""

from __future__ import annotations

from itertools import islice, repeat
from typing import Final

import numpy as np

from index_sync.code_batch import Int64s

DEFAULT_CAPACITY: Final = 65_536
"""Deletes remembered: 16 × the default `embed.max_in_flight`, ~10 MiB when full."""
UNKNOWN: Final = -1


class Graveyard:
    """Deleted Pin → source offset of its delete; the oldest go first. One thread."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"graveyard capacity is {capacity}, expected at least 1")
        self._capacity = capacity
        self._offset_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._offset_of)

    def offsets(self, pin_id: Int64s) -> Int64s:
        """int64 [M] → the source offset of each Pin's delete; UNKNOWN if it isn't remembered."""
        if not self._offset_of:
            return np.full(len(pin_id), UNKNOWN, dtype=np.int64)
        found = map(self._offset_of.get, pin_id.tolist(), repeat(UNKNOWN))
        return np.fromiter(found, dtype=np.int64, count=len(pin_id))

    def bury(self, pin_id: Int64s, source_offset: Int64s) -> None:
        """Remember these deletes as the newest, in this order."""
        for pin, offset in zip(pin_id.tolist(), source_offset.tolist(), strict=True):
            self._offset_of.pop(pin, None)
            self._offset_of[pin] = offset
        excess = len(self._offset_of) - self._capacity
        if excess > 0:
            for pin in list(islice(self._offset_of, excess)):
                del self._offset_of[pin]

    def forget(self, pin_id: Int64s) -> None:
        """These Pins live again: the shard's row now carries their newest offset."""
        if self._offset_of:
            for pin in pin_id.tolist():
                self._offset_of.pop(pin, None)

    def columns(self) -> tuple[Int64s, Int64s]:
        """(pin_id, source_offset), the oldest first: a copy."""
        count = len(self._offset_of)
        return (
            np.fromiter(self._offset_of.keys(), dtype=np.int64, count=count),
            np.fromiter(self._offset_of.values(), dtype=np.int64, count=count),
        )
