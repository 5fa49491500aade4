"""Remembers recent deletes, so that an older upsert that comes again does not bring a Pin back. Pure.

With `at_least_once` a crashed embed worker publishes its last records again: …upsert@10, delete@11, upsert@10,
delete@11… Between the two last ones a shard that had forgotten the delete would show the Pin. The repeat is at most
what the embed worker had in flight (4,096 records by default), so a bounded memory of the newest deletes is enough;
beyond the bound the oldest are forgotten, and a repeat from before that would show the Pin until its own delete comes
again. A delete that is repeated after a whole replay of the topic is in order anyway.
"""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np

from index_sync.code_batch import Int64s
from index_sync.row_loops import loops

DEFAULT_CAPACITY: Final = 65_536
"""Deletes remembered: 16 × the default `embed.max_in_flight`, 3 MiB when full."""
UNKNOWN: Final = -1


class Graveyard:
    """Deleted Pin → source offset of its delete; the oldest go first. One thread.

    A log of deletes with a hash table of its rows. A row that counts no longer stays until the log is full.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"graveyard capacity is {capacity}, expected at least 1")
        self._capacity = capacity
        rows = 2 * capacity
        self._log = (np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64))
        """Pin ids and source offsets; UNKNOWN: this row counts no longer."""
        self._state = np.zeros(3, dtype=np.int64)
        """The first row that may count, the end of the log, and how many rows count."""
        self._table = np.zeros(1 << (2 * rows - 1).bit_length(), dtype=np.uint32)
        """Open, of row + 1; at most half taken, since a Pin of the log takes one place."""
        self._seed = secrets.randbits(64)

    def __len__(self) -> int:
        return int(self._state[2])

    def offsets(self, pin_id: Int64s) -> Int64s:
        """int64 [M] → the source offset of each Pin's delete; UNKNOWN if it isn't remembered."""
        if not len(self):
            return np.full(len(pin_id), UNKNOWN, dtype=np.int64)
        row = np.empty(len(pin_id), dtype=np.int64)
        loops().find_in_table(self._table, self._seed, self._log[0], pin_id, row)
        return np.where(row < 0, UNKNOWN, self._log[1][row])

    def bury(self, pin_id: Int64s, source_offset: Int64s) -> None:
        """Remember these deletes as the newest, in this order; one with a negative offset is none."""
        loops().bury(self._table, self._seed, self._log, self._state, self._capacity, pin_id, source_offset)

    def forget(self, pin_id: Int64s) -> None:
        """These Pins live again: the shard's row now carries their newest offset."""
        if len(self):
            loops().forget(self._table, self._seed, self._log, self._state, pin_id)

    def columns(self) -> tuple[Int64s, Int64s]:
        """(pin_id, source_offset), the oldest first: a copy."""
        first, end, _ = self._state
        counts = np.flatnonzero(self._log[1][first:end] >= 0) + first
        return self._log[0][counts], self._log[1][counts]
