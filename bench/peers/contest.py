"""One run of all contenders on the same codes, queries, upserts and deletes; every contender in its own process.

Shapes: N codes, Q queries, K neighbours, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.codes_like_real import Bytes, CodesLikeReal, exact, recall
from bench.index_setup import AT_ONCE, RECALL, THREADS, K
from bench.peers.peer import OURS, Int64s
from bench.peers.process import PeerError, PeerProcess

BATCH = 1000
MODES = {"one_at_a_time": 1, "16_at_once": AT_ONCE}
ROUND_S = 2.0
"""About how long one measurement of queries takes: slow contenders answer fewer of them."""


@dataclass(slots=True)
class Contender:
    process: PeerProcess
    about: dict[str, Any]
    row: dict[str, Any] = field(default_factory=dict)
    """Its line of the table."""
    queries_per_s: dict[str, list[float]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    """Mode → one measurement a round."""


class Contest:
    """Holds the codes that live, and what is asked. One thread."""

    def __init__(self, world: CodesLikeReal, codes: int, queries: int, folder: Path, peer_python: Path) -> None:
        self.world = world
        self.folder = folder
        self.code_QW = world.codes(queries, "queries")
        self._codes = codes
        self._python = peer_python
        self.pin_id: Int64s = np.empty(0, np.int64)
        self.code_NW: Bytes = np.empty((0, world.code_bytes), np.uint8)

    def start(self, name: str) -> Contender:
        """A contender with all codes in it, tuned to the recall. Raises PeerError."""
        process = self._process(name)
        try:
            return self._started(process)
        except PeerError:
            process.close()
            raise

    def _started(self, process: PeerProcess) -> Contender:
        contender = Contender(process, process.ask("about"))
        before_mib = process.resident_mib()
        if process.name == "pinstream":
            seconds, state = process.timed("stream", self._codes, 2026, str(self.folder))
            self.pin_id, self.code_NW = np.load(self.folder / "pin_id.npy"), np.load(self.folder / "code.npy")
            self.true_distance_QK, _ = exact(self.code_QW, self.code_NW, K)
            contender.row["state"] = state
        else:
            seconds, _ = process.timed("build", str(self.folder))
        contender.row["build_per_s"] = round(len(self.pin_id) / seconds)
        self._tune(contender)
        contender.row["memory_mib"] = round(process.resident_mib() - before_mib)
        return contender

    def measure(self, contender: Contender, mode: str) -> None:
        """One round of queries of one mode; the first is to warm up and to see how many fit into a round."""
        at_once = MODES[mode]
        known = contender.queries_per_s[mode]
        wanted = int(known[0] * ROUND_S) if known else 2 * at_once
        count = max(at_once, min(len(self.code_QW), wanted))
        rate = contender.process.ask("rate", self.code_QW[:count], K, at_once)
        known.append(rate)

    def write(self, contender: Contender, batches: int) -> None:
        """Upserts and deletes of existing Pins, the same for every contender, and whether searches saw them."""
        ask, rng = contender.process, np.random.default_rng(7)
        places = rng.permutation(len(self.pin_id))[: 2 * batches * BATCH].reshape(2, -1)
        upserted, deleted = self.pin_id[places[0]], self.pin_id[places[1]]
        new_NW = self.world.codes(len(upserted), "training")
        upsert_s = [ask.timed("upsert", *part)[0] for part in _parts(upserted, new_NW)]
        delete_s = [ask.timed("delete", part)[0] for part, _ in _parts(deleted, new_NW)]
        seen = [
            ask.ask("visible", upserted[at : at + 1], self.world.codes(at + 1, "updates")[at:], K) for at in range(10)
        ]
        contender.row |= {
            "upserts_per_s": round(len(upserted) / sum(upsert_s)),
            "deletes_per_s": round(len(deleted) / sum(delete_s)),
            "upsert_to_found_ms": round(statistics.median(ms for ms, _ in seen), 1),
            "first_search_finds_it": f"{sum(first for _, first in seen)} of {len(seen)}",
            "deleted_ones_found": self._deleted_found(contender, deleted[:50], self.code_NW[places[1][:50]]),
        }

    def kill(self, contender: Contender) -> None:
        """SIGKILL right after an acknowledged upsert; then a new process looks for it."""
        if not contender.about["durable"]:
            contender.row["survives_kill"] = "index.faults" if contender.process.name == "pinstream" else "no"
            contender.process.close()
            return
        chosen, new_NW = self.pin_id[-BATCH:], self.world.codes(BATCH, "training")[::-1].copy()
        contender.process.ask("upsert", chosen, new_NW)
        contender.process.kill()
        started_s = time.monotonic()
        again = self._process(contender.process.name)
        again.ask("reopen")
        found = again.ask("search", new_NW[:100], K)
        lost = int((~(found == chosen[:100, np.newaxis]).any(axis=1)).sum())
        contender.row["survives_kill"] = "yes" if not lost else f"no: {lost} of 100 lost"
        contender.row["reopen_to_answer_s"] = round(time.monotonic() - started_s, 2)
        again.close()

    def recall_of(self, pin_id_QK: Int64s) -> float:
        """Of the first queries, by the distances of the codes with these ids; unknown or doubled ids are misses."""
        place = np.minimum(np.searchsorted(self.pin_id, pin_id_QK), len(self.pin_id) - 1)
        distance_QK = np.empty(pin_id_QK.shape, dtype=np.int32)
        for query, places in enumerate(place):
            distance_QK[query] = np.bitwise_count(self.code_NW[places] ^ self.code_QW[query]).sum(axis=1)
        ordered = np.sort(pin_id_QK, axis=1)
        doubled = np.count_nonzero(ordered[:, 1:] == ordered[:, :-1], axis=1)
        distance_QK[self.pin_id[place] != pin_id_QK] = np.iinfo(np.int32).max
        return recall(distance_QK, self.true_distance_QK[: len(pin_id_QK)]) - float(doubled.sum()) / pin_id_QK.size

    def _tune(self, contender: Contender) -> None:
        """The smallest effort that reaches the recall; the best one if none does."""
        ask, efforts = contender.process.ask, contender.about["efforts"]
        low, high = 0, len(efforts) - 1
        while low < high:
            middle = (low + high) // 2
            ask("set_effort", efforts[middle])
            if self.recall_of(ask("search", self.code_QW, K)) >= RECALL:
                high = middle
            else:
                low = middle + 1
        if efforts:
            ask("set_effort", efforts[low])
            contender.row["effort"] = efforts[low]
        queries = self.code_QW if efforts else self.code_QW[:16]
        contender.row["recall"] = round(self.recall_of(ask("search", queries, K)), 4)

    def _deleted_found(self, contender: Contender, deleted: Int64s, code_QW: Bytes) -> int:
        """How many deleted Pins come back when their own codes are searched for."""
        found = contender.process.ask("search", code_QW, K)
        return int((found == deleted[:, np.newaxis]).any(axis=1).sum())

    def _process(self, name: str) -> PeerProcess:
        python = Path(sys.executable) if name in OURS else self._python
        threads = 1 if name == "pinstream" else THREADS
        return PeerProcess(name, python, self.folder / name.replace(" ", "-"), self.world.bits, threads)


def _parts(pin_id: Int64s, code_NW: Bytes) -> list[tuple[Int64s, Bytes]]:
    return [(pin_id[at : at + BATCH], code_NW[at : at + BATCH]) for at in range(0, len(pin_id), BATCH)]
