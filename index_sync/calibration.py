"""How far to look for a wanted recall, measured against exact answers. Pure.

A search reads the lists whose centroid is at most `margin` bits farther than the nearest centroid: a query in a dense
region reads many lists and one in the open few. Measured at recall@100 = 0.99 this reads half as many codes as one
number of probes for every query. For each calibration query and each of its true neighbours the margin at which that
neighbour's list is read is known, so the recall of any margin is a count.

Shapes: Q calibration queries, K true neighbours of each, nearest first, M margins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_PROBES: Final = 65_536
QUERIES: Final = 128
DEPTH: Final = 1000
"""True neighbours of each query; a search for more asks for as many."""
_DEPTHS: Final = (10, 20, 50, 100, 200, 500, DEPTH)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of the grouped segments a search reads. Fresh and ungrouped rows are always scanned exactly.

    Raises:
        ValueError: a recall outside (0, 1], or fewer probes than 1.
    """

    recall_target: float = 0.99
    probes: int | None = None
    """Lists to read, whatever the recall; None: as many as the recall target needs."""

    def __post_init__(self) -> None:
        if not 0 < self.recall_target <= 1:
            raise ValueError(f"recall_target is {self.recall_target}, expected above 0 and at most 1")
        if self.probes is not None and self.probes < 1:
            raise ValueError(f"probes is {self.probes}, expected at least 1")


@dataclass(frozen=True)
class Calibration:
    needed_QK: npt.NDArray[np.int16]
    """int16 [Q, K]: margin at which each true neighbour's list is read; −1: the query has fewer neighbours."""
    rows: int
    """Rows that were grouped then."""
    _margins: dict[tuple[int, float], int] = field(default_factory=dict, repr=False)

    def margin(self, k: int, recall_target: float) -> int:
        """Bits beyond the nearest centroid for recall@k of at least the target, by one standard error.

        The true neighbours are living rows; with a filter that one in n rows passes, ask for k × n. For k beyond the
        depth the deepest is used. Thread-safe.
        """
        depth = next((depth for depth in _DEPTHS if k <= depth), DEPTH)
        key = (depth, recall_target)
        if key not in self._margins:
            self._margins[key] = _margin(self.needed_QK[:, :depth], recall_target)
        return self._margins[key]


def _margin(needed_QK: npt.NDArray[np.int16], recall_target: float) -> int:
    counted_Q = np.maximum((needed_QK >= 0).sum(axis=1), 1)
    last = int(needed_QK.max(initial=0))
    read_QM = np.stack([np.bincount(row[row >= 0], minlength=last + 1) for row in needed_QK]).cumsum(axis=1)
    recall_QM = read_QM / counted_Q[:, None]
    certain_M = recall_QM.mean(axis=0) - recall_QM.std(axis=0) / np.sqrt(len(recall_QM))
    reached = np.flatnonzero(certain_M >= recall_target)
    return int(reached[0]) if len(reached) else last


def needs_again(calibration: Calibration | None, rows: int) -> bool:
    """Whether an index of so many grouped rows has outgrown (or shrunk from) its calibration: by half."""
    return calibration is None or not 2 / 3 <= rows / calibration.rows <= 3 / 2
