"""The writer's compiled loops (`numba_rows.py`), loaded by the first call: numba takes a second to load."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from index_sync.numba_rows import Kernels


@cache
def loops() -> Kernels:
    """Blocks for the loading, once."""
    from index_sync.numba_rows import KERNELS  # noqa: PLC0415

    return KERNELS
