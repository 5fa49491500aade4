"""`PinCode`, the contract of `codes.v1.<model>`: an Avro record of `fixed` fields only, in Confluent framing.

Any Avro reader can read it with `pin_code.avsc` alone; we decode a whole batch with one `numpy.frombuffer`.
Bit i of a code is bit i % 8 (from the least significant) of byte i // 8: FAISS's order.

Shapes: N records, W = bits / 8 bytes of code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pinstream.errors import FatalError

CODES_TOPIC_PREFIX: Final = "codes.v1."
MIN_BITS: Final = 256
MAX_BITS: Final = 4096
MAGIC: Final = 0
HEADER_SOURCE_OFFSET: Final = "pinstream.source_offset"
"""Header of a tombstone on the codes topic: the offset of the delete on the Pins topic, decimal ASCII."""
HEADER_EVENT_TIME: Final = "pinstream.event_time_ms"
"""Header of a tombstone on the codes topic: when the Pin was deleted, epoch milliseconds, decimal ASCII."""
HEADER_MODEL: Final = "pinstream.model"
"""Header of a tombstone on the codes topic: the model's first four bytes, hex."""

CodeRecords = npt.NDArray[np.void]
"""[N] structured array of `record_dtype(bits)`."""


@lru_cache(maxsize=8)
def record_dtype(bits: int) -> np.dtype[np.void]:
    """The bytes of one framed record, big endian, for codes of `bits` bits.

    Raises:
        FatalError: `bits` is not a multiple of 64 from 256 to 4096.
    """
    check_bits(bits)
    return np.dtype(
        [
            ("magic", "u1"),
            ("schema_id", ">u4"),
            ("pin_id", ">i8"),
            ("source_offset", ">i8"),
            ("event_time_ms", ">i8"),
            ("signature", "u1", (16,)),
            ("model", ">u4"),
            ("domain", "u1"),
            ("flags", "u1", (3,)),
            ("code", "u1", (bits // 8,)),
        ]
    )


def check_bits(bits: int) -> None:
    """Raises FatalError unless `bits` is a multiple of 64 from 256 to 4096."""
    if not MIN_BITS <= bits <= MAX_BITS or bits % 64:
        raise FatalError(f"codes have {bits} bits, expected a multiple of 64 from {MIN_BITS} to {MAX_BITS}")


def avro_schema(bits: int) -> dict[str, Any]:
    """The Avro schema of `PinCode` for codes of `bits` bits; `pin_code.avsc` in this package is the one of 2048."""
    check_bits(bits)
    sizes = {
        "pin_id": (8, "big-endian signed Pin id, 1 to 2^63-1"),
        "source_offset": (8, "big-endian offset of the Pin event on pins.v1, same partition"),
        "event_time_ms": (8, "big-endian epoch milliseconds of the Pin event"),
        "signature": (16, "first 16 bytes of the SHA-256 of the image's bytes"),
        "model": (4, "first 4 bytes of the model's fingerprint"),
        "domain": (1, "0 camera, 1 pin, 2 product"),
        "flags": (3, "24 flag bits, big endian; bit 0 shoppable, 1 video, 2 promoted, 3 mature"),
        "code": (bits // 8, f"{bits} bits; bit i is bit i % 8, from the least significant, of byte i // 8"),
    }
    return {
        "type": "record",
        "name": "PinCode",
        "namespace": "pinstream.v1",
        "doc": "A Pin's binary code. Only fixed fields: every record has the same length.",
        "fields": [
            {"name": name, "type": {"type": "fixed", "name": f"{name}_{size}", "size": size}, "doc": doc}
            for name, (size, doc) in sizes.items()
        ],
    }


def shipped_schema() -> dict[str, Any]:
    """`pin_code.avsc` as it is installed: the schema for 2048 bits."""
    text = resources.files("pinstream").joinpath("pin_code.avsc").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Names a model: SHA-256 over its weights, preprocessing and head, as 64 lower-case hex digits."""

    hex: str

    def __post_init__(self) -> None:
        if len(self.hex) != 64 or set(self.hex) - set("0123456789abcdef"):
            raise FatalError(f"model fingerprint is {self.hex[:80]!r}, expected 64 lower-case hex digits")

    @property
    def short(self) -> str:
        """The 12 digits that name topics, groups, shards and snapshots."""
        return self.hex[:12]

    @property
    def number(self) -> int:
        """The `model` field of a record: the first four bytes, big endian."""
        return int(self.hex[:8], 16)

    @property
    def codes_topic(self) -> str:
        return CODES_TOPIC_PREFIX + self.short


def encode_records(records: CodeRecords) -> list[bytes]:
    """[N] records → N Kafka values. The caller has filled every field (see `empty_records`)."""
    size = records.dtype.itemsize
    raw = records.tobytes()
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def empty_records(count: int, bits: int, model: Fingerprint, schema_id: int) -> CodeRecords:
    """[count] records with the frame and the model filled in and every other field zero."""
    records = np.zeros(count, dtype=record_dtype(bits))
    records["magic"] = MAGIC
    records["schema_id"] = schema_id
    records["model"] = model.number
    return records


@dataclass(frozen=True, slots=True)
class RefusedCode:
    """A record on a codes topic that is not a code of this generation."""

    position: int
    """Which of the values it was, from 0."""
    reason: str
    """`length`, `frame` or `model`: a metric label."""
    message: str


def decode_records(
    values: Sequence[bytes], bits: int, model: Fingerprint
) -> tuple[CodeRecords, npt.NDArray[np.intp], list[RefusedCode]]:
    """N Kafka values (no tombstones) → the records of this model, their positions among the values, and the rest.

    A foreign record is refused and named, never applied and never fatal by itself: one stray write must not stop
    every index worker of a generation. Never blocks; thread-safe.

    Returns:
        records: [M] read-only, in the order of the values.
        positions: [M] into `values`, ascending.
        refused: the other N − M.
    """
    dtype = record_dtype(bits)
    size = dtype.itemsize
    positions = np.arange(len(values))
    refused: list[RefusedCode] = []
    if list(map(len, values)).count(size) < len(values):
        fits = np.fromiter((len(value) == size for value in values), dtype=bool, count=len(values))
        refused += [
            RefusedCode(i, "length", f"code record has {len(values[i])} bytes, expected {size} ({bits} bits)")
            for i in np.flatnonzero(~fits).tolist()
        ]
        positions = np.flatnonzero(fits)
        values = [values[i] for i in positions.tolist()]
    records: CodeRecords = np.frombuffer(b"".join(values), dtype=dtype)
    for field, reason, expected in (("magic", "frame", MAGIC), ("model", "model", model.number)):
        good = records[field] == expected
        if not good.all():
            refused += [
                RefusedCode(i, reason, f"code record has {field} {found:#x}, expected {expected:#x} ({model.short})")
                for i, found in zip(positions[~good].tolist(), records[field][~good].tolist(), strict=True)
            ]
            records, positions = records[good], positions[good]
    return records, positions, refused


def flag_numbers(records: CodeRecords) -> npt.NDArray[np.uint32]:
    """The 24 flag bits of each record: uint32 [N]."""
    flags: npt.NDArray[np.uint32] = records["flags"].astype(np.uint32)
    return (flags[:, 0] << np.uint32(16)) | (flags[:, 1] << np.uint32(8)) | flags[:, 2]
