"""How many searches may be under way and how many may wait; and when to come back if there is no place. Pure.

Times come in; nothing sleeps. One thread at a time: the owner locks.
"""

from __future__ import annotations

import math
from typing import Final

from pinstream.errors import PinstreamError

_MEMORY: Final = 0.1
"""Weight of the newest service time in the recent mean: about the last ten count."""


class BusyError(PinstreamError):
    """Too much is under way: HTTP 429, or another replica.

    Args:
        retry_after_s: whole seconds, at least 1, after which there should be a place.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Admission:
    """Counts what entered and has not left; refuses when `max_running` run and `max_waiting` wait.

    Raises:
        ValueError: `max_running` < 1 or `max_waiting` < 0.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        if max_running < 1 or max_waiting < 0:
            raise ValueError(f"max_running is {max_running} and max_waiting {max_waiting}, expected from 1 and 0")
        self._max_running = max_running
        self._limit = max_running + max_waiting
        self._inside = 0
        self._service_s = 0.0

    @property
    def inside(self) -> int:
        return self._inside

    @property
    def service_s(self) -> float:
        """Recent mean time that one took, its waiting not counted; 0 before the first."""
        return self._service_s

    @property
    def retry_after_s(self) -> int:
        """When those inside will be done, if each takes as long as the recent ones; HTTP wants whole seconds."""
        return max(1, math.ceil(self._inside / self._max_running * self._service_s))

    def enter(self) -> None:
        """Take a place; `leave` gives it back.

        Raises:
            BusyError: there is none.
        """
        if self._inside >= self._limit:
            raise BusyError(f"{self._inside} searches are under way or waiting", self.retry_after_s)
        self._inside += 1

    def leave(self, service_s: float | None) -> None:
        """`service_s`: how long the work took, from its own start; None: it was never started."""
        assert self._inside > 0, "left more often than entered"
        self._inside -= 1
        if service_s is not None:
            self._service_s += (service_s - self._service_s) * (_MEMORY if self._service_s else 1.0)
