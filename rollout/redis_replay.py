"""A replay in Redis: the plan that its workers follow, and how far it is. A mirror; lost, it is written again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError
from redis import Redis

from consumers.replay_plan import ReplayPlan, replay_key
from index_sync.redis_leases import Lease, read_leases
from pinstream.codes import Fingerprint
from pinstream.redis_client import connect_if_set, redis_errors, required
from rollout.replay_progress import ReplayProgress

REPORT_S: Final = 10
"""A report that nobody has renewed for this long is gone: no controller runs."""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What the controller says of a replay."""

    at_ms: int
    state: str
    paused: bool
    limit_per_s: float | None
    """What it is held to, by the operator or by live freshness; None: nothing."""
    live_freshness_s: float | None
    """p99, or the time lag of the live embed workers if that is larger; None: not known, or nothing is live."""
    warning: str
    progress: ReplayProgress


_REPORT: Final = TypeAdapter(ReplayReport)


class ReplayMirror:
    """Thread-safe. Every method blocks at most about the time-out.

    Raises:
        RetryableError: from every method: Redis is away, or there is none.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._redis = connect_if_set(url, timeout_s, "replay")

    @redis_errors()
    def tell(self, model: str, plan: ReplayPlan) -> None:
        """Workers obey it within half a second."""
        self._client().set(replay_key(Fingerprint(model)), plan.model_dump_json())

    @redis_errors()
    def report(self, model: str, report: ReplayReport) -> None:
        self._client().set(_report_key(model), _REPORT.dump_json(report), ex=REPORT_S)

    def reported(self, model: str) -> ReplayReport | None:
        """None: no controller says anything, or nothing that can be read."""
        with redis_errors():
            value = self._client().get(_report_key(model))
        try:
            return None if value is None else _REPORT.validate_json(value)
        except ValidationError:
            return None

    @redis_errors()
    def leases(self, model: str) -> tuple[Lease, ...]:
        """The index workers of a generation."""
        return read_leases(self._client(), Fingerprint(model))

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()

    def _client(self) -> Redis:
        return required(self._redis)


def _report_key(model: str) -> str:
    return f"pinstream:replay-report:{Fingerprint(model).short}"
