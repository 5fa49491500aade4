"""Array files come back as they were, aligned, and anything else is refused before memory is taken for it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from index_sync.array_file import MAGIC, read_arrays, write_arrays
from pinstream.errors import CorruptStateError

ARRAYS: dict[str, Any] = {
    "pin_id": np.array([1, 2**62], dtype=np.int64),
    "code": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "none": np.empty((0, 3), dtype=np.uint8),
    "flags": np.array([7], dtype=np.uint32),
}


def content_of(pieces: list[memoryview]) -> np.ndarray:
    return np.frombuffer(b"".join(pieces), dtype=np.uint8)


def forged(header: object) -> np.ndarray:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    front = MAGIC + len(text).to_bytes(4, "little") + text
    return np.frombuffer(front + bytes(-len(front) % 64) + bytes(128), dtype=np.uint8)


def entry(**changes: object) -> dict[str, object]:
    array = {"name": "a", "dtype": "<i8", "shape": [2], "offset": 0, **changes}
    return {"kind": "segment", "bits": 256, "arrays": [array]}


def test_arrays_come_back_aligned_and_equal() -> None:
    content = content_of(write_arrays("segment", 256, ARRAYS))
    found = read_arrays(content, "segment", 256)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert found[name].tolist() == array.tolist()
        assert found[name].shape == array.shape
        if array.size:
            offset = found[name].__array_interface__["data"][0] - content.__array_interface__["data"][0]
            assert offset % 64 == 0


def test_every_truncation_is_refused_or_harmless() -> None:
    content = content_of(write_arrays("segment", 256, ARRAYS))
    for size in range(len(content) - 64):
        with pytest.raises(CorruptStateError):
            read_arrays(content[:size], "segment", 256)


@pytest.mark.parametrize(
    "content",
    [
        np.frombuffer(b"\x93NUMPY\x01\x00 and so on", dtype=np.uint8),
        np.frombuffer(MAGIC + b"\xff\xff\xff\xff", dtype=np.uint8),
        forged(b"{"),
        forged(b"[" * 100_000),
        forged([]),
        forged({"kind": "state", "bits": 256, "arrays": []}),
        forged({"kind": "segment", "bits": 512, "arrays": []}),
        forged({"kind": "segment", "bits": 256, "arrays": [], "more": 1}),
        forged(entry(dtype="|O")),
        forged(entry(dtype="<f8")),
        forged(entry(shape=[2**40])),
        forged(entry(shape=[2**40, 2**40])),
        forged(entry(shape=[-1])),
        forged(entry(shape=[1, 1, 1])),
        forged(entry(offset=8)),
        forged(entry(offset=2**40)),
        forged(entry(offset=-64)),
        forged({"kind": "segment", "bits": 256, "arrays": entry()["arrays"] * 2}),  # type: ignore[operator]
    ],
)
def test_hostile_files_are_refused(content: np.ndarray) -> None:
    with pytest.raises(CorruptStateError):
        read_arrays(content, "segment", 256)
