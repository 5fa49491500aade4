"""Reads the workers' /metrics pages into numbers: for the demo, for replays that yield, for gates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

_INFINITY = float("inf")


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram's cumulative counts by upper bound, in seconds."""

    counts: dict[float, float] = field(default_factory=dict)

    def since(self, earlier: Buckets) -> Buckets:
        return Buckets({bound: count - earlier.counts.get(bound, 0) for bound, count in self.counts.items()})

    @property
    def total(self) -> float:
        return self.counts.get(_INFINITY, 0)

    def quantile(self, q: float) -> float | None:
        """By linear interpolation within a bucket, as Prometheus does; None while there is nothing."""
        if not self.total:
            return None
        rank, lower, below = q * self.total, 0.0, 0.0
        for bound, count in sorted(self.counts.items()):
            if count >= rank:
                if bound == _INFINITY:
                    return lower
                return lower + (bound - lower) * (rank - below) / max(count - below, 1e-9)
            lower, below = bound, count
        return None


@dataclass(slots=True)
class Reading:
    """All workers at one moment, added up; of gauges by partition the largest."""

    totals: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Counters and gauges by `name{label=value}` for the labels that say what came of it."""
    lag_records: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By role of the group: embed or index."""
    lag_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    freshness: dict[str, Buckets] = field(default_factory=dict)
    """By stage."""


def read_workers(urls: Iterable[str], client: httpx.Client) -> Reading:
    """One reading of all workers that answer. Blocks for as many requests."""
    reading = Reading()
    for url in urls:
        try:
            page = client.get(f"{url}/metrics").text
        except httpx.HTTPError:
            continue
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                _add(reading, sample.name, sample.labels, sample.value)
    return reading


def _add(reading: Reading, name: str, labels: dict[str, str], value: float) -> None:
    if name == "kafka_consumergroup_group_lag":
        reading.lag_records[_role(labels["group"])] += value
    elif name == "kafka_consumergroup_group_lag_seconds":
        role = _role(labels["group"])
        reading.lag_seconds[role] = max(reading.lag_seconds[role], value)
    elif name == "pinstream_freshness_seconds_bucket":
        buckets = reading.freshness.setdefault(labels["stage"], Buckets())
        bound = float(labels["le"])
        buckets.counts[bound] = buckets.counts.get(bound, 0) + value
    elif name.startswith("pinstream_"):
        reading.totals[name] += value
        for label in ("outcome", "effect", "reason", "result", "state"):
            if label in labels:
                reading.totals[f"{name}:{labels[label]}"] += value


def _role(group: str) -> str:
    return "index" if "-index-" in group else "embed"
