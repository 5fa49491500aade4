"""Whether binary codes use their bits: measured on a sample of codes. Pure.

Shapes: N codes, W bytes, D = 8 W bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

MIN_CODES: Final = 100
"""Fewer say nothing about a bit."""
DEAD_SHARE: Final = 0.005
"""A bit that is the same in more than 1 − this of the codes is dead."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CodeHealth:
    codes: int
    bits: int
    dead_bits: int
    """Bits that are the same in nearly all codes."""
    dead_examples: tuple[int, ...]
    """Numbers of the first dead bits."""
    mean_imbalance: float
    """Mean over the bits of |share of ones − ½| × 2: 0 is even, 1 is constant."""
    collision_share: float
    """Of all pairs of codes of different images, those that are the same: where it is high, ranking is by Pin id."""
    effective_bits: float
    """How many independent even bits would spread their distances as these do: D (D if bits were independent)."""

    @property
    def dead_share(self) -> float:
        return self.dead_bits / self.bits

    @property
    def effective_share(self) -> float:
        return self.effective_bits / self.bits


def code_health(code_NW: Bytes) -> CodeHealth | None:
    """Measure different codes' bits; None with fewer than `MIN_CODES` codes. ~0.1 s for 4,000 codes of 2048 bits.

    Pins that repeat an image have the same code for a good reason: give one code an image.

    Effective bits: distances of random pairs of codes with n independent even bits have mean n/2 and variance n/4, so
    n = mean² / variance; the usual estimate of a code's degrees of freedom (Daugman, for iris codes, 1993).
    """
    count, width = code_NW.shape
    if count < MIN_CODES:
        return None
    ones_D = np.unpackbits(code_NW, axis=1, bitorder="little").mean(axis=0)
    dead = np.flatnonzero(np.minimum(ones_D, 1 - ones_D) < DEAD_SHARE)
    order = np.random.default_rng(0).permutation(count)
    gaps = np.unique(np.linspace(1, count // 2, min(16, count // 2), dtype=int))
    distance = np.concatenate(
        [np.bitwise_count(code_NW[order] ^ code_NW[np.roll(order, gap)]).sum(axis=1, dtype=np.int64) for gap in gaps]
    )
    _, times = np.unique(code_NW, axis=0, return_counts=True)
    pairs = count * (count - 1) / 2
    variance = float(distance.var())
    return CodeHealth(
        codes=count,
        bits=8 * width,
        dead_bits=len(dead),
        dead_examples=tuple(dead[:10].tolist()),
        mean_imbalance=float(np.abs(2 * ones_D - 1).mean()),
        collision_share=float((times * (times - 1) / 2).sum() / pairs),
        effective_bits=float(distance.mean()) ** 2 / variance if variance else 0.0,
    )
