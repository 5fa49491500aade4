"""The garbage collector of a worker process."""

from __future__ import annotations

import gc
from typing import Final

ALLOCATIONS: Final = 200_000
"""Between collections of the youngest generation; CPython's own 700 to 2,000 come every hundred records."""


def calm_garbage_collector() -> None:
    """Call once, when a worker's process is set up: what exists now is never traversed again, and the rest rarely.

    A record in flight is a handful of objects that die by reference count; the collector walks tens of thousands of
    them for nothing. Measured with bench.stream_cache_hit on 2 cores: 28 → 34 k records/s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 20, 100)
