"""Fair timing of two sides in one run, and bare FAISS as somebody who knows it would set it up.

Both sides are measured in turn in one process, several rounds; a ratio is taken round by round.

Shapes: N codes, Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from bench.codes_like_real import Bytes, recall
from bench.index_setup import THREADS, K

Search: TypeAlias = Callable[[Bytes], Any]


@contextmanager
def faiss_threads(count: int) -> Iterator[None]:
    """OpenMP threads of bare FAISS calls of this thread."""
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(1)


def with_threads(count: int, run: Search) -> Search:
    """A bare FAISS search with its OpenMP on this many threads."""

    def threaded(code_QW: Bytes) -> Any:
        with faiss_threads(count):
            return run(code_QW)

    return threaded


def best_threads(run: Search, code_QW: Bytes, at_once: int) -> Search:
    """A bare FAISS search with one thread or two, whichever is faster here: two may only get in each other's way."""
    ways = [with_threads(count, run) for count in (1, THREADS)]
    for way in ways:
        way(code_QW[:at_once])
    speeds = [queries_per_s(way, code_QW[: 4 * at_once], at_once) for way in ways]
    return ways[int(np.argmax(speeds))]


def queries_per_s(run: Search, code_QW: Bytes, at_once: int) -> float:
    """How many queries a second, `at_once` in a call."""
    calls = [code_QW[start : start + at_once] for start in range(0, len(code_QW), at_once)]
    started_s = time.perf_counter()
    for call in calls:
        run(call)
    return len(code_QW) / (time.perf_counter() - started_s)


def interleaved(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each side once to warm up, then `rounds` times in turn, the order reversed every time."""
    for measure in sides.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            found[name].append(sides[name]())
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def median_of(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """For details: the median of each side, rounded."""
    return {name: float(f"{statistics.median(values):.4g}") for name, values in found.items()}


def tuned_nprobe(index: Any, code_QW: Bytes, true_distance_QK: npt.NDArray[Any], target: float) -> tuple[int, float]:
    """The smallest nprobe with which a bare inverted file reaches the recall, and the recall; sets it.

    By bisection: recall grows with nprobe.
    """
    low, high = 1, int(index.nlist)
    while low < high:
        index.nprobe = (low + high) // 2
        if recall(index.search(code_QW, K)[0], true_distance_QK) >= target:
            high = index.nprobe
        else:
            low = index.nprobe + 1
    index.nprobe = low
    return low, recall(index.search(code_QW, K)[0], true_distance_QK)


def bare_ivf(code_NW: Bytes, nlist: int, seed: int = 0) -> tuple[Any, float, float]:
    """A freshly trained and filled IndexBinaryIVF with seconds of training and of adding. Blocks for minutes at 1 M."""
    bits = code_NW.shape[1] * 8
    index: Any = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, nlist)
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid, index.cp.seed = 32, 1, 1234 + seed
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(len(code_NW), min(len(code_NW), 32 * nlist), replace=False))
    with faiss_threads(THREADS):
        started_s = time.perf_counter()
        index.train(code_NW[sample])
        trained_s = time.perf_counter()
        index.add(code_NW)
        return index, trained_s - started_s, time.perf_counter() - trained_s
