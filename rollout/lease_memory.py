"""Leaves that were seen a moment ago: a Redis that comes back empty has not ended them. Pure, and thread-safe.

Leaves write their leases again within half a second of Redis' return; until then the ones seen before are asked on. A
leaf that is really gone does not answer, and is replaced or missed as any other.
"""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    @property
    def instance(self) -> str: ...


T = TypeVar("T", bound=Named)


class LeaseMemory(Generic[T]):
    """Keeps what vanished for `keep_s` more."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._seen: tuple[T, ...] = ()
        self._gone: dict[str, tuple[T, float]] = {}
        self._known: tuple[T, ...] = ()

    def known(self, seen: tuple[T, ...], now_s: float) -> tuple[T, ...]:
        """What to go by; the same object until something changes.

        Args:
            seen: the same object until it was read again.
        """
        if seen is self._seen:
            return self._known
        with self._lock:
            if seen is not self._seen:
                names = {one.instance for one in seen}
                for one in self._seen:
                    if one.instance not in names:
                        self._gone.setdefault(one.instance, (one, now_s))
                self._gone = {
                    name: (one, since_s)
                    for name, (one, since_s) in self._gone.items()
                    if name not in names and now_s - since_s < self._keep_s
                }
                self._known = (*seen, *(one for one, _ in self._gone.values()))
                self._seen = seen
            return self._known
