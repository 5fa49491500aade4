"""What must be true of a running pipeline, told from nothing but the topics: a fold of the Pins topic from zero."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import dataclass

import httpx
from confluent_kafka import Message

from consumers.topic_fold import read_topic
from pinstream.codes import HEADER_SOURCE_OFFSET, Fingerprint, decode_records
from pinstream.errors import BadRecordError
from pinstream.events import Op, PinEvent, parse_event, parse_key
from pinstream.settings import Settings
from tests.light_worker import BITS, expected_code


@dataclass(frozen=True)
class Expected:
    """The newest effective event of one Pin: None as code is a delete."""

    partition: int
    source_offset: int
    code: bytes | None


@dataclass(frozen=True)
class BadEvents:
    """Values that can't be embedded, with how often they are on the topic."""

    unreadable: Counter[bytes]
    """Each is a dead letter."""
    imageless: Counter[bytes]
    """Each is a dead letter, unless a delete of its Pin was read with it: then nobody looks at the image."""


def fold_pins(settings: Settings) -> tuple[dict[int, Expected], BadEvents]:
    """Pin id → what the pipeline must hold of it; and what must be dead letters."""
    expected: dict[int, Expected] = {}
    bad = BadEvents(Counter(), Counter())
    for message in read_topic(settings, settings.topics.pins, settings.topics.partitions):
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        try:
            pin_id, code = _effect(message)
        except BadRecordError as error:
            kind = bad.unreadable if error.stage == "parse" else bad.imageless
            kind[message.value() or b""] += 1
            continue
        expected[pin_id] = Expected(partition, offset, code)
    return expected, bad


def _effect(message: Message) -> tuple[int, bytes | None]:
    value = message.value()
    if value is None:
        return parse_key(message.key()), None
    event = parse_event(message.key(), value)
    if event.op is Op.DELETE:
        return event.pin_id, None
    return event.pin_id, _code(event)


def _code(event: PinEvent) -> bytes:
    """Events of these tests carry their image."""
    assert event.image is not None
    header, _, text = event.image.uri.partition(",")
    if not header.startswith("data:"):
        raise BadRecordError("not inline", stage="fetch", reason="test")
    data = base64.b64decode(text)
    signature = event.image.signature
    if signature is not None and not hashlib.sha256(data).hexdigest().startswith(signature):
        raise BadRecordError("signature differs", stage="fetch", reason="test")
    return expected_code(data, event.image.box)


def check_codes(settings: Settings, model: Fingerprint, expected: dict[int, Expected], *, exactly_once: bool) -> None:
    """A read_committed reader of the codes topic sees each Pin's newest effect, in order, and nothing twice."""
    effects: dict[int, list[tuple[int, bytes | None]]] = {}
    for message in read_topic(settings, model.codes_topic, settings.topics.partitions):
        pin_id = parse_key(message.key())
        value = message.value()
        if value is None:
            offset, code = int(dict(message.headers() or [])[HEADER_SOURCE_OFFSET]), None  # type: ignore[arg-type]
        else:
            records, _, refused = decode_records([value], BITS, model)
            assert not refused, refused
            offset, code = int(records["source_offset"][0]), records["code"][0].tobytes()
            assert int(records["pin_id"][0]) == pin_id
        assert message.partition() == expected[pin_id].partition
        effects.setdefault(pin_id, []).append((offset, code))
    for pin_id, seen in effects.items():
        offsets = [offset for offset, _ in seen]
        if exactly_once:
            assert offsets == sorted(set(offsets)), f"pin {pin_id} has an effect twice or out of order: {offsets}"
        assert seen[-1] == (expected[pin_id].source_offset, expected[pin_id].code), f"pin {pin_id} is stale"
    assert effects.keys() == expected.keys()


def check_dead_letters(settings: Settings, bad: BadEvents, *, exactly_once: bool) -> None:
    """Every bad event is a dead letter, byte for byte, and nothing else is; once, if exactly_once."""
    letters: Counter[bytes] = Counter()
    for message in read_topic(settings, settings.topics.dead_letters, settings.topics.partitions):
        letters[message.value() or b""] += 1
    for value, count in bad.unreadable.items():
        assert letters[value] == count if exactly_once else letters[value] >= count, value
    for value, count in letters.items():
        assert value in bad.unreadable or value in bad.imageless, f"a good event is a dead letter: {value[:200]!r}"
        if exactly_once and value in bad.imageless:
            assert count <= bad.imageless[value], value


def check_index(urls: list[str], expected: dict[int, Expected]) -> None:
    """The workers together hold exactly the living Pins, each with its newest code; any of them answers for all."""
    shards: dict[str, int] = {}
    for url in urls:
        hosted = httpx.get(f"{url}/info").json()["shards"]
        assert not shards.keys() & hosted.keys(), "a shard is served twice"
        shards |= hosted
    living = {pin_id: one for pin_id, one in expected.items() if one.code is not None}
    assert sum(shards.values()) == len(living), f"{shards} in the index, expected {len(living)} Pins"
    with httpx.Client(base_url=urls[0]) as client:
        for pin_id, one in living.items():
            held = client.get(f"/v1/pins/{pin_id}").json()
            assert held.get("source_offset") == one.source_offset, f"pin {pin_id}: {held}"
            assert base64.b64decode(held["code"]) == one.code
            assert held["partition"] == one.partition
