"""A replay in Redis: the plan that its workers follow, and how far it is. A mirror; lost, it is written again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from consumers.replay_plan import ReplayPlan, replay_key
from index_sync.redis_leases import Lease, read_leases
from pinstream.codes import Fingerprint
from pinstream.errors import RetryableError
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
        self._redis = (
            Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0))
            if url
            else None
        )

    def tell(self, model: str, plan: ReplayPlan) -> None:
        """Workers obey it within half a second."""
        try:
            self._client().set(replay_key(Fingerprint(model)), plan.model_dump_json())
        except (RedisError, OSError) as error:
            raise RetryableError(f"Redis is away: {error}") from error

    def report(self, model: str, report: ReplayReport) -> None:
        try:
            self._client().set(_report_key(model), _REPORT.dump_json(report), ex=REPORT_S)
        except (RedisError, OSError) as error:
            raise RetryableError(f"Redis is away: {error}") from error

    def reported(self, model: str) -> ReplayReport | None:
        """None: no controller says anything, or nothing that can be read."""
        try:
            value = self._client().get(_report_key(model))
        except (RedisError, OSError) as error:
            raise RetryableError(f"Redis is away: {error}") from error
        try:
            return None if value is None else _REPORT.validate_json(value)
        except ValidationError:
            return None

    def leases(self, model: str) -> tuple[Lease, ...]:
        """The index workers of a generation."""
        try:
            return read_leases(self._client(), Fingerprint(model))
        except (RedisError, OSError) as error:
            raise RetryableError(f"Redis is away: {error}") from error

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()

    def _client(self) -> Redis:
        if self._redis is None:
            raise RetryableError("no Redis is set")
        return self._redis


def _report_key(model: str) -> str:
    return f"pinstream:replay-report:{Fingerprint(model).short}"
