"""Folds engagements into counters for each requester, in bounded memory. Pure; one thread owns it.

A requester takes 25 bytes: 8 of his pseudonym, his arms, and one counter for each kind. Events are gathered and merged
into the sorted table at once, when they are a quarter as many as its rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from pinstream.errors import FatalError
from rollout.ab.assignment import Arm
from rollout.ab.events import Engagement, Kind
from rollout.generation import Application

MAX_USERS: Final = 20_000_000
"""Of all tests together: 500 MB."""
MAX_TESTS: Final = 32
DUPLICATE_WINDOW: Final = 500_000
"""Events that are remembered at least, to drop one that comes again: twice as many at most, about 100 bytes each."""
_MIN_BATCH: Final = 100_000
_MAX_NAMES: Final = 8

ARM_BIT: Final = {Arm.CONTROL: 1, Arm.TREATMENT: 2}
KIND_NUMBER: Final = {kind: number for number, kind in enumerate(Kind)}


class RecentEvents:
    """The newest events, in two sets of which the older is forgotten as a whole."""

    def __init__(self, window: int = DUPLICATE_WINDOW) -> None:
        self._window = window
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def is_new(self, engagement: Engagement) -> bool:
        """And remember it. Only the requester's own event can make it a repeated one."""
        identity = hash((engagement.application, engagement.test, engagement.user, engagement.event_id))
        if identity in self._newer or identity in self._older:
            return False
        self._newer.add(identity)
        if len(self._newer) >= self._window:
            self._newer, self._older = set(), self._newer
        return True


class UserTable:
    """Counters of the requesters of one test.

    Shapes: U requesters, E gathered events, K kinds.
    """

    def __init__(self) -> None:
        self._key_U: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._arms_U: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._count_UK: npt.NDArray[np.uint32] = np.empty((0, len(Kind)), np.uint32)
        self._empty_batch()

    def __len__(self) -> int:
        """Rows merged so far; those that are still gathered come on top."""
        return len(self._key_U)

    def add(self, user: str, arm: Arm, kind: Kind) -> bool:
        """Count one event; True: the table was merged, and may have grown."""
        self._keys.append(int(user[:16], 16))
        self._arms.append(ARM_BIT[arm])
        self._kinds.append(KIND_NUMBER[kind])
        if len(self._keys) < max(_MIN_BATCH, len(self) // 4):
            return False
        self.merge()
        return True

    def merge(self) -> None:
        """Take what was gathered into the table."""
        if not self._keys:
            return
        key_B, row_E = np.unique(np.frombuffer(self._keys, np.uint64), return_inverse=True)
        kind_E, arm_E = np.frombuffer(self._kinds, np.uint8), np.frombuffer(self._arms, np.uint8)
        count_BK = np.bincount(row_E * len(Kind) + kind_E, minlength=len(key_B) * len(Kind)).reshape(-1, len(Kind))
        arms_B = np.zeros(len(key_B), np.uint8)
        np.bitwise_or.at(arms_B, row_E, arm_E)
        place_B = np.searchsorted(self._key_U, key_B)
        known_B = np.zeros(len(key_B), bool)
        inside_B = place_B < len(self)
        known_B[inside_B] = self._key_U[place_B[inside_B]] == key_B[inside_B]
        self._count_UK[place_B[known_B]] += count_BK[known_B].astype(np.uint32)
        self._arms_U[place_B[known_B]] |= arms_B[known_B]
        place_N = place_B[~known_B]
        self._key_U = np.insert(self._key_U, place_N, key_B[~known_B])
        self._arms_U = np.insert(self._arms_U, place_N, arms_B[~known_B])
        self._count_UK = np.insert(self._count_UK, place_N, count_BK[~known_B], axis=0)
        self._empty_batch()

    def counts(self, arm: Arm) -> npt.NDArray[np.uint32]:
        """[U, K] of the requesters who were seen in this arm only. Call `merge` before."""
        count_UK: npt.NDArray[np.uint32] = self._count_UK[self._arms_U == ARM_BIT[arm]]
        return count_UK

    @property
    def in_both_arms(self) -> int:
        return int(np.count_nonzero(self._arms_U == sum(ARM_BIT.values())))

    def _empty_batch(self) -> None:
        self._keys, self._arms, self._kinds = array("Q"), array("B"), array("B")


@dataclass(slots=True)
class FoldedTest:
    """One test of one application."""

    application: Application
    test: str
    users: UserTable = field(default_factory=UserTable)
    shares: set[float] = field(default_factory=set)
    models: dict[Arm, set[str]] = field(default_factory=lambda: {arm: set() for arm in Arm})
    """More than one, of a share or of an arm's generation, says that the test was changed while it ran."""
    events: int = 0
    first_ms: int = 2**63 - 1
    last_ms: int = 0


class EngagementFold:
    """Folds events in the order of each partition.

    Args:
        application, test: only this one; None: all.
        since_ms: only events of this time and later.
    """

    def __init__(self, *, application: Application | None = None, test: str | None = None, since_ms: int = 0) -> None:
        self._application = application
        self._test = test
        self._since_ms = since_ms
        self._tests: dict[tuple[Application, str], FoldedTest] = {}
        self._recent = RecentEvents()
        self.repeated = 0
        """Events that came again."""

    def add(self, engagement: Engagement) -> None:
        """Raises FatalError: there are more tests or requesters than fit; says what to narrow."""
        if (
            engagement.event_time < self._since_ms
            or self._application not in (None, engagement.application)
            or self._test not in (None, engagement.test)
        ):
            return
        if not self._recent.is_new(engagement):
            self.repeated += 1
            return
        folded = self._folded(engagement)
        folded.events += 1
        folded.first_ms = min(folded.first_ms, engagement.event_time)
        folded.last_ms = max(folded.last_ms, engagement.event_time)
        _remember(folded.shares, engagement.share)
        _remember(folded.models[engagement.arm], engagement.model)
        if folded.users.add(engagement.user, engagement.arm, engagement.kind):
            self._check_users()

    def done(self) -> Iterator[FoldedTest]:
        """The tests, the newest last."""
        for folded in sorted(self._tests.values(), key=lambda one: (one.first_ms, one.application)):
            folded.users.merge()
            yield folded

    def _folded(self, engagement: Engagement) -> FoldedTest:
        name = (engagement.application, engagement.test)
        if name not in self._tests:
            if len(self._tests) >= MAX_TESTS:
                raise FatalError(f"the topic has more than {MAX_TESTS} tests: name one by --test, or use --since")
            self._tests[name] = FoldedTest(*name)
        return self._tests[name]

    def _check_users(self) -> None:
        users = sum(len(folded.users) for folded in self._tests.values())
        if users > MAX_USERS:
            raise FatalError(f"{users} requesters, expected at most {MAX_USERS}: name a --test, or use --since")


def _remember(names: set[float] | set[str], name: float | str) -> None:
    if len(names) < _MAX_NAMES:
        names.add(name)  # type: ignore[arg-type]  # callers pass a set and its own kind of member
