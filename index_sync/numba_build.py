"""Compiles loops for this CPU, keeps them in numba's cache where there is a folder for it, and what loops share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

log = logging.getLogger(__name__)

Build = Callable[..., Any]
"""(loop, numba signature) → the loop, compiled, that runs without the interpreter's lock."""
_Kernels = TypeVar("_Kernels")


def compiled(build_all: Callable[[Build], _Kernels]) -> _Kernels:
    """What `build_all` makes with a `Build`. Blocks: seconds the first time, ~0.1 s from the cache."""
    try:
        return build_all(_build(cache=True))
    except Exception as error:  # noqa: BLE001 (no folder to write to, or a torn file in it: numba says it in many ways)
        log.warning("numba's cache can't be used, so kernels are compiled at every start: %s", error)
        return build_all(_build(cache=False))


def _build(*, cache: bool) -> Build:
    return lambda loop, signature: njit(signature, nogil=True, cache=cache)(loop)


def declared(builder: Any, result: Any, arguments: list[Any], name: str) -> Any:
    """A function of LLVM's own, within an intrinsic."""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _asked_for() -> Callable[..., Any]:
    """Compiles to: have the processor bring word i of an array, which may lie beyond its end, into the caches."""

    @intrinsic
    def prefetch(_context: Any, array: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            byte_P, int_ = ir.IntType(8).as_pointer(), ir.IntType(32)
            fetch = declared(builder, ir.VoidType(), [byte_P, int_, int_, int_], "llvm.prefetch.p0")
            place = builder.bitcast(builder.gep(data, [args[1]]), byte_P)
            builder.call(fetch, [place, int_(0), int_(3), int_(1)])  # to read, soon again, as data
            return context.get_dummy_value()

        return types.void(array, i), generate

    return prefetch


prefetch = _asked_for()
