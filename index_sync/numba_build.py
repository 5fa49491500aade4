"""Compiles loops for this CPU, and keeps them in numba's cache where there is a folder for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

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
