"""The coarse quantizer that all sealed segments of a generation share: which of a few thousand lists a code belongs to.

Trained once, on a sample: k-means of a random projection, which is 30 times cheaper than k-means of the bits, then two
rounds of what k-means is for Hamming distance, the bitwise majority of each list. Assigning is exact: a code in a
second-best list costs every later search more than it saves here (at recall 0.99, 18 % of the codes were read instead
of 16 % when one in ten was misplaced).

Shapes: C lists, N codes, Q queries, W = bits / 8 bytes.
"""

from __future__ import annotations

import hashlib
from typing import Final

import faiss
import numpy as np
import numpy.typing as npt

from index_sync.code_batch import Bytes
from index_sync.faiss_scan import distances
from index_sync.hamming_scan import nearest_centroid

SAMPLE_PER_LIST: Final = 64
"""Codes of a sample for each list; more improve nothing that was measured."""
_PROJECTED_DIMS: Final = 64
_ROUNDS: Final = 8
_MAJORITY_ROUNDS: Final = 2
_CHUNK: Final = 8192


class CoarseQuantizer:
    """Immutable; any thread.

    Args:
        centroid_CW: uint8 [C, W].

    Raises:
        ValueError: no centroids, or another shape or dtype.
    """

    def __init__(self, centroid_CW: Bytes) -> None:
        if centroid_CW.dtype != np.uint8 or centroid_CW.ndim != 2 or not len(centroid_CW):
            raise ValueError(f"centroids are {centroid_CW.dtype} {centroid_CW.shape}, expected uint8 [C, W]")
        self.centroid_CW = np.ascontiguousarray(centroid_CW)
        self.digest = hashlib.sha256(self.centroid_CW.tobytes()).digest()
        """Names it: 32 bytes."""

    @property
    def lists(self) -> int:
        return len(self.centroid_CW)

    def assign(self, code_NW: Bytes) -> npt.NDArray[np.int32]:
        """int32 [N]: the nearest list of each code. Blocks for ~10 ns × C a code, without the interpreter's lock."""
        return nearest_centroid(code_NW, self.centroid_CW)

    def distances(self, code_QW: Bytes) -> npt.NDArray[np.int32]:
        """int32 [Q, C]: from each query to each centroid."""
        return np.stack([distances(code_W, self.centroid_CW) for code_W in code_QW])


def train_quantizer(sample_NW: Bytes, lists: int, seed: int = 0) -> CoarseQuantizer:
    """The same input gives the same one. Blocks for about 10 s on one core for 65,536 codes and 1024 lists.

    Raises:
        ValueError: fewer codes than lists.
    """
    if len(sample_NW) < lists:
        raise ValueError(f"a sample of {len(sample_NW)} codes for {lists} lists, expected at least as many")
    rng = np.random.default_rng(seed)
    projection = rng.standard_normal((sample_NW.shape[1] * 8, _PROJECTED_DIMS)).astype(np.float32)
    projected = np.empty((len(sample_NW), _PROJECTED_DIMS), np.float32)
    for start in range(0, len(sample_NW), _CHUNK):
        bits = np.unpackbits(sample_NW[start : start + _CHUNK], axis=1, bitorder="little").astype(np.float32)
        projected[start : start + _CHUNK] = (2 * bits - 1) @ projection
    kmeans = faiss.Kmeans(
        _PROJECTED_DIMS,
        lists,
        niter=_ROUNDS,
        seed=seed + 1,
        min_points_per_centroid=1,
        max_points_per_centroid=2 * SAMPLE_PER_LIST,
    )
    kmeans.train(projected)
    cell_N = kmeans.index.search(projected, 1)[1][:, 0].astype(np.int32)
    spare_CW = sample_NW[rng.choice(len(sample_NW), lists, replace=False)]
    quantizer = CoarseQuantizer(_majorities(sample_NW, cell_N, spare_CW))
    for _ in range(_MAJORITY_ROUNDS):
        quantizer = CoarseQuantizer(_majorities(sample_NW, quantizer.assign(sample_NW), spare_CW))
    return quantizer


def _majorities(sample_NW: Bytes, cell_N: npt.NDArray[np.int32], spare_CW: Bytes) -> Bytes:
    """Each list's bitwise majority; an empty list takes its spare."""
    centroid_CW = spare_CW.copy()
    order = np.argsort(cell_N, kind="stable")
    ends = np.searchsorted(cell_N[order], np.arange(len(spare_CW)), side="right")
    start = 0
    for cell, end in enumerate(ends.tolist()):
        if end > start:
            ones = np.unpackbits(sample_NW[order[start:end]], axis=1, bitorder="little").sum(axis=0, dtype=np.int64)
            centroid_CW[cell] = np.packbits(2 * ones > end - start, bitorder="little")
        start = end
    return centroid_CW
