"""Compiled loops of the writer: rows by Pin id, rows copied out of a batch, records read.

They replace a dictionary of Python numbers and some passes over temporary arrays, and need no interpreter's lock: a
writer that holds it stops every search for that long. Look-ups run in passes over short loops whose reads don't wait
for each other, so that their cache misses overlap.

Compiled for this CPU when this module is loaded, then taken from numba's cache.

Shapes: N rows, M wanted or chosen ones, T places of a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit, types

from index_sync.numba_build import Build, compiled, prefetch
from pinstream.codes import MAGIC, MIN_BITS, record_dtype

_Kernel = Callable[..., Any]
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)
"""2^64 ÷ the golden ratio: multiplied by it, ids that follow one another, or end alike, differ in their top bits."""
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
_DIGITS: Final = 19
"""Of the largest int64."""


def _field(name: str) -> tuple[int, int]:
    """Where a field of a code record begins, and its bytes; the code, which is last, has as many as it has."""
    fields = record_dtype(MIN_BITS).fields
    assert fields is not None
    return fields[name][1], fields[name][0].itemsize


_PIN_ID: Final = _field("pin_id")
_SOURCE_OFFSET: Final = _field("source_offset")
_EVENT_TIME: Final = _field("event_time_ms")
_MODEL: Final = _field("model")
_DOMAIN: Final = _field("domain")
_FLAGS: Final = _field("flags")


@njit(nogil=True, inline="always")
def _mixed(pin: int, seed: Any) -> Any:
    mixed = (np.uint64(pin) ^ seed) * _SPREAD
    return (mixed ^ (mixed >> np.uint64(32))) * _MIX


@njit(nogil=True, inline="always")
def _place(pin: int, seed: Any, mask: int) -> Any:
    return np.int64(_mixed(pin, seed) >> np.uint64(32)) & mask


@njit(nogil=True, inline="always")
def _slot(table_T: Any, seed: Any, pin_N: Any, pin: int) -> Any:
    """Where in the table this Pin's row is, or would come."""
    mask = table_T.shape[0] - 1
    at = _place(pin, seed, mask)
    while table_T[at] != 0 and pin_N[table_T[at] - 1] != pin:
        at = (at + 1) & mask
    return at


def _insert(table_T: Any, seed: Any, pin_N: Any, first: int, end: int) -> Any:
    """Rows `first` … `end` − 1 into an open table of row + 1; a Pin's later row replaces its earlier one.

    Returns how many places were taken anew. The table must have a free place for each.
    """
    taken = 0
    for row in range(first, end):
        at = _slot(table_T, seed, pin_N, pin_N[row])
        taken += table_T[at] == 0
        table_T[at] = row + 1
    return taken


def _find_in_table(table_T: Any, seed: Any, pin_N: Any, wanted_M: Any, row_M: Any) -> None:
    """The row of each Pin; −1: it isn't there."""
    for m in range(wanted_M.shape[0]):
        row_M[m] = np.int64(table_T[_slot(table_T, seed, pin_N, wanted_M[m])]) - 1


@njit(nogil=True, inline="always")
def _tagged(pin: int, seed: Any, places: int, row_bits: int) -> Any:
    """Where a Pin's word is looked for first, and its tag, in the bits above the row's."""
    mixed = _mixed(pin, seed)
    at = np.int64(((mixed >> np.uint64(32)) * np.uint64(places)) >> np.uint64(32))
    tag = np.uint32(mixed & np.uint64(0xFFFFFFFF)) >> np.uint32(row_bits) << np.uint32(row_bits)
    return at, tag


def _build_tagged(table_T: Any, seed: Any, row_bits: int, pin_N: Any) -> Any:
    """Words of tag and row + 1 into an empty open table; 1: a Pin comes twice."""
    places, row_mask = table_T.shape[0], (np.int64(1) << row_bits) - 1
    for n in range(pin_N.shape[0]):
        at, tag = _tagged(pin_N[n], seed, places, row_bits)
        while table_T[at] != 0:
            held = np.int64(table_T[at])
            if held & ~row_mask == np.int64(tag) and pin_N[(held & row_mask) - 1] == pin_N[n]:
                return 1
            at = at + 1 if at + 1 < places else 0
        table_T[at] = tag | np.uint32(n + 1)
    return 0


