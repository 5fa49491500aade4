"""sqlite-vec: bits in a virtual table of SQLite, scanned exactly. WAL, synchronous=FULL, one transaction a batch.

A query is one statement on one core; several are shared out over two connections.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import sqlite_vec

from bench.peers.peer import Bytes, Int64s, padded

THREADS = 2


class SqliteVecPeer:
    efforts: tuple[int, ...] = ()
    durable = True

    def __init__(self, folder: Path, bits: int) -> None:
        self._db = _open(folder)
        self._db.execute(
            f"CREATE VIRTUAL TABLE IF NOT EXISTS codes USING vec0(pin_id INTEGER PRIMARY KEY, code BIT[{bits}])"
        )
        self._readers = [_open(folder) for _ in range(THREADS)]
        self._pool = ThreadPoolExecutor(THREADS)

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        with self._db:
            self._insert(pin_id, code_NW)

    def set_effort(self, effort: int) -> None:
        raise NotImplementedError

    def search(self, code_QW: Bytes, k: int) -> Int64s:
        if len(code_QW) == 1:
            return _searched(self._readers[0], code_QW, k)
        parts = np.array_split(code_QW, THREADS)
        return np.concatenate(list(self._pool.map(_searched, self._readers, parts, [k] * THREADS)))

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        with self._db:
            self._delete(pin_id)
            self._insert(pin_id, code_NW)

    def delete(self, pin_id: Int64s) -> None:
        with self._db:
            self._delete(pin_id)

    def reopen(self) -> None:
        """SQLite recovers as it opens."""

    def close(self) -> None:
        self._pool.shutdown()
        for one in (*self._readers, self._db):
            one.close()

    def _insert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        rows = ((pin, code.tobytes()) for pin, code in zip(pin_id.tolist(), code_NW, strict=True))
        self._db.executemany("INSERT INTO codes(pin_id, code) VALUES (?, vec_bit(?))", rows)

    def _delete(self, pin_id: Int64s) -> None:
        self._db.executemany("DELETE FROM codes WHERE pin_id = ?", ((pin,) for pin in pin_id.tolist()))


def _open(folder: Path) -> Any:
    db = apsw.Connection(str(folder / "codes.db"))
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-1000000")
    return db


def _searched(db: Any, code_QW: Bytes, k: int) -> Int64s:
    query = "SELECT pin_id FROM codes WHERE code MATCH vec_bit(?) AND k = ? ORDER BY distance"
    return padded([[row[0] for row in db.execute(query, (code.tobytes(), k))] for code in code_QW], k)
