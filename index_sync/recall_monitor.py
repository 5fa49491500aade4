"""Which live searches are searched again exactly, and what that says about recall. Pure.

Recall@k of one search is the share of its k nearest Pins that it returned. Pins at the distance of the k-th are equally
right, so a returned Pin counts if its distance is at most the exact k-th distance.

Shapes: K places of one query.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt

from index_sync.top_k import PAD_DISTANCE

SEARCH_SHARE: Final = 0.03
"""Exact searching may take this share of the time that searching takes."""
IDLE_SHARE: Final = 0.005
"""And this share of one core on top, so that a quiet index is measured as well."""
MAX_CREDIT_S: Final = 1.0
"""A quiet hour does not pay for a busy minute."""
WINDOW_S: Final = 600.0
MAX_SAMPLES: Final = 10_000
_Z_95: Final = 1.96


class SampleGate:
    """Picks searches at random times, `per_s` a second on average, as far as the time for it goes.

    What exact searches cost is known when they are done: they are charged then, and none is let in while in debt.
    One thread at a time.

    Args:
        per_s: 0 picks none.

    Raises:
        ValueError: `per_s` < 0.
    """

    def __init__(self, per_s: float, now_s: float, random: Random) -> None:
        if per_s < 0:
            raise ValueError(f"per_s is {per_s}, expected 0 or more")
        self._per_s = per_s
        self._random = random
        self._credit_s = 0.0
        self._last_s = now_s
        self._due_s = now_s + self._gap_s()

    def picks(self, took_s: float, now_s: float) -> bool:
        """A search that took this long has been answered: shall it be searched again?"""
        earned_s = SEARCH_SHARE * took_s + IDLE_SHARE * max(0.0, now_s - self._last_s)
        self._credit_s = min(MAX_CREDIT_S, self._credit_s + earned_s)
        self._last_s = now_s
        if now_s < self._due_s or self._credit_s <= 0:
            return False
        self._due_s = now_s + self._gap_s()
        return True

    def charge(self, spent_s: float) -> None:
        """An exact search took this long."""
        self._credit_s -= spent_s

    def _gap_s(self) -> float:
        # Exponential gaps: a query that comes in step with a timer is picked no more often than another.
        return self._random.expovariate(self._per_s) if self._per_s else math.inf


@dataclass(frozen=True, slots=True)
class Verdict:
    """One search against the exact one."""

    checked: int
    """Neighbours that the exact search has: k, or as many as match."""
    missed: int
    """Of those, how many the search left out."""


def judge(returned_K: npt.NDArray[np.int32], exact_K: npt.NDArray[np.int32]) -> Verdict:
    """Distances that a search returned for k places and those of the exact search, both ascending and padded."""
    exact = exact_K[exact_K != PAD_DISTANCE]
    if not len(exact):
        return Verdict(0, 0)
    right = int(np.count_nonzero(returned_K <= exact[-1]))
    return Verdict(len(exact), max(0, len(exact) - right))


@dataclass(frozen=True, slots=True)
class Recall:
    """Mean over the queries of a window; the bounds hold at 95 % confidence."""

    mean: float
    lower: float
    upper: float
    queries: int


class RecallWindow:
    """The verdicts of the last ten minutes, 10,000 at most. One thread at a time."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._shares: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)

    def add(self, verdict: Verdict, now_s: float) -> None:
        """A search that had nothing to find says nothing."""
        if verdict.checked:
            self._shares.append((now_s, 1 - verdict.missed / verdict.checked))

    def recall(self, now_s: float) -> Recall | None:
        """None if nothing was checked in the window."""
        while self._shares and self._shares[0][0] <= now_s - self._window_s:
            self._shares.popleft()
        if not self._shares:
            return None
        count = len(self._shares)
        mean = sum(share for _, share in self._shares) / count
        return Recall(mean, *_wilson(mean, count), count)


def _wilson(mean: float, count: int) -> tuple[float, float]:
    """Wilson's score interval (1927) with one vote a query, however many neighbours it has.

    A query's neighbours stand and fall together, in one list of an IVF or another, so they are no independent votes.
    A share between 0 and 1 varies at most as a yes or no of the same mean does: the interval errs on the wide side.
    """
    z2 = _Z_95**2
    middle = (mean + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z_95 * math.sqrt(mean * (1 - mean) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)
