"""What every contender can be asked. One file a contender; it imports its library and nothing of pinstream.

Shapes: N codes, Q queries, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]


class Peer(Protocol):
    """One store or index in a folder. Not thread-safe. Every method blocks until what it says is done."""

    efforts: tuple[int, ...]
    """What `set_effort` takes, ascending: larger ones find more and take longer. Empty: searches are exact."""
    durable: bool
    """An acknowledged upsert is meant to outlive the process."""

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        """Hold these codes, ready to be searched, index and all."""

    def set_effort(self, effort: int) -> None: ...

    def search(self, code_QW: Bytes, k: int) -> Int64s:
        """The Pin ids of the k nearest of each query, nearest first: int64 [Q, k], −1 where there are fewer."""

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        """Replace or add; returns when it is acknowledged."""

    def delete(self, pin_id: Int64s) -> None: ...

    def reopen(self) -> None:
        """In a new process: hold what the folder holds."""

    def close(self) -> None: ...


PEERS: Final = {
    "pinstream": "bench.peers.pinstream_peer:PinstreamPeer",
    "faiss flat": "bench.peers.faiss_peer:FlatPeer",
    "faiss ivf": "bench.peers.faiss_peer:IvfPeer",
    "usearch": "bench.peers.usearch_peer:UsearchPeer",
    "milvus lite": "bench.peers.milvus_peer:MilvusPeer",
    "lancedb": "bench.peers.lancedb_peer:LanceDbPeer",
    "lancedb ivf": "bench.peers.lancedb_peer:LanceDbIvfPeer",
    "sqlite-vec": "bench.peers.sqlite_vec_peer:SqliteVecPeer",
    "duckdb": "bench.peers.duckdb_peer:DuckDbPeer",
}
OURS: Final = ("pinstream", "faiss flat", "faiss ivf")
"""These run in the project's environment, the others in that of `requirements.txt`."""
STORES: Final = ("milvus lite", "lancedb", "lancedb ivf", "sqlite-vec", "duckdb")


def make_peer(name: str, folder: Path, bits: int) -> Peer:
    module, _, kind = PEERS[name].partition(":")
    made: Peer = getattr(importlib.import_module(module), kind)(folder, bits)
    return made


def padded(found: list[list[int]], k: int) -> Int64s:
    """Lists of ids → int64 [Q, k]."""
    pin_id_QK = np.full((len(found), k), -1, dtype=np.int64)
    for query, ids in enumerate(found):
        pin_id_QK[query, : len(ids)] = ids[:k]
    return pin_id_QK
