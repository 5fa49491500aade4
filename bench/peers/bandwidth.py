"""How fast this machine reads memory: a streaming read of the codes' bytes, without any work on them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt


def read_gib_s(code_NW: npt.NDArray[np.uint8], threads: int, rounds: int = 5) -> float:
    """GiB/s of the best of several reads of all these bytes, shared out over threads.

    The reduction is a bitwise or of 8-byte words: one vector instruction a cache line, so memory sets its pace.
    """
    words = code_NW.reshape(-1).view(np.uint64)
    parts = np.array_split(words, threads)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            started_s = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            best_s = min(best_s, time.perf_counter() - started_s)
    return words.nbytes / best_s / 2**30
