"""Polled records become columns in topic order; a record that can't is named and never stops the others."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from index_sync.code_batch import UNCONDITIONAL, UNKNOWN_TIME, build_code_batch, newest_per_pin
from pinstream.codes import (
    HEADER_EVENT_TIME,
    HEADER_MODEL,
    HEADER_SOURCE_OFFSET,
    Fingerprint,
    empty_records,
    encode_records,
)

BITS = 256
MODEL = Fingerprint("ab" * 32)


@dataclass
class Polled:
    """What confluent_kafka.Message offers, without a broker."""

    at: int
    key_bytes: bytes | None
    value_bytes: bytes | None
    header_list: list[tuple[str, bytes]] | None = field(default=None)

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes | None:
        return self.key_bytes

    def value(self) -> bytes | None:
        return self.value_bytes

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self.header_list


def upsert(at: int, pin_id: int, source_offset: int, key: bytes | None = None, model: Fingerprint = MODEL) -> Polled:
    records = empty_records(1, BITS, model, 1)
    records["pin_id"], records["source_offset"], records["event_time_ms"] = pin_id, source_offset, 1000 + at
    records["domain"], records["flags"], records["code"] = 2, [0x01, 0x02, 0x03], at % 256
    return Polled(at, b"%d" % pin_id if key is None else key, encode_records(records)[0])


def delete(at: int, key: bytes | None, *headers: tuple[str, bytes]) -> Polled:
    return Polled(at, key, None, list(headers) or None)


def test_upserts_and_tombstones_keep_their_order() -> None:
    batch, refused = build_code_batch(
        [
            upsert(10, 7, 70),
            delete(11, b"7", (HEADER_SOURCE_OFFSET, b"71"), (HEADER_EVENT_TIME, b"5"), (HEADER_MODEL, b"abababab")),
            delete(12, b"8"),
            upsert(15, 9, 72),
        ],
        BITS,
        MODEL,
    )
    assert refused == []
    assert batch.pin_id.tolist() == [7, 7, 8, 9]
    assert batch.source_offset.tolist() == [70, 71, UNCONDITIONAL, 72]
    assert batch.event_time_ms.tolist() == [1010, 5, UNKNOWN_TIME, 1015]
    assert batch.is_delete.tolist() == [False, True, True, False]
    assert batch.flags.tolist() == [0x010203, 0, 0, 0x010203]
    assert batch.domain.tolist() == [2, 0, 0, 2]
    assert batch.code_NW[:, 0].tolist() == [10, 0, 0, 15]
    assert batch.code_NW.shape == (4, BITS // 8)
    assert batch.next_offset == 16


def test_nothing_polled_is_an_empty_batch() -> None:
    batch, refused = build_code_batch([], BITS, MODEL, next_offset=99)
    assert len(batch) == 0
    assert not refused
    assert batch.next_offset == 99
    assert batch.code_NW.shape == (0, BITS // 8)


def test_good_records_are_read_alike_whether_a_bad_one_is_among_them_or_not() -> None:
    random = np.random.default_rng(4)
    edges = [1, 9, 10, 11, 99, 100, 10**18 - 1, 10**18, 2**63 - 2, 2**63 - 1]
    pins = [*edges, *random.integers(1, 2**63, 500).tolist()]
    offsets = [0, 2**63 - 1, *random.integers(0, 2**63, len(pins) - 2).tolist()]
    good = [upsert(at, pin, offset) for at, (pin, offset) in enumerate(zip(pins, offsets, strict=True))]
    in_one_pass, none = build_code_batch(good, BITS, MODEL)
    one_by_one, one = build_code_batch([*good, upsert(len(good), 1, 1, key=b"2")], BITS, MODEL)
    assert (len(none), len(one)) == (0, 1)
    assert in_one_pass.pin_id.tolist() == pins
    assert in_one_pass.source_offset.tolist() == offsets
    for name in ("pin_id", "source_offset", "event_time_ms", "domain", "flags", "code_NW"):
        read, expected = getattr(in_one_pass, name), getattr(one_by_one, name)
        np.testing.assert_array_equal(read, expected)
        assert read.dtype == expected.dtype


def test_keys_that_look_like_those_of_other_records_are_refused() -> None:
    shifted = [upsert(0, 3, 3), upsert(1, 1, 1, key=b"1\n2"), upsert(2, 2, 2, key=b"")]
    batch, refused = build_code_batch(shifted, BITS, MODEL)
    assert [(one.position, one.reason) for one in refused] == [(1, "key"), (2, "key")]
    assert batch.pin_id.tolist() == [3]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Polled(0, b"1", b""), "length"),
        (Polled(0, b"1", b"\x05" + upsert(0, 1, 1).value_bytes[1:]), "frame"),  # type: ignore[index]
        (upsert(0, 1, 1, model=Fingerprint("cd" * 32)), "model"),
        (upsert(0, 1, 1, key=b"2"), "key"),
        (upsert(0, 1, 1, key=b"01"), "key"),
        (Polled(0, None, upsert(0, 1, 1).value_bytes), "key"),
        (upsert(0, 0, 1), "range"),
        (upsert(0, -5, 1), "range"),
        (upsert(0, 1, -1), "range"),
        (delete(0, None), "key"),
        (delete(0, b""), "key"),
        (delete(0, b"0"), "key"),
        (delete(0, b"01"), "key"),
        (delete(0, b"-1"), "key"),
        (delete(0, b"9223372036854775808"), "key"),
        (delete(0, b"9" * 5000), "key"),
        (delete(0, "\u0661".encode()), "key"),
        (delete(0, b"1", (HEADER_SOURCE_OFFSET, b"-1")), "header"),
        (delete(0, b"1", (HEADER_SOURCE_OFFSET, b"")), "header"),
        (delete(0, b"1", (HEADER_EVENT_TIME, b"1e3")), "header"),
        (delete(0, b"1", (HEADER_SOURCE_OFFSET, None)), "header"),  # type: ignore[arg-type]
        (delete(0, b"1", (HEADER_MODEL, b"cdcdcdcd")), "model"),
    ],
)
def test_a_bad_record_is_refused_alone(bad: Polled, reason: str) -> None:
    batch, refused = build_code_batch([upsert(3, 5, 1), bad, delete(4, b"6"), upsert(5, 7, 2)], BITS, MODEL)
    assert [(one.position, one.reason) for one in refused] == [(1, reason)]
    assert len(refused[0].message) < 250
    assert batch.pin_id.tolist() == [5, 6, 7]


def test_only_the_greatest_source_offset_of_a_pin_counts_and_the_first_of_equals() -> None:
    batch, _ = build_code_batch([upsert(0, 5, 3), upsert(1, 4, 9), upsert(2, 5, 8), upsert(3, 5, 8)], BITS, MODEL)
    newest = newest_per_pin(batch)
    assert newest.pin_id.tolist() == [4, 5]
    assert newest.position.tolist() == [1, 2]
    assert newest.source_offset.tolist() == [9, 8]
    assert not newest.ends_deleted.any()


def test_an_unconditional_tombstone_deletes_what_came_before_it_only() -> None:
    batch, _ = build_code_batch(
        [delete(0, b"1"), upsert(1, 1, 5), upsert(2, 2, 6), delete(3, b"2"), upsert(4, 3, 7)], BITS, MODEL
    )
    newest = newest_per_pin(batch)
    assert newest.pin_id.tolist() == [1, 2, 3]
    assert newest.ends_deleted.tolist() == [False, True, False]
    assert newest.any_unconditional.tolist() == [True, True, False]


def test_columns_are_not_tied_to_the_byte_order_of_the_topic() -> None:
    batch, _ = build_code_batch([upsert(0, 1, 1)], BITS, MODEL)
    assert batch.pin_id.dtype == np.int64
    assert batch.pin_id.dtype.isnative
    assert batch.flags.dtype == np.uint32