def _find_tagged(table_T: Any, seed: Any, row_bits: int, pin_N: Any, wanted_M: Any, row_M: Any) -> None:
    """The row of each Pin by a table that `_build_tagged` made; −1: it isn't there."""
    places, row_mask = table_T.shape[0], (np.int64(1) << row_bits) - 1
    wanted = wanted_M.shape[0]
    tag_M = np.empty(wanted, np.uint32)
    for m in range(wanted):
        row_M[m], tag_M[m] = _tagged(wanted_M[m], seed, places, row_bits)
        prefetch(table_T, row_M[m])
    place_M = np.empty(wanted, np.int64)
    for m in range(wanted):  # the first word of that tag; its row is probably the one
        at, tag = row_M[m], np.int64(tag_M[m])
        while table_T[at] != 0 and np.int64(table_T[at]) & ~row_mask != tag:
            at = at + 1 if at + 1 < places else 0
        place_M[m] = at
        row_M[m] = (np.int64(table_T[at]) & row_mask) - 1
        if row_M[m] >= 0:
            prefetch(pin_N, row_M[m])
    for m in range(wanted):
        at = place_M[m]
        while row_M[m] >= 0 and pin_N[row_M[m]] != wanted_M[m]:
            at = at + 1 if at + 1 < places else 0
            while table_T[at] != 0 and np.int64(table_T[at]) & ~row_mask != np.int64(tag_M[m]):
                at = at + 1 if at + 1 < places else 0
            row_M[m] = (np.int64(table_T[at]) & row_mask) - 1


def _take_living(rows: Any, alive: int, missing_M: Any, known_U: Any, pin_M: Any) -> Any:
    """Of the Pins that are missing, which live in a segment: their offsets are noted, and they are missing no more.

    Args:
        rows: the row of each missing Pin, −1 for none; each row's death and source offset. Found rows move to the
            front of the first.
        missing_M: Pins, as places in `known_U`; those that stay missing move to the front.
        known_U: the source offset that is known of each Pin, and whether it lives.
        pin_M: gets the Pins of the found rows.

    Returns how many are found.
    """
    row_M, died_at, source_offset = rows
    offset_U, lives_U = known_U
    for m in range(row_M.shape[0]):
        if row_M[m] >= 0:
            prefetch(died_at, row_M[m])
            prefetch(source_offset, row_M[m])
    found, left = 0, 0
    for m in range(row_M.shape[0]):
        row, pin = row_M[m], missing_M[m]
        if row >= 0 and np.int64(died_at[row]) == alive:
            offset_U[pin], lives_U[pin] = source_offset[row], True
            pin_M[found], row_M[found] = pin, row
            found += 1
        else:
            missing_M[left] = pin
            left += 1
    return found


def _bury(table_T: Any, seed: Any, log: Any, state: Any, capacity: int, pin_M: Any, offset_M: Any) -> None:
    """`Graveyard.bury`: log is (Pin ids, source offsets; −1: no longer), state (first, end, how many count)."""
    pin_L, offset_L = log
    for m in range(pin_M.shape[0]):
        if offset_M[m] < 0:
            continue
        if state[1] == pin_L.shape[0]:  # full: the rows that count move to its begin
            kept = 0
            for row in range(state[0], state[1]):
                if offset_L[row] >= 0:
                    pin_L[kept], offset_L[kept] = pin_L[row], offset_L[row]
                    kept += 1
            state[0], state[1] = 0, kept
            table_T[:] = 0
            for row in range(kept):
                table_T[_slot(table_T, seed, pin_L, pin_L[row])] = row + 1
        at = _slot(table_T, seed, pin_L, pin_M[m])
        if table_T[at] != 0 and offset_L[table_T[at] - 1] >= 0:
            offset_L[table_T[at] - 1] = -1
            state[2] -= 1
        row = state[1]
        pin_L[row], offset_L[row] = pin_M[m], offset_M[m]
        table_T[at] = row + 1
        state[1] += 1
        state[2] += 1
        while state[2] > capacity:
            if offset_L[state[0]] >= 0:
                offset_L[state[0]] = -1
                state[2] -= 1
            state[0] += 1


def _forget(table_T: Any, seed: Any, log: Any, state: Any, pin_M: Any) -> None:
    """`Graveyard.forget`."""
    pin_L, offset_L = log
    for m in range(pin_M.shape[0]):
        held = table_T[_slot(table_T, seed, pin_L, pin_M[m])]
        if held != 0 and offset_L[held - 1] >= 0:
            offset_L[held - 1] = -1
            state[2] -= 1


