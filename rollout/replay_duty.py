"""What the controller does for replays in every round: look how far they are, let them yield, tell their workers.

Nothing here is lost that matters: what was learnt about speeds is learnt again in a minute, and until then the workers
keep the pace that they know.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from prometheus_client import Gauge

from consumers.replay_plan import ReplayPlan
from pinstream import metrics
from pinstream.clock import Clock, SystemClock
from pinstream.errors import PinstreamError, RetryableError
from pinstream.kafka_clients import reachable_admin, redis_url
from pinstream.settings import Settings
from rollout.generation import Generation, Registry, State
from rollout.http_freshness import LiveFreshness
from rollout.kafka_offsets import GroupOffsets, embed_group
from rollout.kafka_replay import delete_retention_ms, looked_at, owners
from rollout.redis_replay import ReplayMirror, ReplayReport
from rollout.replay_commands import ReplayCommands
from rollout.replay_control import Verdict, YieldControl, retention_sentence, retention_verdict
from rollout.replay_plan import RUNNING, not_live, plan_of
from rollout.replay_progress import ReplayEstimator, ReplayProgress, elapsed_s

log = logging.getLogger(__name__)

_SLOW_S = 30.0
"""How often it is asked what changes rarely: who owns which partition, how long deletes are kept."""


@dataclass(slots=True)
class _Watched:
    """One generation that is not live."""

    estimator: ReplayEstimator
    control: YieldControl
    max_records_per_s: float | None = None
    warning: str = ""
    unprobed: list[int] = field(default_factory=list)


class ReplayDuty:
    """Pass it to the controller as `beside`. One thread at a time; blocks for requests to Kafka, Redis and workers.

    Args:
        commands: with which a replay that can't end in time is paused.
    """

    def __init__(self, settings: Settings, commands: ReplayCommands, clock: Clock | None = None) -> None:
        self._settings = settings
        self._commands = commands
        self._clock: Clock = clock or SystemClock()
        self._admin = reachable_admin(settings)
        self._offsets = GroupOffsets(settings)
        self._mirror = ReplayMirror(redis_url(settings), settings.redis.timeout_s)
        self._live = LiveFreshness(settings, self._mirror, self._offsets, self._clock)
        self._watched: dict[str, _Watched] = {}
        self._slow_at_s = float("-inf")
        self._retention_ms = settings.topics.delete_retention_ms
        self._owners: dict[str, dict[int, str]] = {}

    def __call__(self, registry: Registry) -> None:
        """One round.

        Raises:
            PinstreamError: Kafka or the store is away; the next round tries again.
        """
        waiting = [one for one in registry.generations.values() if not_live(one)]
        for model in self._watched.keys() - {one.model for one in waiting}:
            self._forget(model)
        self._ask_slowly(waiting)
        freshness_s = self._live.look(dict.fromkeys(registry.live.values())) if waiting else None
        for one in waiting:
            self._look_after(one, freshness_s)
        for one in registry.generations.values():
            if one.state is State.LIVE:
                self._tell(one.model, plan_of(one, None))

    def close(self) -> None:
        self._live.close()
        self._offsets.close()
        self._mirror.close()

    def _look_after(self, one: Generation, freshness_s: float | None) -> None:
        held = one.replay.paused and one.state in RUNNING
        watched = self._watch(one)
        now_s = self._clock.monotonic_s()
        seen = self._offsets.see(embed_group(one.model), self._settings.topics.pins)
        watched.estimator.observe(now_s, seen.committed, seen.ends, held=held)
        if one.state in RUNNING:
            self._probe(watched, seen.ends)
        window_s = self._settings.rollout.freshness_window_s
        reached_per_s = watched.estimator.recent_per_s(window_s) or one.replay.max_records_per_s
        appended_per_s = watched.estimator.growth_per_s(window_s) or 0.0
        limit_per_s = watched.control.limit_per_s
        if not held:
            before_per_s = limit_per_s
            limit_per_s = watched.control.decide(now_s, freshness_s, reached_per_s, appended_per_s)
            if limit_per_s is not None and (before_per_s is None or limit_per_s < before_per_s):
                self._live.yielded()
        plan = plan_of(one, limit_per_s)
        self._tell(one.model, plan)
        progress = watched.estimator.progress(
            max_per_s=one.replay.max_records_per_s, owners=self._owners.get(one.model)
        )  # what it yields now it need not yield for long: that is in the rate already
        if one.state in RUNNING:
            self._judge(one, watched, progress, held=held)
        self._publish(one, watched, plan.max_records_per_s, freshness_s, progress)

    def _tell(self, model: str, plan: ReplayPlan) -> None:
        with suppress(RetryableError):  # Redis is away: the workers keep the pace that they know
            self._mirror.tell(model, plan)

    def _watch(self, one: Generation) -> _Watched:
        watched = self._watched.get(one.model)
        if watched is None:
            rollout, partitions = self._settings.rollout, self._settings.topics.partitions
            starts = dict(enumerate(one.replay.starts or (0,) * partitions))
            watched = self._watched[one.model] = _Watched(
                ReplayEstimator(starts),
                YieldControl(rollout.freshness_objective_s, rollout.freshness_window_s, rollout.replay_floor_per_s),
                one.replay.max_records_per_s,
                unprobed=list(starts),
            )
        if watched.max_records_per_s != one.replay.max_records_per_s:
            watched.max_records_per_s = one.replay.max_records_per_s
            watched.estimator.forget()
        return watched

    def _probe(self, watched: _Watched, ends: Mapping[int, int]) -> None:
        """Look at the log of one more partition: a moment in each round until all are known."""
        if watched.unprobed:
            partition = watched.unprobed.pop()
            start = watched.estimator.starts[partition]
            for offset, share in looked_at(self._settings, partition, start, ends[partition]).items():
                watched.estimator.density.saw(partition, offset, share)

    def _judge(self, one: Generation, watched: _Watched, progress: ReplayProgress, *, held: bool) -> None:
        """Whether it ends before deletes are forgotten; if it surely does not, it is paused while little is lost."""
        if held:
            return
        passed_s = elapsed_s(one.history, self._clock.wall_ms())
        verdict = retention_verdict(
            elapsed_s=passed_s,
            observed_s=progress.observed_s,
            eta_s=progress.eta_s,
            fraction=progress.fraction,
            retention_ms=self._retention_ms,
            forced=one.replay.force,
        )
        if verdict is Verdict.FINE:
            watched.warning = ""
            return
        needed_s = passed_s + (progress.eta_s or 0.0)
        warning = retention_sentence(self._settings.topics.pins, needed_s, self._retention_ms)
        if not watched.warning:
            log.warning("generation %s: %s", one.model[:12], warning)
        watched.warning = warning
        if verdict is Verdict.REFUSE:
            self._commands.pause(one.model, warning)

    def _publish(
        self,
        one: Generation,
        watched: _Watched,
        limit_per_s: float | None,
        freshness_s: float | None,
        progress: ReplayProgress,
    ) -> None:
        report = ReplayReport(
            at_ms=self._clock.wall_ms(),
            state=one.state.value,
            paused=one.replay.paused and one.state in RUNNING,
            limit_per_s=limit_per_s,
            live_freshness_s=freshness_s,
            warning=watched.warning,
            progress=progress,
        )
        short = one.model[:12]
        for partition in progress.partitions:
            metrics.REPLAY_PROGRESS.labels(short, str(partition.partition)).set(partition.fraction)
        for gauge, value in (
            (metrics.REPLAY_RATE, progress.rate_per_s),
            (metrics.REPLAY_ETA, progress.eta_s),
            (metrics.REPLAY_LIMIT, limit_per_s),
        ):
            if value is not None:
                gauge.labels(short).set(value)
            else:
                _remove(gauge, short)
        with suppress(RetryableError):  # the next round says it again
            self._mirror.report(one.model, report)

    def _ask_slowly(self, waiting: list[Generation]) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._slow_at_s < _SLOW_S:
            return
        self._slow_at_s = now_s
        topic = self._settings.topics.pins
        try:
            self._retention_ms = delete_retention_ms(self._admin, topic)
        except PinstreamError as error:
            log.warning("%s: going by the %d ms known last", error, self._retention_ms)
        self._owners = {one.model: owners(self._admin, embed_group(one.model), topic) for one in waiting}

    def _forget(self, model: str) -> None:
        watched = self._watched.pop(model)
        for partition in watched.estimator.starts:
            _remove(metrics.REPLAY_PROGRESS, model[:12], str(partition))
        for gauge in (metrics.REPLAY_RATE, metrics.REPLAY_ETA, metrics.REPLAY_LIMIT):
            _remove(gauge, model[:12])


def _remove(gauge: Gauge, *labels: str) -> None:
    with suppress(KeyError):  # it was never set
        gauge.remove(*labels)
