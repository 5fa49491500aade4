"""What goes between nodes comes out as it went in, and nothing else comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_sync.leaf_messages import (
    HIT,
    MAX_MESSAGE_BYTES,
    BadMessageError,
    LeafFound,
    LeafQuery,
    PinFound,
    PinQuery,
    merge_hits,
    read_found,
    read_pin_found,
    read_pin_query,
    read_query,
    write_found,
    write_pin_found,
    write_pin_query,
    write_query,
)
from index_sync.search_protocol import ShardState
from index_sync.segment import SearchFilter

BITS = 256
MODEL = "ab" * 32
CODE_W = np.arange(BITS // 8, dtype=np.uint8)
FILTERS = [None, SearchFilter(), SearchFilter(frozenset({0, 2}), 5), SearchFilter(frozenset()), SearchFilter(None, 1)]


def query(**given: object) -> LeafQuery:
    fields = {"model": MODEL, "code_W": CODE_W, "k": 10, "partitions": (0, 3), "where": None, "effort": None}
    return LeafQuery(**{"min_offset": {3: 77}} | fields | given)  # type: ignore[arg-type]  # a test's short cut


def state(partition: int) -> ShardState:
    return ShardState(partition=partition, checkpoint=5, pins=2, newest_event_ms=None, lag_records=0, lag_seconds=0.0)


def hits(*rows: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(list(rows), dtype=HIT)


@pytest.mark.parametrize("where", FILTERS)
def test_a_query_comes_out_as_it_went_in(where: SearchFilter | None) -> None:
    sent = query(where=where)
    got = read_query(write_query(sent), BITS)
    assert (got.model, got.k, got.partitions, got.where, got.min_offset) == (MODEL, 10, (0, 3), where, {3: 77})
    assert np.array_equal(got.code_W, CODE_W)


def test_an_answer_comes_out_as_it_went_in() -> None:
    sent = LeafFound(MODEL, hits((2**63 - 1, 256, 2**24 - 1, 2), (1, 0, 0, 0)), (state(0),), {3: 4})
    got = read_found(write_found(sent), query(), BITS)
    assert np.array_equal(got.hits, sent.hits)
    assert (got.model, got.shards, got.behind, got.partitions) == (MODEL, sent.shards, {3: 4}, frozenset({0}))


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (LeafFound(MODEL, hits((0, 1, 0, 0)), (state(0),), {}), "1 hits out of range"),
        (LeafFound(MODEL, hits((1, -1, 0, 0)), (state(0),), {}), "out of range"),
        (LeafFound(MODEL, hits((1, BITS + 1, 0, 0)), (state(0),), {}), "out of range"),
        (LeafFound(MODEL, hits((1, 1, 2**24, 0)), (state(0),), {}), "out of range"),
        (LeafFound(MODEL, hits((1, 1, 0, 3)), (state(0),), {}), "out of range"),
        (LeafFound(MODEL, hits(*[(i + 1, 1, 0, 0) for i in range(11)]), (state(0),), {}), "expected up to 10"),
        (LeafFound(MODEL, hits(), (state(1),), {}), "asked for"),
        (LeafFound(MODEL, hits(), (state(0), state(0)), {}), "asked for"),
        (LeafFound(MODEL, hits(), (state(3),), {3: 1}), "asked for"),
    ],
)
def test_an_answer_to_another_question_is_refused(found: LeafFound, named: str) -> None:
    with pytest.raises(BadMessageError, match=named):
        read_found(write_found(found), query(), BITS)


def test_a_pin_look_up_comes_out_as_it_went_in() -> None:
    asked = PinQuery(MODEL, 7, (1, 2))
    assert read_pin_query(write_pin_query(asked)) == asked
    found = PinFound(MODEL, frozenset({2}), None)
    assert read_pin_found(write_pin_found(found), asked) == found
    with pytest.raises(BadMessageError, match="asked for"):
        read_pin_found(write_pin_found(PinFound(MODEL, frozenset({4}), None)), asked)


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_no_bytes_do_more_than_be_refused(noise: bytes, at: int, byte: int) -> None:
    frames = [noise, len(noise).to_bytes(4, "big") + noise]
    for good in (write_query(query()), write_found(LeafFound(MODEL, hits((1, 1, 0, 0)), (state(0),), {}))):
        damaged = bytearray(good)
        damaged[at % len(good)] = byte
        frames += [bytes(damaged), good[: at % len(good)]]
    for frame in frames:
        for read in (lambda f: read_query(f, BITS), lambda f: read_found(f, query(), BITS), read_pin_query):
            try:
                read(frame)
            except BadMessageError:
                continue


def test_a_message_over_the_bound_is_refused_unread() -> None:
    with pytest.raises(BadMessageError, match="bytes"):
        read_query(bytes(MAX_MESSAGE_BYTES + 1), BITS)


def test_hits_merge_by_distance_then_pin_id() -> None:
    merged = merge_hits([hits((5, 2, 0, 0), (1, 3, 0, 0)), hits((4, 2, 0, 0), (9, 1, 0, 0)), hits()], 3)
    assert merged["pin_id"].tolist() == [9, 4, 5]
    assert len(merge_hits([], 3)) == 0
