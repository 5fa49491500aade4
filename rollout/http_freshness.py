"""How fresh live Pins are, as the live generation's own workers measure it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import httpx

from consumers.lag import PartitionLag
from pinstream.clock import Clock
from pinstream.codes import Fingerprint
from pinstream.errors import RetryableError
from pinstream.settings import Settings
from pinstream.worker_metrics import read_workers
from rollout.freshness import RecentQuantile
from rollout.kafka_offsets import GroupOffsets, embed_group, index_group
from rollout.redis_replay import ReplayMirror

_SCRAPE_S: Final = 1.0
_Q: Final = 0.99


class LiveFreshness:
    """Asked once a round. One thread at a time; blocks for one request a worker.

    The worst counts of p99 of `pinstream_freshness_seconds{stage="searchable"}` and the time lags of the live embed and
    index groups: a pipeline that stands still makes nothing searchable, and its histogram would say that all is well.
    """

    def __init__(self, settings: Settings, mirror: ReplayMirror, offsets: GroupOffsets, clock: Clock) -> None:
        self._settings = settings
        self._mirror = mirror
        self._offsets = offsets
        self._clock = clock
        self._client = httpx.Client(timeout=_SCRAPE_S, trust_env=False)
        self._urls: dict[str, tuple[str, ...]] = {}
        self._recent: dict[str, RecentQuantile] = {}
        self._lags: dict[tuple[str, int], PartitionLag] = {}

    def look(self, models: Iterable[str]) -> float | None:
        """Seconds, of the worst of these generations; None: nothing is known."""
        known: list[float | None] = []
        for model in models:
            known.append(self._searchable_s(model))
            known.append(self._lag_s(embed_group(model), self._settings.topics.pins))
            known.append(self._lag_s(index_group(model), Fingerprint(model).codes_topic))
        return max((seconds for seconds in known if seconds is not None), default=None)

    def yielded(self) -> None:
        """A replay has just yielded: what is late for a moment more says nothing about whether that was enough."""
        window_s = self._settings.rollout.freshness_window_s
        for recent in self._recent.values():
            recent.ignore_before(self._clock.monotonic_s() + window_s / 2)

    def close(self) -> None:
        self._client.close()

    def _searchable_s(self, model: str) -> float | None:
        with suppress(RetryableError):  # then the addresses seen last are asked
            self._urls[model] = tuple(lease.url for lease in self._mirror.leases(model) if lease.url)
        now_s = self._clock.monotonic_s()
        recent = self._recent.setdefault(model, RecentQuantile(self._settings.rollout.freshness_window_s))
        readings = {url: read_workers([url], self._client).freshness for url in self._urls.get(model, ())}
        recent.saw(now_s, {url: found["searchable"] for url, found in readings.items() if "searchable" in found})
        return recent.quantile(_Q, now_s)

    def _lag_s(self, group_id: str, topic: str) -> float | None:
        try:
            seen = self._offsets.see(group_id, topic)
        except RetryableError:
            return None
        now_ms = self._clock.wall_ms()
        worst: list[float] = []
        for partition, end in seen.ends.items():
            state = self._lags.setdefault((group_id, partition), PartitionLag())
            state.saw_end(end, now_ms)
            if partition in seen.committed:
                state.done(seen.committed[partition])
            lag = state.lag(now_ms)
            if lag is not None and lag.seconds is not None:
                worst.append(lag.seconds)
        return max(worst, default=None)
