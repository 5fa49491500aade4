"""PinEvent: what is taken, what is refused, and that the refusal names the fault."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pinstream.errors import BadRecordError
from pinstream.events import MAX_PIN_ID, Box, Domain, Flag, Image, Op, PinEvent, parse_event, parse_key

GOOD: dict[str, Any] = {
    "pin_id": 7,
    "op": "upsert",
    "event_time": "2026-01-31T12:00:00.250Z",
    "image": {"uri": "https://i.example.com/7.jpg"},
    "domain": "pin",
}


def record(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_parses_an_upsert() -> None:
    event = parse_event(
        b"7", record(flags=["shoppable", "promoted"], image={"uri": "s3://b/k", "signature": "0a" * 32})
    )
    assert event.pin_id == 7
    assert event.event_time == 1_769_860_800_250
    assert event.domain is Domain.PIN
    assert event.flag_bits == 0b101


def test_epoch_milliseconds_and_rfc_3339_are_the_same_moment() -> None:
    offset = parse_event(b"7", record(event_time="2026-01-31T13:00:00.250+01:00"))
    assert offset == parse_event(b"7", record(event_time=1_769_860_800_250))


def test_a_written_event_reads_back_the_same() -> None:
    event = PinEvent(
        pin_id=MAX_PIN_ID,
        op=Op.UPSERT,
        event_time=5,
        image=Image(uri="data:;base64,AA", signature="ab" * 16, box=Box(x=0.25, y=0, width=0.75, height=1)),
        domain=Domain.CAMERA,
        flags=(Flag.SHOPPABLE,),
    )
    assert parse_event(event.key(), event.value()) == event


def test_a_delete_needs_neither_image_nor_domain() -> None:
    assert parse_event(b"7", b'{"pin_id":7,"op":"delete","event_time":1}').op is Op.DELETE


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pin_id": 0}, "pin_id"),
        ({"pin_id": -1}, "pin_id"),
        ({"pin_id": 2**63}, "pin_id"),
        ({"pin_id": "7"}, "pin_id"),
        ({"pin_id": 7.0}, "pin_id"),
        ({"op": "insert"}, "op"),
        ({"event_time": "2026-01-31T12:00:00"}, "with a time zone"),
        ({"event_time": "yesterday"}, "event_time.*yesterday"),
        ({"event_time": -1}, "event_time"),
        ({"event_time": 1e300}, "event_time"),
        ({"image": {"uri": "gopher://x"}}, "gopher"),
        ({"image": {"uri": "https://x", "signature": "xyz"}}, "signature"),
        ({"image": {"uri": "https://x", "box": {"x": 0.6, "y": 0, "width": 0.5, "height": 1}}}, "box"),
        ({"image": {"uri": "https://x", "colour": 1}}, "colour"),
        ({"image": None}, "image is missing"),
        ({"domain": None}, "domain is missing"),
        ({"domain": "poster"}, "domain"),
        ({"flags": ["nice"]}, "flags"),
        ({"surprise": True}, "surprise"),
    ],
)
def test_a_bad_event_is_refused_by_the_name_of_its_fault(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRecordError, match=named) as caught:
        parse_event(b"7", record(**changes))
    assert caught.value.stage == "parse"
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"pin_id": NaN}', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(value: bytes) -> None:
    with pytest.raises(BadRecordError):
        parse_event(b"7", value)


def test_a_key_that_names_another_pin_is_refused() -> None:
    with pytest.raises(BadRecordError, match="key says pin 8 and the value says pin 7"):
        parse_event(b"8", record())


@pytest.mark.parametrize("key", [None, b"", b"0", b"-1", b"07", b"7 ", b"7\n", b"+7", b"9223372036854775808", b"\xff"])
def test_a_key_that_is_no_pin_id_is_refused(key: bytes | None) -> None:
    with pytest.raises(BadRecordError, match="expected a Pin id"):
        parse_key(key)


def test_the_largest_key_is_taken() -> None:
    assert parse_key(b"9223372036854775807") == MAX_PIN_ID