def _copy_rows(source: Any, chosen_M: Any, to: Any, start: int) -> None:
    """Chosen rows of columns, in `CodeRows`' order → rows `start` … of other columns."""
    pin_id, source_offset, event_time_ms, domain, flags, code_NW = source
    to_pin_id, to_source_offset, to_event_time_ms, to_domain, to_flags, to_code_NW = to
    width = code_NW.shape[1]
    for m in range(chosen_M.shape[0]):
        n, row = chosen_M[m], start + m
        to_pin_id[row] = pin_id[n]
        to_source_offset[row] = source_offset[n]
        to_event_time_ms[row] = event_time_ms[n]
        to_domain[row] = domain[n]
        to_flags[row] = flags[n]
        for i in range(width):
            to_code_NW[row, i] = code_NW[n, i]


@njit(nogil=True, inline="always")
def _big_endian(raw_NB: Any, n: int, field: Any) -> Any:
    first, size = field
    number = np.uint64(0)
    for i in range(size):
        number = number << np.uint64(8) | np.uint64(raw_NB[n, first + i])
    return np.int64(number)


def _read_codes(raw_NB: Any, key_text: Any, model: int, columns: Any) -> Any:
    """Framed records of the right length and their keys, a line feed after each → columns, in `CodeRows`' order.

    1 if every record is one of this model whose numbers are in range and whose key is its Pin id in decimal digits.
    """
    pin_id, source_offset, event_time_ms, domain, flags = columns
    digit = np.empty(_DIGITS, np.uint8)
    end = key_text.shape[0]
    at = 0
    for n in range(raw_NB.shape[0]):
        pin = _big_endian(raw_NB, n, _PIN_ID)
        pin_id[n], source_offset[n] = pin, _big_endian(raw_NB, n, _SOURCE_OFFSET)
        event_time_ms[n] = _big_endian(raw_NB, n, _EVENT_TIME)
        domain[n] = raw_NB[n, _DOMAIN[0]]
        flags[n] = _big_endian(raw_NB, n, _FLAGS)
        framed = raw_NB[n, 0] == MAGIC and _big_endian(raw_NB, n, _MODEL) == model
        if not framed or pin < 1 or source_offset[n] < 0:
            return 0
        digits = 0
        while pin:
            quotient = pin // 10
            digit[digits] = 48 + pin - quotient * 10
            digits += 1
            pin = quotient
        if at + digits >= end or key_text[at + digits] != 10:
            return 0
        for i in range(digits):
            if key_text[at + i] != digit[digits - 1 - i]:
                return 0
        at += digits + 1
    return at == end


@dataclass(frozen=True, slots=True)
class Kernels:
    """Compiled; each releases the interpreter's lock."""

    insert: _Kernel
    bury: _Kernel
    forget: _Kernel
    find_in_table: _Kernel
    build_tagged: _Kernel
    find_tagged: _Kernel
    take_living: _Kernel
    copy_rows: _Kernel
    read_codes: _Kernel


def _build_all(build: Build) -> Kernels:
    i8, u8, u4, u1 = types.int64, types.uint64, types.uint32, types.uint8

    def read(dtype: Any, layout: Any = "C", dimensions: int = 1) -> Any:
        return types.Array(dtype, dimensions, layout, readonly=True)

    pins = read(i8)
    batch = types.Tuple((*(read(i8, "A"),) * 3, read(u1, "A"), read(u4, "A"), read(u1, "A", 2)))
    log = types.UniTuple(i8[::1], 2)
    known = types.Tuple((i8[::1], types.boolean[::1]))
    columns = types.Tuple((*(i8[::1],) * 3, u1[::1], u4[::1], u1[:, ::1]))
    return Kernels(
        build(_insert, i8(u4[::1], u8, pins, i8, i8)),
        build(_bury, types.void(u4[::1], u8, log, i8[::1], i8, pins, pins)),
        build(_forget, types.void(u4[::1], u8, log, i8[::1], pins)),
        build(_find_in_table, types.void(u4[::1], u8, pins, pins, i8[::1])),
        build(_build_tagged, i8(u4[::1], u8, i8, pins)),
        build(_find_tagged, types.void(u4[::1], u8, i8, pins, pins, i8[::1])),
        build(_take_living, i8(types.Tuple((i8[::1], u4[::1], pins)), i8, i8[::1], known, i8[::1])),
        build(_copy_rows, types.void(batch, pins, columns, i8)),
        build(_read_codes, i8(read(u1, "C", 2), read(u1), i8, types.Tuple((*(i8[::1],) * 3, u1[::1], u4[::1])))),
    )


KERNELS: Final = compiled(_build_all)
