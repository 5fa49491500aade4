"""How fast a replay may go, so that live Pins stay fresh; and whether it may go on at all. Pure.

It yields as TCP shares a line: the replay can't know what the live generation shares with it (brokers, disks, a GPU,
Redis), so it halves when freshness suffers, and comes back quickly at first, then carefully around where it suffered
last, and quickly again beyond: that no longer holds (the shape of CUBIC, RFC 9438).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

CUT: Final = 0.5
RECOVER_PER_S: Final = 0.05
"""How much faster a second, of the limit itself, far from where freshness suffered last."""
APPROACH_PER_S: Final = 0.01
"""How much faster a second, of where it suffered last, from half of that on."""
PROBE_PER_S: Final = 0.002
"""The same around where it suffered last, `AROUND` of it: that is where it will probably suffer again."""
AROUND: Final = (0.85, 1.1)
CALM: Final = 0.8
"""Of the objective: above this freshness is not yet bad, and not good enough to go faster."""
RELEASE: Final = 2.0
"""A limit at this multiple of what the replay really reaches holds nothing back any more: it is lifted."""
AHEAD: Final = 1.25
"""It never yields below this multiple of what is appended: it would never end, and what it puts off comes back."""
MAX_STEP_S: Final = 5.0
"""A controller that was away for an hour has not seen an hour of good freshness."""
TRUSTED_S: Final = 60.0
TRUSTED_FRACTION: Final = 0.02
"""From either on, an ETA is good enough to refuse by."""
LATE_FRACTION: Final = 0.2
"""After this much of the way stopping costs more than it saves: warn."""


@dataclass(slots=True)
class YieldControl:
    """One replay's limit, in records/s of all its workers together. One thread at a time.

    Args:
        objective_s: live freshness that shall not be crossed.
        settle_s: after a cut, how long until it can be told whether it helped.
        floor_per_s: never less, nor than `AHEAD` of what is appended.
    """

    objective_s: float
    settle_s: float
    floor_per_s: float
    limit_per_s: float | None = None
    """None: as fast as it can."""
    _suffered_per_s: float | None = field(default=None, init=False)
    """What the replay did when it had to yield last."""
    _cut_at_s: float = field(default=float("-inf"), init=False)
    _seen_at_s: float | None = field(default=None, init=False)

    def decide(
        self, now_s: float, freshness_s: float | None, reached_per_s: float | None, appended_per_s: float = 0.0
    ) -> float | None:
        """The limit from now on.

        Args:
            freshness_s: of the live generation, p99; None: nobody knows, and the limit stays as it is.
            reached_per_s: what the replay does now; None: nobody knows yet.
            appended_per_s: records/s that live traffic adds to the topic.
        """
        passed_s = 0.0 if self._seen_at_s is None else min(MAX_STEP_S, max(0.0, now_s - self._seen_at_s))
        self._seen_at_s = now_s
        if freshness_s is None:
            return self.limit_per_s
        if freshness_s > self.objective_s:
            if now_s - self._cut_at_s >= self.settle_s:
                self._cut(now_s, reached_per_s)
        elif freshness_s <= CALM * self.objective_s and self.limit_per_s is not None:
            self._grow(self.limit_per_s, passed_s, reached_per_s)
        if self.limit_per_s is not None:
            self.limit_per_s = max(self.limit_per_s, self.floor_per_s, AHEAD * appended_per_s)
        return self.limit_per_s

    def _cut(self, now_s: float, reached_per_s: float | None) -> None:
        """Halve what the replay really does: halving a limit that it does not reach would help nobody."""
        known = [rate for rate in (self.limit_per_s, reached_per_s) if rate is not None]
        self._suffered_per_s = min(known, default=None)
        self.limit_per_s = CUT * (self._suffered_per_s or 0.0)
        self._cut_at_s = now_s

    def _grow(self, limit_per_s: float, passed_s: float, reached_per_s: float | None) -> None:
        suffered = self._suffered_per_s
        if suffered is None or not CUT * suffered <= limit_per_s <= AROUND[1] * suffered:
            limit_per_s *= 1 + RECOVER_PER_S * passed_s
        else:
            limit_per_s += (
                suffered * passed_s * (PROBE_PER_S if limit_per_s >= AROUND[0] * suffered else APPROACH_PER_S)
            )
        unused = reached_per_s is not None and limit_per_s > RELEASE * max(reached_per_s, self.floor_per_s)
        self.limit_per_s = None if unused else limit_per_s


class Verdict(StrEnum):
    FINE = "fine"
    WARN = "warn"
    REFUSE = "refuse"


def retention_verdict(
    *, elapsed_s: float, observed_s: float, eta_s: float | None, fraction: float, retention_ms: int, forced: bool
) -> Verdict:
    """Whether a replay ends before the Pins topic may have forgotten deletes that it still has to see.

    A Pin that was replayed early and deleted since is known to be gone by its tombstone only, and that is kept for
    `delete.retention.ms`. So all of the replay must fit in it, pauses included.

    Args:
        elapsed_s: since the replay began; `observed_s` of them without a pause, in which `eta_s` was learnt.
    """
    if eta_s is None or (elapsed_s + eta_s) * 1000 <= retention_ms:
        return Verdict.FINE
    trusted = observed_s >= TRUSTED_S or (fraction >= TRUSTED_FRACTION and observed_s >= TRUSTED_S / 6)
    if forced or not trusted or fraction > LATE_FRACTION:
        return Verdict.WARN
    return Verdict.REFUSE


def retention_sentence(topic: str, needed_s: float, retention_ms: int) -> str:
    """What to tell the operator."""
    return (
        f"the replay needs {needed_s / 3600:.1f} h and {topic} keeps deletes for {retention_ms / 3_600_000:.1f} h: "
        f"Pins deleted meanwhile could stay in the new index. Raise delete.retention.ms of {topic} "
        "(topics.delete_retention_ms), add workers, raise the rate, or accept it with --force"
    )
