"""What every segment is: columns of rows, and when each row died. Pure.

**Why a search needs no lock.** Each apply has a number, its sequence, from 1. Rows are only ever appended, and a row
only ever goes from alive to dead, once: `died_at[row]` is then the sequence that killed it. A view taken at sequence s
holds the number of rows that existed, and sees a row as alive if `died_at[row] > s`; ALIVE is the greatest number. So
the state that a view sees is exact and never changes, though the arrays under it do:

- a row killed by a later apply has `died_at > s`: the view still sees it;
- the row that replaced it lies past the view's row count: the view does not see that one;
- a Pin being updated is therefore seen exactly once, old or new, never both and never neither;
- a view taken after an apply sees all of that apply.

It rests on two facts: an aligned 4-byte store is not torn, and a view is published (one reference assigned under the
interpreter's lock) after every write that it covers.

Shapes: N rows, M matching or chosen rows, Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bools, Bytes, Int64s

Rows = npt.NDArray[np.intp]

ALIVE: Final = 2**32 - 1
"""`died_at` of a row that lives. Greater than any sequence."""
MAX_FLAGS: Final = 2**24 - 1


@dataclass(frozen=True, slots=True)
class CodeRows:
    """Columns of N rows. Whoever holds one treats it as immutable."""

    pin_id: Int64s
    """int64 [N]"""
    source_offset: Int64s
    """int64 [N]"""
    event_time_ms: Int64s
    """int64 [N]"""
    domain: Bytes
    """uint8 [N]"""
    flags: npt.NDArray[np.uint32]
    """uint32 [N], 24 bits."""
    code_NW: Bytes
    """uint8 [N, W], C-contiguous."""

    @classmethod
    def empty(cls, count: int, code_bytes: int, make: Callable[..., npt.NDArray[Any]] = np.empty) -> CodeRows:
        """Columns of `count` rows; what is in them is for `make(shape, dtype)` to say, and not set unless given."""
        return cls(
            make((count,), np.int64),
            make((count,), np.int64),
            make((count,), np.int64),
            make((count,), np.uint8),
            make((count,), np.uint32),
            make((count, code_bytes), np.uint8),
        )

    @property
    def columns(self) -> tuple[npt.NDArray[np.generic], ...]:
        """All arrays, `code_NW` last."""
        return self.pin_id, self.source_offset, self.event_time_ms, self.domain, self.flags, self.code_NW

    def __len__(self) -> int:
        return len(self.pin_id)

    def __getitem__(self, rows: slice | Rows) -> CodeRows:
        """A slice is a view; an array of rows is a copy."""
        return CodeRows(
            self.pin_id[rows],
            self.source_offset[rows],
            self.event_time_ms[rows],
            self.domain[rows],
            self.flags[rows],
            self.code_NW[rows],
        )


def concatenate_rows(parts: Sequence[CodeRows]) -> CodeRows:
    """One copy of at least one part after the other."""
    return CodeRows(
        np.concatenate([part.pin_id for part in parts]),
        np.concatenate([part.source_offset for part in parts]),
        np.concatenate([part.event_time_ms for part in parts]),
        np.concatenate([part.domain for part in parts]),
        np.concatenate([part.flags for part in parts]),
        np.concatenate([part.code_NW for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Which Pins may be found: those of one of `domains` (None: any) that have all bits of `flags`.

    Raises:
        ValueError: a domain is not 0 to 255, or `flags` has more than 24 bits.
    """

    domains: frozenset[int] | None = None
    flags: int = 0

    def __post_init__(self) -> None:
        if self.domains is not None and any(not 0 <= domain <= 255 for domain in self.domains):
            raise ValueError(f"domains are {sorted(self.domains)}, expected each from 0 to 255")
        if not 0 <= self.flags <= MAX_FLAGS:
            raise ValueError(f"flags are {self.flags:#x}, expected 24 bits")

    def matches(self, domain: Bytes, flags: npt.NDArray[np.uint32]) -> Bools:
        """bool [N]"""
        fits = np.ones(len(domain), dtype=bool)
        if self.domains is not None:
            table = np.zeros(256, dtype=bool)
            table[list(self.domains)] = True
            fits = table[domain]
        if self.flags:
            required = np.uint32(self.flags)
            fits &= (flags & required) == required
        return fits


class Segment(Protocol):
    """Rows that are only appended to (fresh) or never change (sealed). Readers need no lock."""

    @property
    def segment_id(self) -> str: ...

    @property
    def is_sealed(self) -> bool: ...

    @property
    def rows(self) -> CodeRows:
        """All rows; of a fresh segment its whole capacity, of which a view's first ones are set."""

    @property
    def row_count(self) -> int: ...

    def find(self, pin_id: Int64s) -> Rows:
        """intp [M], ascending Pin ids → the newest row of each, dead or alive; −1 where there is none. Writer only."""

    def find_any(self, pin_id: Int64s, row_count: int) -> Rows:
        """All rows of these Pins among the first `row_count`, dead or alive, in any order. Any thread."""

    def matches(self, where: SearchFilter, row_count: int) -> Bools:
        """bool [row_count]: which rows pass the filter, dead or alive. Any thread."""

    def match_count(self, where: SearchFilter, row_count: int) -> int:
        """How many of the first `row_count` rows pass the filter, dead or alive. Any thread."""


class Tombstones:
    """When each row of one segment died. One writer; any number of readers of `died_at`."""

    def __init__(self, capacity: int) -> None:
        self.died_at: npt.NDArray[np.uint32] = np.full(capacity, ALIVE, dtype=np.uint32)
        self.dead_rows = 0

    def kill(self, rows: Rows, sequence: int) -> None:
        """Mark living rows, each named once, as killed by apply number `sequence`."""
        self.died_at[rows] = sequence
        self.dead_rows += len(rows)

    def rebased(self) -> Tombstones:
        """A copy in which every dead row died at 0, before every sequence."""
        copy = Tombstones(0)
        copy.died_at = np.where(self.died_at == ALIVE, np.uint32(ALIVE), np.uint32(0))
        copy.dead_rows = self.dead_rows
        return copy
