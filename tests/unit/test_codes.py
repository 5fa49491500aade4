"""PinCode: golden bytes, and that an Avro reader with nothing but the schema reads what we write."""

from __future__ import annotations

import io

import fastavro
import numpy as np
import pytest

from pinstream.codes import (
    Fingerprint,
    avro_schema,
    decode_records,
    empty_records,
    encode_records,
    flag_numbers,
    record_dtype,
    shipped_schema,
)
from pinstream.errors import FatalError

MODEL = Fingerprint("c0ffee42" + "0" * 56)
BITS = 256


def one_record() -> bytes:
    records = empty_records(1, BITS, MODEL, schema_id=5)
    records["pin_id"] = 0x0102030405060708
    records["source_offset"] = 9
    records["event_time_ms"] = 1_769_860_800_250
    records["signature"] = np.arange(16, dtype=np.uint8)
    records["domain"] = 2
    records["flags"] = [[0, 0, 5]]
    records["code"] = np.arange(32, dtype=np.uint8)
    return encode_records(records)[0]


GOLDEN = bytes.fromhex(
    "00"
    "00000005"  # Confluent frame: magic, schema id
    "0102030405060708"
    "0000000000000009"
    "0000019c13ec9efa"
    "000102030405060708090a0b0c0d0e0f"
    "c0ffee42"
    "02"
    "000005"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)


def test_golden_bytes() -> None:
    assert one_record() == GOLDEN


def test_an_avro_reader_with_the_schema_alone_reads_it() -> None:
    value = one_record()
    read = fastavro.schemaless_reader(io.BytesIO(value[5:]), avro_schema(BITS), None)
    assert int.from_bytes(read["pin_id"], "big") == 0x0102030405060708
    assert read["model"] == bytes.fromhex("c0ffee42")
    assert read["code"] == bytes(range(32))


def test_the_shipped_schema_is_the_one_of_2048_bits() -> None:
    assert shipped_schema() == avro_schema(2048)
    fastavro.parse_schema(shipped_schema())
    sizes = sum(field["type"]["size"] for field in shipped_schema()["fields"])
    assert record_dtype(2048).itemsize == 5 + sizes == 309


def test_decodes_a_batch() -> None:
    records, positions, refused = decode_records([GOLDEN, GOLDEN], BITS, MODEL)
    assert records["pin_id"].tolist() == [0x0102030405060708] * 2
    assert flag_numbers(records).tolist() == [5, 5]
    assert positions.tolist() == [0, 1]
    assert not refused


def test_foreign_records_are_refused_and_named_and_the_others_kept() -> None:
    other_model = GOLDEN[:45] + b"\0\0\0\1" + GOLDEN[49:]
    values = [b"", GOLDEN, other_model, GOLDEN[:-1], b"\1" + GOLDEN[1:], GOLDEN]
    records, positions, refused = decode_records(values, BITS, MODEL)
    assert positions.tolist() == [1, 5]
    assert len(records) == 2
    assert sorted((r.position, r.reason) for r in refused) == [(0, "length"), (2, "model"), (3, "length"), (4, "frame")]
    assert any("expected 0xc0ffee42" in r.message for r in refused)


def test_nothing_decodes_to_nothing() -> None:
    records, positions, refused = decode_records([], BITS, MODEL)
    assert len(records) == len(positions) == len(refused) == 0


@pytest.mark.parametrize("bits", [0, 128, 257, 4160, -256])
def test_odd_widths_are_refused(bits: int) -> None:
    with pytest.raises(FatalError, match="expected a multiple of 64"):
        record_dtype(bits)


def test_a_fingerprint_is_64_hex_digits() -> None:
    with pytest.raises(FatalError, match="expected 64"):
        Fingerprint("C0FFEE")
    assert MODEL.codes_topic == "codes.v1.c0ffee420000"
