"""Which items make up the batch of a step: a pure function of (seed, step), so that a resumed run repeats nothing.

Every batch holds the same number of images of every task, and within a task the same number of each drawn class.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils import common_functions as library

from pinstream.errors import FatalError

Indices = npt.NDArray[np.int64]
_BATCHES_PER_DRAW: Final = 64
"""How many batches one draw of the library's sampler gives."""


class BalancedSampler:
    """Indices into one task's items, `per_class` of each drawn class, by pytorch-metric-learning. Not thread-safe."""

    def __init__(self, labels_N: npt.NDArray[np.int64], batch_size: int, per_class: int, seed: int, task: int) -> None:
        classes = len(np.unique(labels_N))
        if classes < 2:
            raise FatalError(f"a task has {classes} classes, expected at least 2")
        while per_class > 1 and (batch_size % per_class or classes * per_class < batch_size):
            per_class -= 1
        self._per_class = per_class
        self._balanced = classes * per_class >= batch_size and batch_size % per_class == 0
        self._labels_N = labels_N
        self._batch_size = batch_size
        self._seed = (seed, task)
        self._drawn: tuple[int, Indices] = (-1, np.empty(0, np.int64))

    def batch(self, step: int) -> Indices:
        """[batch_size] indices for this step."""
        draw, place = divmod(step, _BATCHES_PER_DRAW)
        if self._drawn[0] != draw:
            self._drawn = (draw, self._draw(draw))
        return self._drawn[1][place * self._batch_size : (place + 1) * self._batch_size]

    def _draw(self, draw: int) -> Indices:
        count = self._batch_size * _BATCHES_PER_DRAW
        rng = np.random.RandomState(np.random.SeedSequence((*self._seed, draw)).generate_state(4))
        if not self._balanced:  # fewer classes than a batch has room for: passes over all of them, one after another
            sampler = MPerClassSampler(self._labels_N, self._per_class, None, count + len(self._labels_N))
        else:
            sampler = MPerClassSampler(self._labels_N, self._per_class, self._batch_size, count)
        before, library.NUMPY_RANDOM = library.NUMPY_RANDOM, rng
        try:
            drawn = np.fromiter(sampler, np.int64)
        finally:
            library.NUMPY_RANDOM = before
        return drawn if len(drawn) >= count else np.resize(drawn, count)
