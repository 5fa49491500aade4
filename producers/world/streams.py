"""Which random numbers belong to what. Every product and every view has a stream of its own, so nothing depends on
the order of calls."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

MAX_KEY = 2**32 - 1
"""A larger key would spread over two words of the seed sequence and could meet another stream."""


class Stream(IntEnum):
    PALETTES = 0
    LINE = 1
    PRODUCT = 2
    DECOR_LINE = 3
    DECOR_PRODUCT = 4
    VIEW = 5
    SCENE = 6


def stream(seed: int, kind: Stream, *keys: int) -> np.random.Generator:
    """Return the generator that belongs to (seed, kind, keys), the same in every process.

    Raises:
        ValueError: the seed or a key is outside 0 … 2^32-1.
    """
    for key in (seed, *keys):
        if not 0 <= key <= MAX_KEY:
            raise ValueError(f"key {key} of a random stream is out of range, expected 0 to {MAX_KEY}")
    return np.random.default_rng([seed, kind, *keys])


def pick(rng: np.random.Generator, low: float, high: float) -> float:
    """Return one number, uniform in [low, high)."""
    return float(rng.uniform(low, high))


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return true with the given probability."""
    return bool(rng.random() < probability)
