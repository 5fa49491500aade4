"""Whether a reported event is of a test that runs, and true. Pure.

The arm and the generation are computed again, not believed: a reporter that shows one arm's answers under the other's
name would spoil the test without a sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rollout.ab.assignment import Arm, assign, pseudonym
from rollout.ab.events import Engagement, ReportedEvent
from rollout.generation import Registry

MAX_LATE_MS: Final = 24 * 3_600_000
"""A long click is known late, and phones are offline for a while."""
MAX_EARLY_MS: Final = 5 * 60_000
"""How far ahead a reporter's clock may be."""


class Refusal(StrEnum):
    UNKNOWN_TEST = "unknown_test"
    """No such test runs for this application: it has ended, or the name is wrong."""
    WRONG_ARM = "wrong_arm"
    """The requester is in the other arm."""
    WRONG_MODEL = "wrong_model"
    """The arm is served by another generation."""
    WRONG_TIME = "wrong_time"
    """More than a day ago, or more than five minutes ahead."""


@dataclass(frozen=True, slots=True)
class Intake:
    registry: Registry
    key: str
    """The secret under which requesters are recorded."""

    def check(self, event: ReportedEvent, now_ms: int) -> Engagement | Refusal:
        """The record to publish, or why there is none."""
        split = next((one for one in self.registry.splits if one.application is event.application), None)
        if split is None or split.salt != event.test:
            return Refusal.UNKNOWN_TEST
        arm = assign(split, event.requester)
        if arm is not event.arm:
            return Refusal.WRONG_ARM
        served = split.model if arm is Arm.TREATMENT else self.registry.live.get(event.application)
        if served != event.model:
            return Refusal.WRONG_MODEL
        event_time = now_ms if event.event_time is None else event.event_time
        if not now_ms - MAX_LATE_MS <= event_time <= now_ms + MAX_EARLY_MS:
            return Refusal.WRONG_TIME
        return Engagement(
            event_id=event.event_id,
            application=event.application,
            test=split.salt,
            share=split.share,
            arm=arm,
            model=served,
            user=pseudonym(split.salt, event.requester, self.key),
            kind=event.kind,
            event_time=event_time,
        )
