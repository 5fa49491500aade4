"""LanceDB: bytes by Hamming distance, scanned exactly, or through its inverted file (IVF_FLAT)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from bench.peers.peer import Bytes, Int64s, padded


class LanceDbPeer:
    efforts: tuple[int, ...] = ()
    durable = True

    def __init__(self, folder: Path, bits: int) -> None:
        self._db = lancedb.connect(str(folder))
        self._code_bytes = bits // 8
        self._table: Any = None

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self._table = self._db.create_table("codes", self._arrow(pin_id, code_NW))
        self._table.create_scalar_index("pin_id")  # without it an upsert reads every row

    def set_effort(self, effort: int) -> None:
        raise NotImplementedError

    def search(self, code_QW: Bytes, k: int) -> Int64s:
        found = [self._query(code, k).to_arrow()["pin_id"].to_pylist() for code in code_QW]
        return padded(found, k)

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        merge = self._table.merge_insert("pin_id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(self._arrow(pin_id, code_NW))

    def delete(self, pin_id: Int64s) -> None:
        self._table.delete(f"pin_id IN ({','.join(map(str, pin_id.tolist()))})")

    def reopen(self) -> None:
        self._table = self._db.open_table("codes")

    def close(self) -> None:
        """Nothing is open."""

    def _query(self, code: Bytes, k: int) -> Any:
        query = self._table.search(code, vector_column_name="code").distance_type("hamming")
        return query.bypass_vector_index().limit(k).select(["pin_id", "_distance"])

    def _arrow(self, pin_id: Int64s, code_NW: Bytes) -> Any:
        codes = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(code_NW).reshape(-1)), self._code_bytes)
        return pa.table({"pin_id": pin_id, "code": codes})


class LanceDbIvfPeer(LanceDbPeer):
    efforts = tuple(round(4 * 1.3**step) for step in range(18))
    _effort = 16

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        super().build(pin_id, code_NW)
        self._table.create_index(
            metric="hamming",
            vector_column_name="code",
            index_type="IVF_FLAT",
            num_partitions=max(8, min(1024, len(code_NW) // 128)),
        )

    def set_effort(self, effort: int) -> None:
        self._effort = effort

    def _query(self, code: Bytes, k: int) -> Any:
        query = self._table.search(code, vector_column_name="code").distance_type("hamming")
        return query.nprobes(self._effort).limit(k).select(["pin_id", "_distance"])
