"""Merges nearest neighbours by (distance, Pin id), exactly. Pure.

Shapes: Q queries, K places; unused places hold PAD_DISTANCE and PAD_PIN_ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Int64s

PAD_DISTANCE: Final = 2**31 - 1
PAD_PIN_ID: Final = -1


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Each query's neighbours, sorted by (distance, Pin id), padded at the end."""

    distance_QK: npt.NDArray[np.int32]
    """Hamming distance, in bits."""
    pin_id_QK: Int64s

    @classmethod
    def none(cls, queries: int, k: int) -> Neighbors:
        return cls(
            np.full((queries, k), PAD_DISTANCE, dtype=np.int32), np.full((queries, k), PAD_PIN_ID, dtype=np.int64)
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one scan found, in any order and padded anywhere: all that can be among the k best of its rows."""

    distance_QK: npt.NDArray[np.int32]
    pin_id_QK: Int64s

    @classmethod
    def none(cls, queries: int, k: int) -> Candidates:
        """Nothing yet: a heap for the scans of `hamming_scan.py` to fill."""
        return cls(
            np.full((queries, k), PAD_DISTANCE, dtype=np.int32), np.full((queries, k), PAD_PIN_ID, dtype=np.int64)
        )


def merge_neighbors(parts: Sequence[Neighbors | Candidates], k: int) -> Neighbors:
    """The k best of at least one part, for each query. No Pin may be in two parts. Never blocks; thread-safe."""
    return best_of(
        np.concatenate([part.distance_QK for part in parts], axis=1),
        np.concatenate([part.pin_id_QK for part in parts], axis=1),
        k,
    )


def best_of(distance_QC: npt.NDArray[np.int32], pin_id_QC: Int64s, k: int) -> Neighbors:
    """The k best of C candidates for each query, in any order and padded anywhere; padded to k."""
    queries, candidates = distance_QC.shape
    kept = min(k, candidates)
    order = np.lexsort((pin_id_QC, distance_QC), axis=-1)[:, :kept]
    query = np.arange(queries)[:, np.newaxis]
    if kept == k:
        return Neighbors(distance_QC[query, order], pin_id_QC[query, order])
    best = Neighbors.none(queries, k)
    best.distance_QK[:, :kept] = distance_QC[query, order]
    best.pin_id_QK[:, :kept] = pin_id_QC[query, order]
    return best
