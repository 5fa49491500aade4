"""What one partition's consecutive code records say, as columns. Pure: takes polled records, no Kafka client.

A record carries the offset of the Pin event that it came from (`source_offset`). Per Pin, only a record with a
greater one than all before counts; an equal one is a duplicate. A tombstone without that header, as kcat writes
one by hand, deletes whatever is there when it comes (`UNCONDITIONAL`).

Shapes: N records, U different Pins among them, W = bits / 8 bytes of code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from index_sync.row_loops import loops
from pinstream.codes import (
    HEADER_EVENT_TIME,
    HEADER_MODEL,
    HEADER_SOURCE_OFFSET,
    Fingerprint,
    RefusedCode,
    decode_records,
    flag_numbers,
    record_dtype,
)
from pinstream.events import MAX_PIN_ID

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

UNCONDITIONAL: Final = -1
"""`source_offset` of a tombstone that names none: it deletes what the shard holds at that point of the topic."""
UNKNOWN_TIME: Final = -1
"""`event_time_ms` of a tombstone that names none."""
_MAX_DIGITS: Final = 19
_Upserts = tuple[npt.NDArray[Any], ...]
"""Columns in `CodeBatch`'s order: Pin id, source offset, event time, domain, flags, code."""


class PolledRecord(Protocol):
    """The part of `confluent_kafka.Message` that is read here; `headers` only of tombstones."""

    def offset(self) -> int | None: ...
    def key(self) -> Any: ...
    def value(self) -> Any: ...
    def headers(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class CodeBatch:
    """One partition's consecutive records in topic order, upserts and tombstones mixed. Immutable."""

    pin_id: Int64s
    """int64 [N]"""
    source_offset: Int64s
    """int64 [N]; ≥ 0, or UNCONDITIONAL for a tombstone without the header."""
    event_time_ms: Int64s
    """int64 [N]; UNKNOWN_TIME for a tombstone without the header."""
    domain: Bytes
    """uint8 [N]"""
    flags: npt.NDArray[np.uint32]
    """uint32 [N], 24 bits."""
    is_delete: Bools
    """bool [N]"""
    code_NW: Bytes
    """uint8 [N, W]; zero where `is_delete`."""
    next_offset: int
    """Offset in the codes topic after the last record: the checkpoint once the batch is applied."""

    def __len__(self) -> int:
        return len(self.pin_id)


@dataclass(frozen=True, slots=True)
class NewestPerPin:
    """What a batch comes to for each Pin in it, whatever the shard holds. Columns of length U, `pin_id` ascending."""

    pin_id: Int64s
    position: npt.NDArray[np.intp]
    """In the batch: the record with the greatest `source_offset`, the first of equals."""
    source_offset: Int64s
    """Of that record; UNCONDITIONAL if the Pin has only unconditional tombstones."""
    ends_deleted: Bools
    """That record is a tombstone, or an unconditional one comes after it."""
    any_unconditional: Bools
    """One of the Pin's records is an unconditional tombstone: it deletes, even if the rest is stale."""
    group: npt.NDArray[np.intp] | None
    """[N] record → its Pin's index; None if every Pin comes once."""


def build_code_batch(
    records: Sequence[PolledRecord], bits: int, model: Fingerprint, next_offset: int | None = None
) -> tuple[CodeBatch, list[RefusedCode]]:
    """N polled records without errors, of one partition, in order → the batch, and the records that are refused.

    A refused record is left out and named by its position in `records`; it never stops the others. `next_offset`
    is the offset after the last record unless given: pass it when the position moved on past control records.
    Never blocks; thread-safe.

    Returns:
        batch: at most N records.
        refused: with `reason` one of `length`, `frame`, `model`, `key`, `range`, `header`.
    """
    if next_offset is None:
        next_offset = 0 if not records else (records[-1].offset() or 0) + 1
    values = [record.value() for record in records]
    keys = [record.key() for record in records]
    refused: list[RefusedCode] = []
    if None in values:
        upsert_at = np.array([i for i, value in enumerate(values) if value is not None], dtype=np.intp)
        delete_at = [i for i, value in enumerate(values) if value is None]
        values = [value for value in values if value is not None]
    else:
        upsert_at, delete_at = np.arange(len(values)), []
    upsert_keys = keys if not delete_at else [keys[i] for i in upsert_at.tolist()]
    upserts = _read_all(values, upsert_keys, bits, model)
    if upserts is None:
        upserts, read_at, wrong = _read_good(values, upsert_keys, bits, model)
        refused += [replace(one, position=int(upsert_at[one.position])) for one in wrong]
        upsert_at = upsert_at[read_at]
    deletes: list[tuple[int, int, int, int]] = []
    for i in delete_at:
        parsed = _parse_delete(i, keys[i], records[i].headers(), model)
        if isinstance(parsed, RefusedCode):
            refused.append(parsed)
        else:
            deletes.append(parsed)
    refused.sort(key=lambda one: one.position)
    return _in_order(upserts, upsert_at, deletes, next_offset), refused


def newest_per_pin(batch: CodeBatch) -> NewestPerPin:
    """Vectorised: what applying the records one by one would come to for each Pin. Never blocks; thread-safe."""
    count = len(batch)
    order = np.argsort(batch.pin_id, kind="stable")
    pin_id = batch.pin_id[order]
    starts_pin = np.ones(count, dtype=bool)
    starts_pin[1:] = pin_id[1:] != pin_id[:-1]
    unconditional = batch.source_offset == UNCONDITIONAL
    if starts_pin.all():
        return NewestPerPin(
            pin_id, order, batch.source_offset[order], batch.is_delete[order], unconditional[order], None
        )
    group = np.empty(count, dtype=np.intp)
    group[order] = np.cumsum(starts_pin) - 1
    # Within a Pin by source offset, then the latest position first: the last one is the greatest, first of equals.
    order = np.lexsort((-np.arange(count), batch.source_offset, batch.pin_id))
    ends_pin = np.append(starts_pin[1:], True)
    position = order[ends_pin]
    last_unconditional = np.full(len(position), -1, dtype=np.intp)
    np.maximum.at(last_unconditional, group[unconditional], np.flatnonzero(unconditional))
    return NewestPerPin(
        pin_id[starts_pin],
        position,
        batch.source_offset[position],
        batch.is_delete[position] | (last_unconditional > position),
        last_unconditional >= 0,
        group,
    )


def _read_all(values: list[bytes], keys: list[Any], bits: int, model: Fingerprint) -> _Upserts | None:
    """All of these records, checked in one compiled pass; None if there is anything to refuse."""
    size = record_dtype(bits).itemsize
    if list(map(len, values)).count(size) < len(values) or None in keys:
        return None
    raw_NB = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, size)
    key_text = np.frombuffer(b"\n".join((*keys, b"")), dtype=np.uint8)
    count = len(values)
    pin_id, source_offset, event_time_ms = (np.empty(count, np.int64) for _ in range(3))
    columns = (pin_id, source_offset, event_time_ms, np.empty(count, np.uint8), np.empty(count, np.uint32))
    if not loops().read_codes(raw_NB, key_text, model.number, columns):
        return None
    return (*columns, raw_NB[:, size - bits // 8 :])


def _read_good(
    values: list[bytes], keys: list[Any], bits: int, model: Fingerprint
) -> tuple[_Upserts, npt.NDArray[np.intp], list[RefusedCode]]:
    """Those records that are good, their positions among the values, and what is wrong with the others."""
    codes, read_at, refused = decode_records(values, bits, model)
    in_range = (codes["pin_id"] >= 1) & (codes["source_offset"] >= 0)
    is_own_key = np.array(
        [keys[i] == b"%d" % pin_id for i, pin_id in zip(read_at.tolist(), codes["pin_id"].tolist(), strict=True)],
        dtype=bool,
    )
    good = in_range & is_own_key
    for i in np.flatnonzero(~good).tolist():
        position, pin_id = int(read_at[i]), codes["pin_id"][i]
        if in_range[i]:
            message = f"code record's key is {_shown(keys[position])}, expected its Pin id {pin_id}"
            refused.append(RefusedCode(position, "key", message))
        else:
            message = (
                f"code record has pin_id {pin_id} and source_offset {codes['source_offset'][i]}, "
                "expected at least 1 and at least 0"
            )
            refused.append(RefusedCode(position, "range", message))
    codes = codes[good]
    numbers = [codes[field].astype(np.int64) for field in ("pin_id", "source_offset", "event_time_ms")]
    return (*numbers, codes["domain"], flag_numbers(codes), codes["code"]), read_at[good], refused


def _parse_delete(position: int, key: Any, headers: Any, model: Fingerprint) -> tuple[int, int, int, int] | RefusedCode:
    """A tombstone → (position, pin_id, source_offset, event_time_ms)."""
    pin_id = _number(key)
    if pin_id is None or not 1 <= pin_id <= MAX_PIN_ID:
        return RefusedCode(position, "key", f"tombstone's key is {_shown(key)}, expected a Pin id from 1 to 2^63-1")
    found = dict(headers or ())
    named_model = found.get(HEADER_MODEL)
    if named_model is not None and named_model != model.hex[:8].encode():
        message = f"tombstone names model {_shown(named_model)}, expected {model.hex[:8]} ({model.short})"
        return RefusedCode(position, "model", message)
    numbers = []
    for name, absent in ((HEADER_SOURCE_OFFSET, UNCONDITIONAL), (HEADER_EVENT_TIME, UNKNOWN_TIME)):
        number = _number(found[name]) if name in found else absent
        if number is None or number > MAX_PIN_ID:
            message = f"tombstone's header {name} is {_shown(found[name])}, expected a decimal number from 0"
            return RefusedCode(position, "header", message)
        numbers.append(number)
    return position, pin_id, numbers[0], numbers[1]


def _number(text: Any) -> int | None:
    """Canonical decimal ASCII bytes → int; None for anything else."""
    if not isinstance(text, bytes) or not text.isdigit() or len(text) > _MAX_DIGITS:
        return None
    return None if len(text) > 1 and text.startswith(b"0") else int(text)


def _shown(value: Any) -> str:
    """A hostile value, short enough for a log line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _in_order(
    upserts: _Upserts, upsert_at: npt.NDArray[np.intp], deletes: list[tuple[int, int, int, int]], next_offset: int
) -> CodeBatch:
    """Upserts and tombstones → a batch in the order of their positions."""
    if not deletes:
        pin_id, source_offset, event_time_ms, domain, flags, code_NW = upserts
        is_delete = np.zeros(len(pin_id), dtype=bool)
        return CodeBatch(pin_id, source_offset, event_time_ms, domain, flags, is_delete, code_NW, next_offset)
    tombs = np.array(deletes, dtype=np.int64)
    order = np.argsort(np.concatenate((upsert_at, tombs[:, 0])), kind="stable")
    is_delete = order >= len(upsert_at)
    merged = [np.zeros((len(order), *column.shape[1:]), dtype=column.dtype) for column in upserts]
    for column, upserted in zip(merged, upserts, strict=True):
        column[~is_delete] = upserted
    for number, column in enumerate(merged[:3], start=1):
        column[is_delete] = tombs[:, number]
    pin_id, source_offset, event_time_ms, domain, flags, code_NW = merged
    return CodeBatch(pin_id, source_offset, event_time_ms, domain, flags, is_delete, code_NW, next_offset)
