"""Compiled loops that count differing bits: scans of rows and of inverted lists, and distances to centroids.

A block of rows that lives and matches is chosen first and then met by every query, so the rows come from memory once
and dead ones never. Distances are counted 32 bytes at a time (`llvm.ctpop`: two table look-ups with AVX2, one
instruction with AVX-512 or NEON). Each query keeps its k nearest in a heap whose root is the worst, by (distance, Pin
id): no two rows are equal, so what is found does not depend on the order of the rows.

Compiled for this CPU when this module is loaded: ~6 s the first time, ~0.2 s from numba's cache after that.

Shapes: N rows, Q queries, K places, C lists, D = bits / 64 words of code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from index_sync.numba_build import Build, compiled, declared, prefetch

_BLOCK: Final = 64
"""Rows chosen at once: 16 KiB of codes at 2048 bits, half of a small first-level cache."""
_AHEAD: Final = 16
"""Rows that are asked for before they are needed: 4 KiB at 2048 bits, where the processor's own prefetching stops."""
_BEGIN: Final = 8
"""Rows of the next list that are asked for while this one is read."""
_LINE_WORDS: Final = 8
"""Words of a cache line."""
_ASSIGNED: Final = 16
"""Codes that are compared with the same centroid while it is at hand."""
_PAD_DISTANCE: Final = 2**31 - 1
_Kernel = Callable[..., Any]


def _differing_bits(vectors: int) -> _Kernel:
    """Compiles to: bits in which 32 × `vectors` bytes of two arrays differ, from word i of a and word j of b on."""
    assert vectors <= 31, "sums of a byte's bits must fit into a byte"
    lanes = 32
    byte_L, int_L = ir.VectorType(ir.IntType(8), lanes), ir.VectorType(ir.IntType(32), lanes)

    @intrinsic
    def differing(_context: Any, a: Any, i: Any, b: Any, j: Any) -> Any:  # noqa: ARG001 (numba reads the names)
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def at(number: int) -> Any:
                array = context.make_array(signature.args[number])(context, builder, args[number])
                return builder.bitcast(builder.gep(array.data, [args[number + 1]]), byte_L.as_pointer())

            count = declared(builder, byte_L, [byte_L], f"llvm.ctpop.v{lanes}i8")
            add_up = declared(builder, ir.IntType(32), [int_L], f"llvm.vector.reduce.add.v{lanes}i32")
            left, right = at(0), at(2)
            total = None
            for vector in range(vectors):
                place = [ir.Constant(ir.IntType(64), vector)]
                pair = [builder.load(builder.gep(side, place), align=1) for side in (left, right)]
                ones = builder.call(count, [builder.xor(*pair)])
                total = ones if total is None else builder.add(total, ones)
            return builder.call(add_up, [builder.zext(total, int_L)])

        return types.int32(a, types.intp, b, types.intp), generate

    return differing


