"""One run of all contenders on the same codes, queries, upserts and deletes; every contender in its own process.

Shapes: N codes, Q queries, K neighbours, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
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
ROUND_S = 1.0
"""About how long one measurement of queries takes: slow contenders answer fewer of them."""
TUNE_S = 2.0
"""About how long one look at the recall of an effort takes; as many queries count as are answered in it."""
TUNE_QUERIES = 32
LOOKED_FOR = 20
"""Deleted Pins, and upserts before a SIGKILL, that are searched for."""


@dataclass(slots=True)
class Contender:
    name: str
    process: PeerProcess | None = None
    """None: it could not start, or failed or took too long since."""
    about: dict[str, Any] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)
    """Its line of the table."""
    queries_per_s: dict[str, list[float]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    """Mode → one measurement a round."""

    def attempt(self, step: Callable[[PeerProcess], None]) -> None:
        """Take a step, unless an earlier one failed; a contender that fails is out, and its line says why."""
        process = self.process
        if process is None:
            return
        try:
            step(process)
        except PeerError as error:
            self.row["remark"] = str(error)
            self.process = None
            process.close()


class Contest:
    """Holds the codes that live, and what is asked. One thread."""

    def __init__(
        self, world: CodesLikeReal, codes: int, queries: int, folder: Path, peer_python: Path, limit_s: float
    ) -> None:
        self.world = world
        self.folder = folder
        self.code_QW = world.codes(queries, "queries")
        self._codes = codes
        self._python = peer_python
        self._limit_s = limit_s
        self.pin_id: Int64s = np.empty(0, np.int64)
        self.code_NW: Bytes = np.empty((0, world.code_bytes), np.uint8)

    def start(self, name: str) -> Contender:
        """A contender with all codes in it, tuned to the recall; without a process if it can't."""
        contender = Contender(name, self._process(name))
        contender.attempt(lambda process: self._fill(contender, process))
        return contender

    def _fill(self, contender: Contender, process: PeerProcess) -> None:
        contender.about = process.ask("about")
        before_mib = process.resident_mib()
        if contender.name == "pinstream":
            seconds, state = process.timed("stream", self._codes, 2026, str(self.folder))
            self.pin_id, self.code_NW = np.load(self.folder / "pin_id.npy"), np.load(self.folder / "code.npy")
            self.true_distance_QK, _ = exact(self.code_QW, self.code_NW, K)
            contender.row["state"] = state
        else:
            seconds, _ = process.timed("build", str(self.folder))
        contender.row["build_per_s"] = round(len(self.pin_id) / seconds)
        self._tune(contender, process)
        contender.row["memory_mib"] = round(process.resident_mib() - before_mib)

    def measure(self, contender: Contender, process: PeerProcess, mode: str) -> None:
        """One round of queries of one mode; the first is to warm up and to see how many fit into a round."""
        at_once = MODES[mode]
        known = contender.queries_per_s[mode]
        wanted = int(known[0] * ROUND_S) if known else 2 * at_once
        count = max(at_once, min(len(self.code_QW), wanted))
        known.append(process.ask("rate", self.code_QW[:count], K, at_once))

    def write(self, contender: Contender, process: PeerProcess, batches: int) -> None:
        """Upserts and deletes of existing Pins, the same for every contender, and whether searches saw them."""
        rng = np.random.default_rng(7)
        batches = min(batches, len(self.pin_id) // (2 * BATCH))
        places = rng.permutation(len(self.pin_id))[: 2 * batches * BATCH].reshape(2, -1)
        upserted, deleted = self.pin_id[places[0]], self.pin_id[places[1]]
        new_NW = self.world.codes(len(upserted), "training")
        upsert_s = [process.timed("upsert", *part)[0] for part in _parts(upserted, new_NW)]
        delete_s = [process.timed("delete", part)[0] for part, _ in _parts(deleted, new_NW)]
        contender.row |= {
            "upserts_per_s": round(len(upserted) / sum(upsert_s)),
            "deletes_per_s": round(len(deleted) / sum(delete_s)),
            "deleted_found": self._deleted_found(process, deleted[:LOOKED_FOR], self.code_NW[places[1][:LOOKED_FOR]]),
        }
        newer_NW = self.world.codes(10, "updates")
        seen = [process.ask("visible", upserted[at : at + 1], newer_NW[at : at + 1], K) for at in range(len(newer_NW))]
        contender.row |= {
            "visible_ms": round(statistics.median(ms for ms, _ in seen), 1),
            "first_search_finds": f"{sum(first for _, first in seen)} of {len(seen)}",
        }

    def kill(self, contender: Contender, process: PeerProcess) -> None:
        """SIGKILL right after an acknowledged upsert; then a new process looks for it.

        Ours keeps its state in snapshots and gets the rest from Kafka, which is not here: `index.faults` kills it.
        """
        is_ours = contender.name == "pinstream"
        if is_ours:
            process.ask("save")
        elif not contender.about["durable"]:
            contender.row["survives_kill"] = "no"
            process.close()
            return
        chosen, new_NW = self.pin_id[-BATCH:], self.world.codes(BATCH, "training")[::-1].copy()
        process.ask("upsert", chosen, new_NW)
        process.kill()
        started_s = time.monotonic()
        again = self._process(contender.name)
        try:
            again.ask("reopen")
            again.ask("search", new_NW[:1], K)
            contender.row["restart_s"] = round(time.monotonic() - started_s, 2)
            found = again.ask("search", new_NW[:LOOKED_FOR], K)
            lost = int((~(found == chosen[:LOOKED_FOR, np.newaxis]).any(axis=1)).sum())
            contender.row["survives_kill"] = (
                "by Kafka" if is_ours else "yes" if not lost else f"no: {lost} of {LOOKED_FOR} lost"
            )
        finally:
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

    def _tune(self, contender: Contender, process: PeerProcess) -> None:
        """The smallest effort that reaches the recall; the best one if none does."""
        efforts = contender.about["efforts"]
        low, high = 0, len(efforts) - 1
        while low < high:
            middle = (low + high) // 2
            process.ask("set_effort", efforts[middle])
            if self._recall(process)[0] >= RECALL:
                high = middle
            else:
                low = middle + 1
        if efforts:
            process.ask("set_effort", efforts[low])
            contender.row["effort"] = efforts[low]
        reached, queries = self._recall(process)
        contender.row |= {"recall": round(reached, 4), "recall_of_queries": queries}

    def _recall(self, process: PeerProcess) -> tuple[float, int]:
        """Recall at the effort that is set, and of how many queries: of the first ones, as time allows."""
        found, until_s = list[Int64s](), time.monotonic() + TUNE_S
        for start in range(0, len(self.code_QW), TUNE_QUERIES):
            found.append(process.ask("search", self.code_QW[start : start + TUNE_QUERIES], K))
            if time.monotonic() > until_s:
                break
        pin_id_QK = np.concatenate(found)
        return self.recall_of(pin_id_QK), len(pin_id_QK)

    def _deleted_found(self, process: PeerProcess, deleted: Int64s, code_QW: Bytes) -> int:
        """How many deleted Pins come back when their own codes are searched for."""
        found = process.ask("search", code_QW, K)
        return int((found == deleted[:, np.newaxis]).any(axis=1).sum())

    def _process(self, name: str) -> PeerProcess:
        python = Path(sys.executable) if name in OURS else self._python
        threads = 1 if name == "pinstream" else THREADS
        return PeerProcess(name, python, self.folder / name.replace(" ", "-"), self.world.bits, threads, self._limit_s)


def _parts(pin_id: Int64s, code_NW: Bytes) -> list[tuple[Int64s, Bytes]]:
    return [(pin_id[at : at + BATCH], code_NW[at : at + BATCH]) for at in range(0, len(pin_id), BATCH)]
