"""Milvus Lite: BIN_FLAT, the only binary index that it has, searched exactly, with strong consistency."""

from __future__ import annotations

from pathlib import Path

from pymilvus import DataType, MilvusClient

from bench.peers.peer import Bytes, Int64s, padded

_BATCH = 10_000
"""Rows a call: one message of 1 M codes is above gRPC's limit."""


class MilvusPeer:
    efforts: tuple[int, ...] = ()
    durable = True

    def __init__(self, folder: Path, bits: int) -> None:
        self._client = MilvusClient(str(folder / "codes.db"))
        self._bits = bits

    def build(self, pin_id: Int64s, code_NW: Bytes) -> None:
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("pin_id", DataType.INT64, is_primary=True)
        schema.add_field("code", DataType.BINARY_VECTOR, dim=self._bits)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        self._client.create_collection("codes", schema=schema, index_params=index, consistency_level="Strong")
        for start in range(0, len(pin_id), _BATCH):
            self._client.insert("codes", _rows(pin_id[start : start + _BATCH], code_NW[start : start + _BATCH]))

    def set_effort(self, effort: int) -> None:
        raise NotImplementedError

    def search(self, code_QW: Bytes, k: int) -> Int64s:
        found = self._client.search(
            "codes", data=[code.tobytes() for code in code_QW], limit=k, search_params={"metric_type": "HAMMING"}
        )
        return padded([[hit["id"] for hit in hits] for hits in found], k)

    def upsert(self, pin_id: Int64s, code_NW: Bytes) -> None:
        self._client.upsert("codes", _rows(pin_id, code_NW))

    def delete(self, pin_id: Int64s) -> None:
        self._client.delete("codes", ids=pin_id.tolist())

    def reopen(self) -> None:
        self._client.load_collection("codes")

    def close(self) -> None:
        self._client.close()


def _rows(pin_id: Int64s, code_NW: Bytes) -> list[dict[str, object]]:
    return [{"pin_id": pin, "code": code.tobytes()} for pin, code in zip(pin_id.tolist(), code_NW, strict=True)]
