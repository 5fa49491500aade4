"""Checks every Pin: the fold of the Pins topic from zero against the codes topic and against what the index answers."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
from confluent_kafka import Message

from consumers.topic_fold import fold_topic, read_topic
from pinstream.codes import HEADER_SOURCE_OFFSET, Fingerprint, decode_records
from pinstream.errors import BadRecordError
from pinstream.events import Op, parse_event
from pinstream.settings import Settings

_THREADS = 8


@dataclass(slots=True)
class Verdict:
    living: int = 0
    deleted: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Newest:
    source_offset: int
    lives: bool


def verify(settings: Settings, model: Fingerprint, bits: int, urls: Iterable[str]) -> Verdict:
    """Every surviving Pin is in the index with its newest code, no deleted one is, and no effect came twice. Blocks."""
    urls = list(urls)
    verdict = Verdict()
    pins = fold_topic(settings, settings.topics.pins, settings.topics.partitions, _is_event)
    expected = {int(key): _newest(message) for key, message in pins.items()}
    codes = _published(settings, model, bits, expected, verdict)
    living = {pin_id for pin_id, newest in expected.items() if newest.lives}
    verdict.living, verdict.deleted = len(living), len(expected) - len(living)
    with httpx.Client(timeout=10, limits=httpx.Limits(max_connections=_THREADS)) as client:
        hosted = [client.get(f"{url}/info").json()["shards"] for url in urls]
        rows = sum(sum(shards.values()) for shards in hosted)
        if rows != len(living):
            verdict.faults.append(f"the index holds {rows} Pins, expected {len(living)}")

        def check(pin_id: int) -> str | None:
            answer = client.get(f"{urls[pin_id % len(urls)]}/v1/pins/{pin_id}")
            return _compare(pin_id, answer, codes.get(pin_id) if pin_id in living else None, expected[pin_id])

        with ThreadPoolExecutor(_THREADS) as pool:
            verdict.faults += [fault for fault in pool.map(check, expected) if fault is not None]
    return verdict


def _is_event(message: Message) -> bool:
    value = message.value()
    if value is None:
        return True
    try:
        parse_event(message.key(), value)
    except BadRecordError:
        return False
    return True


def _newest(message: Message) -> _Newest:
    value, offset = message.value(), message.offset()
    assert offset is not None
    return _Newest(offset, value is not None and parse_event(message.key(), value).op is Op.UPSERT)


def _published(
    settings: Settings, model: Fingerprint, bits: int, expected: dict[int, _Newest], verdict: Verdict
) -> dict[int, bytes]:
    """Pin id → its newest code on the codes topic; faults are effects that are doubled, missing or stale."""
    seen: set[tuple[int, int]] = set()
    newest: dict[int, tuple[int, bytes | None]] = {}
    for message in read_topic(settings, model.codes_topic, settings.topics.partitions):
        pin_id, value = int(message.key() or b"0"), message.value()
        code: bytes | None = None
        if value is None:
            offset = int(dict(message.headers() or [])[HEADER_SOURCE_OFFSET] or b"-1")
        else:
            records, _, _ = decode_records([value], bits, model)
            offset, code = int(records["source_offset"][0]), records["code"][0].tobytes()
        if (pin_id, offset) in seen:
            verdict.faults.append(f"pin {pin_id}: the effect of offset {offset} was published twice")
        seen.add((pin_id, offset))
        newest[pin_id] = (offset, code)
    for pin_id, wanted in expected.items():
        offset, code = newest.get(pin_id, (-1, None))
        if offset != wanted.source_offset or (code is not None) != wanted.lives:
            verdict.faults.append(f"pin {pin_id}: published up to offset {offset}, expected {wanted.source_offset}")
    return {pin_id: code for pin_id, (_, code) in newest.items() if code is not None}


def _compare(pin_id: int, answer: httpx.Response, code: bytes | None, newest: _Newest) -> str | None:
    if code is None:
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return f"pin {pin_id} is deleted and still in the index"
    if answer.status_code != httpx.codes.OK:
        return f"pin {pin_id} is not in the index ({answer.status_code})"
    held = answer.json()
    if held["source_offset"] != newest.source_offset or base64.b64decode(held["code"]) != code:
        return f"pin {pin_id} is stale in the index: offset {held['source_offset']}, expected {newest.source_offset}"
    return None
