"""Tells bad records from a bad worker. Pure.

One record that can't be embedded is the record's fault. Hundreds in a row without a good one between them are ours: a
store's credentials ran out, a device broke, a folder is not mounted. Dead-lettering on would empty the topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from embedder.pin_work import Outcome, PinWork
from pinstream.errors import FatalError


@dataclass(frozen=True, slots=True)
class Breaker:
    """Counts dead letters since the last code. Deletes count as neither: they prove nothing about embedding."""

    max_bad_in_a_row: int
    bad_in_a_row: int = 0

    def after(self, works: Sequence[PinWork]) -> Breaker:
        """The breaker once these finished records are published.

        Raises:
            FatalError: one of them is a dead letter too many; none of them may be published.
        """
        bad = self.bad_in_a_row
        for work in works:
            if work.outcome is Outcome.DEAD_LETTER:
                bad += 1
                if bad >= self.max_bad_in_a_row:
                    raise FatalError(
                        f"{bad} records in a row could not be embedded, the last one because: {work.error}; "
                        "the fault is probably not theirs. Mend it and restart: those not yet dead-lettered are tried "
                        "again, the others wait in the dead letters (or raise embed.breaker_bad_in_a_row)"
                    )
            elif work.outcome in (Outcome.EMBEDDED, Outcome.CACHED):
                bad = 0
        return replace(self, bad_in_a_row=bad)