def _counted_bits() -> _Kernel:
    """Compiles to: the bits of a word that are set."""

    @intrinsic
    def ones(_context: Any, word: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.ctpop(args[0])

        return types.uint64(word), generate

    return ones


_ones = _counted_bits()
_differ_32 = _differing_bits(8)
_differ_8 = _differing_bits(2)


@njit(nogil=True, inline="always")
def _distance(a: Any, i: int, b: Any, j: int, words: int) -> Any:
    distance = np.int32(0)
    word = 0
    while word + 32 <= words:
        distance += _differ_32(a, i + word, b, j + word)
        word += 32
    while word + 8 <= words:
        distance += _differ_8(a, i + word, b, j + word)
        word += 8
    while word < words:
        distance += np.int32(_ones(a[i + word] ^ b[j + word]))
        word += 1
    return distance


@njit(nogil=True)
def _replace_worst(distance_K: Any, pin_K: Any, distance: Any, pin: Any) -> None:
    """Puts a row in the place of the heap's root."""
    places = distance_K.shape[0]
    place = 0
    while True:
        worse = 2 * place + 1
        if worse >= places:
            break
        other = worse + 1
        if other < places and (
            distance_K[other] > distance_K[worse]
            or (distance_K[other] == distance_K[worse] and pin_K[other] > pin_K[worse])
        ):
            worse = other
        if distance_K[worse] < distance or (distance_K[worse] == distance and pin_K[worse] < pin):
            break
        distance_K[place], pin_K[place] = distance_K[worse], pin_K[worse]
        place = worse
    distance_K[place], pin_K[place] = distance, pin


@njit(nogil=True)
def _choose(row_R: Any, columns: Any, terms: Any, first: int, end: int) -> int:
    """Which rows live and match: writes them into `row_R`, returns how many."""
    _, died_at, domain, flags = columns
    sequence, filtered, domains, required = terms
    chosen = 0
    for row in range(first, end):
        good = np.int64(died_at[row]) > sequence
        if filtered:
            good &= (domains[domain[row]] != 0) & ((np.int64(flags[row]) & required) == required)
        row_R[chosen] = row
        chosen += good
    return chosen


@njit(nogil=True, inline="always")
def _ask(code: Any, words: int, row: int) -> None:
    """Have the processor bring a row into its caches."""
    for word in range(0, words, _LINE_WORDS):
        prefetch(code, row * words + word)


@njit(nogil=True, inline="always")
def _offer(
    query: Any,
    query_at: int,
    code: Any,
    words: int,
    row_R: Any,
    chosen: int,
    pin_id: Any,
    distance_K: Any,
    pin_K: Any,
    asked_end: int,
) -> None:
    """Put each chosen row into a query's heap, if it belongs there. Those to come before `asked_end` are asked for."""
    worst = distance_K[0]
    for i in range(chosen):
        row = row_R[i]
        if row + _AHEAD < asked_end:
            _ask(code, words, row + _AHEAD)
        distance = _distance(query, query_at, code, row * words, words)
        if distance < worst or (distance == worst and pin_id[row] < pin_K[0]):
            _replace_worst(distance_K, pin_K, distance, pin_id[row])
            worst = distance_K[0]


def _scan_rows(
    query_QD: Any,
    code_ND: Any,
    columns: Any,
    terms: Any,
    first: int,
    end: int,
    distance_QK: Any,
    pin_QK: Any,
) -> None:
    """Offer the rows `first` … `end` − 1 to every query's heap."""
    queries, words = query_QD.shape
    query, code = query_QD.reshape(-1), code_ND.reshape(-1)
    row_R = np.empty(_BLOCK, np.int64)
    for start in range(first, end, _BLOCK):
        chosen = _choose(row_R, columns, terms, start, min(start + _BLOCK, end))
        for q in range(queries):
            asked_end = end if q == 0 else 0  # the others meet what the first has brought
            _offer(query, q * words, code, words, row_R, chosen, columns[0], distance_QK[q], pin_QK[q], asked_end)


@njit(nogil=True, inline="always")
def _rows_of_list(list_end_C: Any, cell: int) -> Any:
    """The first row of a list, and the one after its last."""
    return list_end_C[cell - 1] if cell else 0, list_end_C[cell]


def _scan_lists(
    query_QD: Any,
    code_ND: Any,
    columns: Any,
    terms: Any,
    list_end_C: Any,
    cell_QC: Any,
    share: Any,
    distance_QK: Any,
    pin_QK: Any,
) -> None:
    """Offer the rows of some lists to the heaps of some queries.

    Args:
        cell_QC: the lists of each query, −1 after the last.
        share: (first query, end, first place in `cell_QC`, step from place to place).
    """
    first_query, end_query, first_place, step = share
    words = query_QD.shape[1]
    query, code = query_QD.reshape(-1), code_ND.reshape(-1)
    row_R = np.empty(_BLOCK, np.int64)
    for q in range(first_query, end_query):
        for place in range(first_place, cell_QC.shape[1], step):
            cell = cell_QC[q, place]
            if cell < 0:
                break
            if place + step < cell_QC.shape[1] and cell_QC[q, place + step] >= 0:
                first, end = _rows_of_list(list_end_C, cell_QC[q, place + step])
                prefetch(columns[1], first)
                for row in range(first, min(first + _BEGIN, end)):
                    _ask(code, words, row)
            first, end = _rows_of_list(list_end_C, cell)
            for start in range(first, end, _BLOCK):
                chosen = _choose(row_R, columns, terms, start, min(start + _BLOCK, end))
                _offer(query, q * words, code, words, row_R, chosen, columns[0], distance_QK[q], pin_QK[q], end)


def _choose_lists(query_QD: Any, centroid_CD: Any, margin: int, probes: int, cell_QC: Any) -> None:
    """The lists that each query reads, nearest first and −1 after them.

    Those at most `margin` farther than the nearest; with `probes` > 0 that many, and all as near as the last of them.
    """
    queries, words = query_QD.shape
    lists = centroid_CD.shape[0]
    query, centroid = query_QD.reshape(-1), centroid_CD.reshape(-1)
    distance_C = np.empty(lists, np.int32)
    until_B = np.empty(64 * words + 2, np.int64)
    for q in range(queries):
        until_B[:] = 0
        for cell in range(lists):
            distance_C[cell] = _distance(query, q * words, centroid, cell * words, words)
            until_B[distance_C[cell] + 1] += 1
        limit, nearer = -1, 0
        for distance in range(64 * words + 1):
            here = until_B[distance + 1]
            if here and limit < 0 and not probes:
                limit = min(distance + margin, 64 * words)
            until_B[distance] = nearer
            nearer += here
            if probes and limit < 0 and nearer >= probes:
                limit = distance
        cell_QC[q, :] = -1
        for cell in range(lists):
            distance = distance_C[cell]
            if distance <= limit:
                cell_QC[q, until_B[distance]] = cell
                until_B[distance] += 1


def _nearest(code_ND: Any, centroid_CD: Any, cell_N: Any) -> None:
    """The nearest centroid of each code, the lower number of equals."""
    codes, words = code_ND.shape
    code, centroid = code_ND.reshape(-1), centroid_CD.reshape(-1)
    least = np.empty(_ASSIGNED, np.int32)
    for start in range(0, codes, _ASSIGNED):
        end = min(start + _ASSIGNED, codes)
        least[:] = _PAD_DISTANCE
        for cell in range(centroid_CD.shape[0]):
            for n in range(start, end):
                distance = _distance(code, n * words, centroid, cell * words, words)
                if distance < least[n - start]:
                    least[n - start] = distance
                    cell_N[n] = cell


@dataclass(frozen=True, slots=True)
class Kernels:
    """Compiled; each releases the interpreter's lock. Arrays are C-contiguous and writable, words are uint64.

    `columns` is (Pin id int64, died at uint32, domain uint8, flags uint32), each [N]; `terms` is (sequence, whether to
    filter, uint8 [256]: domains that match, flags that are required).
    """

    scan_rows: _Kernel
    scan_lists: _Kernel
    choose_lists: _Kernel
    nearest: _Kernel


def _build_all(build: Build) -> Kernels:
    i8, i4, u1, u4, words = types.int64, types.int32, types.uint8, types.uint32, types.uint64[:, ::1]
    columns = types.Tuple((i8[::1], u4[::1], u1[::1], u4[::1]))
    terms = types.Tuple((i8, types.boolean, u1[::1], i8))
    share = types.UniTuple(i8, 4)
    heap = (i4[:, ::1], i8[:, ::1])
    return Kernels(
        build(_scan_rows, types.void(words, words, columns, terms, i8, i8, *heap)),
        build(_scan_lists, types.void(words, words, columns, terms, i8[::1], i4[:, ::1], share, *heap)),
        build(_choose_lists, types.void(words, words, i8, i8, i4[:, ::1])),
        build(_nearest, types.void(words, words, i4[::1])),
    )


KERNELS: Final = compiled(_build_all)
