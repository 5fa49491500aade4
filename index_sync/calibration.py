"""How far to look for a wanted recall, measured against exact answers. Pure.

A search reads the lists whose centroid is at most `margin` bits farther than the nearest centroid: a query in a dense
region reads many lists and one in the open few. Measured at recall@100 = 0.99 this reads half as many codes as one
number of probes for every query. For each calibration query and each of its true neighbours the margin at which that
neighbour's list is read is known, so the recall of any margin is a count.

Shapes: Q calibration queries, K true neighbours of each, nearest first, D depths, M margins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_PROBES: Final = 65_536
QUERIES: Final = 256
"""So many put the standard error of a recall of 0.99 at 0.002; the margin is on the safe side by as much."""
DEPTH: Final = 1000
"""True neighbours of each query; a search for more asks for as many."""
DEPTHS: Final = (10, 20, 50, 100, 200, 500, DEPTH)
_PPM: Final = 1_000_000


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


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a margin brings, for one quantizer and about so many rows. Immutable; any thread."""

    recall_ppm_DM: npt.NDArray[np.uint32]
    """uint32 [D, M]: recall at each of `DEPTHS` with each margin from 0 on, less one standard error; millionths."""
    rows: int
    """Rows that were grouped then."""
    quantizer: bytes
    """Digest of the quantizer whose lists they were."""

    def margin(self, k: int, recall_target: float) -> int:
        """Bits beyond the nearest centroid for recall@k of at least the target.

        The true neighbours are living rows; with a filter that one in n rows passes, ask for k × n. For k beyond the
        depth the deepest is used.
        """
        depth = next((place for place, depth in enumerate(DEPTHS) if k <= depth), len(DEPTHS) - 1)
        reached_M = self.recall_ppm_DM[depth] >= recall_target * _PPM
        return int(reached_M.argmax()) if reached_M.any() else len(reached_M) - 1


def calibration_of(needed_QK: npt.NDArray[np.int16], rows: int, quantizer: bytes) -> Calibration:
    """A calibration by what each query needed.

    Args:
        needed_QK: int16 [Q, K], the margin at which each true neighbour's list is read; −1: the query has fewer.
    """
    margins = int(needed_QK.max(initial=0)) + 1
    recall_DM = np.stack([_certain_recall(needed_QK[:, :depth], margins) for depth in DEPTHS])
    return Calibration((recall_DM.clip(0, 1) * _PPM).astype(np.uint32), rows, quantizer)


def _certain_recall(needed_QK: npt.NDArray[np.int16], margins: int) -> npt.NDArray[np.float64]:
    """float64 [M]: the mean over the queries, less its standard error."""
    counted_Q = np.maximum((needed_QK >= 0).sum(axis=1), 1)
    read_QM = np.stack([np.bincount(row[row >= 0], minlength=margins) for row in needed_QK]).cumsum(axis=1)
    recall_QM = read_QM / counted_Q[:, None]
    certain_M: npt.NDArray[np.float64] = recall_QM.mean(axis=0) - recall_QM.std(axis=0) / np.sqrt(len(recall_QM))
    return certain_M


def needs_again(calibration: Calibration | None, rows: int) -> bool:
    """Whether an index of so many grouped rows has outgrown its calibration, or shrunk from it, by a quarter.

    The more rows, the nearer the neighbours, the smaller the margin: one that is outgrown finds more than it need.
    """
    return calibration is None or not 4 / 5 <= rows / calibration.rows <= 5 / 4
