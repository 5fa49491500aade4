"""Compiled loops of the writer: rows by Pin id, rows copied out of a batch, Pin ids as text.

They replace a dictionary of Python numbers and some passes over temporary arrays, and need no interpreter's lock: a
writer that holds it stops every search for that long. Look-ups run in passes over short loops whose reads don't wait
for each other, so that their cache misses overlap.

Compiled for this CPU when this module is loaded, then taken from numba's cache.

Shapes: N rows, M wanted or chosen ones, G blocks of B rows, T places of a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit, types

from index_sync.numba_build import Build, compiled
from index_sync.pin_lookup import SPREAD

_Kernel = Callable[..., Any]
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
_DIGITS: Final = 19
"""Of the largest int64."""


@njit(nogil=True, inline="always")
def _place(pin: int, seed: Any, mask: int) -> Any:
    mixed = (np.uint64(pin) ^ seed) * SPREAD
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MIX
    return np.int64(mixed >> np.uint64(32)) & mask


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
    mask = table_T.shape[0] - 1
    for m in range(wanted_M.shape[0]):
        row_M[m] = _place(wanted_M[m], seed, mask)
    for m in range(wanted_M.shape[0]):
        at = row_M[m]
        held = table_T[at]
        while held != 0 and pin_N[held - 1] != wanted_M[m]:
            at = (at + 1) & mask
            held = table_T[at]
        row_M[m] = np.int64(held) - 1


@njit(nogil=True, inline="always")
def _last_not_above(first_G: Any, wanted: int, low: int) -> int:
    """The last block whose first Pin id is ≤ `wanted`, or 0; quick if it lies not far behind `low`."""
    blocks = first_G.shape[0]
    if first_G[low] > wanted:
        low = 0
    high, step = low + 1, 1
    while high < blocks and first_G[high] <= wanted:
        low = high
        high += step
        step *= 2
    high = min(high, blocks)
    while high - low > 1:
        middle = (low + high) // 2
        if first_G[middle] <= wanted:
            low = middle
        else:
            high = middle
    return low


def _find_ascending(pin_N: Any, wanted_M: Any, row_M: Any) -> None:
    """Among rows that ascend by Pin id: the row of each; −1: it isn't there."""
    low = 0
    for m in range(wanted_M.shape[0]):
        low = _last_not_above(pin_N, wanted_M[m], low)
        row_M[m] = low
    for m in range(wanted_M.shape[0]):
        if pin_N[row_M[m]] != wanted_M[m]:
            row_M[m] = -1


def _find_in_blocks(first_G: Any, hash_GB: Any, by_pin_N: Any, pin_N: Any, wanted_M: Any, row_M: Any) -> None:
    """Among rows in any order, by `PinLookup`'s blocks: the row of each; −1: it isn't there."""
    wanted, rows, block_rows = wanted_M.shape[0], pin_N.shape[0], hash_GB.shape[1]
    hash_ = hash_GB.reshape(-1)
    low = 0
    for m in range(wanted):
        low = _last_not_above(first_G, wanted_M[m], low)
        row_M[m] = low
    # A hash agrees by chance too: the candidates of each Pin, usually one or none.
    owner = np.empty(wanted * 2 + block_rows, np.int64)
    candidate = np.empty(wanted * 2 + block_rows, np.int64)
    m = 0
    while m < wanted:
        found = 0
        start = m
        while m < wanted and found <= wanted * 2:
            at = row_M[m] * block_rows
            mark = np.uint8((np.uint64(wanted_M[m]) * SPREAD) >> np.uint64(56))
            for i in range(at, min(at + block_rows, rows)):
                if hash_[i] == mark:
                    owner[found] = m
                    candidate[found] = i
                    found += 1
            m += 1
        for one in range(start, m):
            row_M[one] = -1
        for i in range(found):
            candidate[i] = by_pin_N[candidate[i]]
        for i in range(found):
            if pin_N[candidate[i]] == wanted_M[owner[i]]:
                row_M[owner[i]] = candidate[i]


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


def _write_decimal(pin_N: Any, text: Any) -> Any:
    """Non-negative numbers as decimal lines, a line feed between two; returns the length, at most 20 bytes each."""
    digit = np.empty(_DIGITS, np.uint8)
    end = 0
    for n in range(pin_N.shape[0]):
        if n:
            text[end] = 10
            end += 1
        rest, digits = pin_N[n], 0
        while True:
            quotient = rest // 10
            digit[digits] = 48 + rest - quotient * 10
            digits += 1
            rest = quotient
            if rest == 0:
                break
        while digits:
            digits -= 1
            text[end] = digit[digits]
            end += 1
    return end


@dataclass(frozen=True, slots=True)
class Kernels:
    """Compiled; each releases the interpreter's lock."""

    insert: _Kernel
    bury: _Kernel
    forget: _Kernel
    find_in_table: _Kernel
    find_ascending: _Kernel
    find_in_blocks: _Kernel
    copy_rows: _Kernel
    write_decimal: _Kernel


def _build_all(build: Build) -> Kernels:
    i8, u8, u4, u1 = types.int64, types.uint64, types.uint32, types.uint8

    def read(dtype: Any, layout: Any = "C", dimensions: int = 1) -> Any:
        return types.Array(dtype, dimensions, layout, readonly=True)

    pins = read(i8)
    batch = types.Tuple((*(read(i8, "A"),) * 3, read(u1, "A"), read(u4, "A"), read(u1, "A", 2)))
    log = types.UniTuple(i8[::1], 2)
    columns = types.Tuple((*(i8[::1],) * 3, u1[::1], u4[::1], u1[:, ::1]))
    return Kernels(
        build(_insert, i8(u4[::1], u8, pins, i8, i8)),
        build(_bury, types.void(u4[::1], u8, log, i8[::1], i8, pins, pins)),
        build(_forget, types.void(u4[::1], u8, log, i8[::1], pins)),
        build(_find_in_table, types.void(u4[::1], u8, pins, pins, i8[::1])),
        build(_find_ascending, types.void(pins, pins, i8[::1])),
        build(_find_in_blocks, types.void(pins, read(u1, "C", 2), read(u4), pins, pins, i8[::1])),
        build(_copy_rows, types.void(batch, pins, columns, i8)),
        build(_write_decimal, i8(pins, u1[::1])),
    )


KERNELS: Final = compiled(_build_all)
