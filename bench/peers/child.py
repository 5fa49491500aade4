"""A contender's process: answers pickled calls (method, arguments) on standard input with (seconds, result or error).

python -m bench.peers.child NAME FOLDER BITS
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.peer import Bytes, Int64s, Peer, make_peer


def main() -> None:
    name, folder, bits = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    peer = make_peer(name, Path(folder), int(bits))
    while True:
        try:
            method, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 (from our parent)
        except EOFError:
            peer.close()
            return
        try:
            answer = answered(peer, method, arguments)
        except Exception as error:  # noqa: BLE001 (the parent decides)
            answer = 0.0, error_text(error)
        pickle.dump(answer, answers)
        answers.flush()


def answered(peer: Peer, method: str, arguments: tuple[Any, ...]) -> tuple[float, Any]:
    """Seconds that the call took here, without the way to us and back, and its result."""
    if method == "build":
        folder = Path(arguments[0])
        arguments = np.load(folder / "pin_id.npy"), np.load(folder / "code.npy")
    gc.collect()
    started_s = time.perf_counter()
    if method == "about":
        result: Any = {"efforts": peer.efforts, "durable": peer.durable}
    elif method == "rate":
        result = rate(peer, *arguments)
    elif method == "visible":
        result = visible(peer, *arguments)
    else:
        result = getattr(peer, method)(*arguments)
    return time.perf_counter() - started_s, result


def rate(peer: Peer, code_QW: Bytes, k: int, at_once: int) -> float:
    """Queries a second, `at_once` in a call."""
    started_s = time.perf_counter()
    for start in range(0, len(code_QW), at_once):
        peer.search(code_QW[start : start + at_once], k)
    return len(code_QW) / (time.perf_counter() - started_s)


def visible(peer: Peer, pin_id: Int64s, code_NW: Bytes, k: int) -> tuple[float, bool]:
    """Upserts; milliseconds until a search for the last one finds it, and whether the first search did."""
    started_s = time.perf_counter()
    peer.upsert(pin_id, code_NW)
    searches = 0
    while time.perf_counter() - started_s < 10:
        searches += 1
        if pin_id[-1] in peer.search(code_NW[-1:], k)[0]:
            return 1000 * (time.perf_counter() - started_s), searches == 1
    raise TimeoutError(f"Pin {pin_id[-1]} is not found 10 s after its upsert")


def error_text(error: Exception) -> RuntimeError:
    """The libraries' own errors can't be unpickled where they are not installed."""
    return RuntimeError(f"{type(error).__name__}: {str(error)[:500]}")


if __name__ == "__main__":
    main()
