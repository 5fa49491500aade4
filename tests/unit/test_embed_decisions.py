"""The embed worker's pure decisions: backpressure, breaker, batch plan, publication."""

from __future__ import annotations

import json

import numpy as np
import pytest

from consumers.backpressure import Backpressure, Flow
from embedder.batch_plan import plan_batch
from embedder.breaker import Breaker
from embedder.pin_work import Outcome, PinWork, supersede_deleted
from embedder.publication import PublicationPlan
from pinstream.codes import HEADER_SOURCE_OFFSET, Fingerprint, decode_records
from pinstream.errors import BadRecordError, FatalError

MODEL = Fingerprint("ab" * 32)
BITS = 256
PLAN = PublicationPlan(MODEL, BITS, 1, "pins.v1", "pins.v1.dlq")


def work(
    offset: int, pin_id: int = 1, *, op: str = "upsert", signature: str | None = None, box: bool = False
) -> PinWork:
    event: dict[str, object] = {"pin_id": pin_id, "op": op, "event_time": 1000 + offset}
    if op == "upsert":
        image: dict[str, object] = {"uri": "data:,x"}
        if signature:
            image["signature"] = signature
        if box:
            image["box"] = {"x": 0.0, "y": 0.0, "width": 0.5, "height": 0.5}
        event |= {"image": image, "domain": "product", "flags": ["shoppable"]}
    made = PinWork(0, offset, 0, b"%d" % pin_id, json.dumps(event).encode())
    made.parse()
    return made


def embedded(offset: int, pin_id: int = 1) -> PinWork:
    made = work(offset, pin_id)
    made.finish(Outcome.EMBEDDED, bytes([offset]) * (BITS // 8))
    return made


def dead(offset: int, pin_id: int = 1) -> PinWork:
    made = work(offset, pin_id)
    made.fail(BadRecordError("no image", stage="fetch", reason="not_found"))
    return made


def test_a_full_flight_waits_and_only_one_that_stays_full_pauses() -> None:
    flow = Backpressure(max_records=100, max_bytes=1000)
    assert flow.decide(99, 999, now_s=0) is Flow.POLL
    assert flow.decide(100, 0, now_s=1) is Flow.WAIT
    assert flow.decide(0, 1000, now_s=1.9) is Flow.WAIT
    assert flow.decide(99, 999, now_s=1.95) is Flow.POLL
    assert flow.decide(100, 0, now_s=2.1) is Flow.WAIT
    assert flow.decide(100, 0, now_s=3.2) is Flow.PAUSE
    assert flow.decide(51, 0, now_s=4) is Flow.POLL
    assert flow.decide(50, 501, now_s=5) is Flow.POLL
    assert flow.paused
    assert flow.decide(50, 500, now_s=6) is Flow.RESUME
    assert flow.decide(100, 0, now_s=7) is Flow.WAIT
    assert (flow.room(30), flow.room(200)) == (70, 0)


def test_the_breaker_counts_bad_records_in_a_row_and_deletes_as_neither() -> None:
    breaker = Breaker(3).after([dead(0), dead(1), embedded(2), dead(3), work(4, op="delete"), dead(5)])
    assert breaker.bad_in_a_row == 2
    with pytest.raises(FatalError, match="3 records in a row could not be embedded, the last one because: no image"):
        breaker.after([dead(6)])
    assert breaker.bad_in_a_row == 2


def test_a_delete_later_in_the_poll_spares_the_image() -> None:
    works = [work(0), work(1, pin_id=2), work(2, op="delete"), work(3)]
    supersede_deleted(works)
    assert [w.outcome for w in works] == [Outcome.SUPERSEDED, None, Outcome.DELETED, None]


def test_a_batch_plan_embeds_each_pin_and_each_image_once() -> None:
    one, two = "11" * 16, "22" * 16
    works = [work(0, 1, signature=one), work(1, 2, signature=two), work(2, 1, signature=two), work(3, 3), work(4, 4)]
    plan = plan_batch(works)
    assert [[w.offset for w in group] for group in plan.groups] == [[1, 2], [3], [4]]
    assert [(older.offset, newer.offset) for older, newer in plan.superseded] == [(0, 2)]


def test_another_crop_of_an_image_is_another_image() -> None:
    plan = plan_batch([work(0, 1, signature="11" * 16), work(1, 2, signature="11" * 16, box=True)])
    assert len(plan.groups) == 2


def test_publishes_the_last_effect_of_each_pin_and_every_dead_letter() -> None:
    works = [embedded(0, 1), embedded(1, 2), dead(2, 1), work(3, 2, op="delete"), embedded(4, 1)]
    outgoing, outcomes = PLAN.outgoing(works)
    codes = [value for topic, _, _, value, _ in outgoing if topic == MODEL.codes_topic and value is not None]
    records, _, refused = decode_records(codes, BITS, MODEL)
    assert not refused
    assert records["source_offset"].tolist() == [4]
    assert records["pin_id"].tolist() == [1]
    assert records["domain"].tolist() == [2]
    assert records["flags"].tolist() == [[0, 0, 1]]
    assert np.array_equal(records["code"][0], np.full(BITS // 8, 4, np.uint8))
    _, _, key, _, headers = next(record for record in outgoing if record[3] is None)
    assert key == b"2"
    assert dict(headers or [])[HEADER_SOURCE_OFFSET] == b"3"
    letters = [value for topic, _, _, value, _ in outgoing if topic == "pins.v1.dlq"]
    assert letters == [works[2].value]
    assert outcomes == {Outcome.SUPERSEDED: 2, Outcome.DEAD_LETTER: 1, Outcome.DELETED: 1, Outcome.EMBEDDED: 1}


def test_a_dead_letter_says_where_it_came_from_and_why() -> None:
    letter = PLAN.outgoing([dead(7, 5)])[0][0]
    headers = dict(letter[4] or [])
    assert headers["__connect.errors.topic"] == b"pins.v1"
    assert headers["__connect.errors.offset"] == b"7"
    assert headers["__connect.errors.stage"] == b"FETCH"
    assert headers["__connect.errors.exception.message"] == b"no image"
    assert headers["pinstream.model"] == MODEL.hex.encode()
    assert headers["pinstream.attempts"] == b"1"


def test_a_dead_letter_keeps_the_headers_that_it_came_with() -> None:
    made = dead(1)
    made.headers = [("trace", b"abc"), ("none", None)]  # type: ignore[list-item]  # Kafka allows null header values
    assert (PLAN.outgoing([made])[0][0][4] or [])[:2] == [("trace", b"abc"), ("none", None)]
