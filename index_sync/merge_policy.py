"""Decides which segments to merge. Pure: metadata in, a choice out.

A fresh segment that is full is sealed first: it is the largest share of what a restart replays. Then a sealed segment
that is not grouped by the shard's quantizer is rewritten: until then every search scans it whole. Then a sealed segment
with too many dead rows is rewritten, to give its memory back and to spare searches the over-fetch. Then, if a size
tier holds `fan_in` segments, the smallest of it become one: tiers grow by `fan_in`, so a row is copied about
log(rows / seal_rows) times in its life and a shard has at most about `fan_in` segments a tier.
Source: the size tiers of Lucene's TieredMergePolicy and of tantivy's LogMergePolicy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SegmentSize:
    segment_id: str
    is_sealed: bool
    rows: int
    dead_rows: int
    is_grouped: bool = True
    """Its rows lie in the lists that the shard uses; or the shard uses none."""

    @property
    def live_rows(self) -> int:
        return self.rows - self.dead_rows


@dataclass(frozen=True, slots=True)
class MergePolicy:
    """Raises ValueError if a limit makes no sense."""

    fan_in: int = 4
    """Segments of one tier that become one. Lower: fewer segments to search; higher: fewer copies."""
    max_dead_share: float = 0.2
    """Dead rows ÷ rows from which a sealed segment is rewritten."""
    max_merged_rows: int = 8_000_000
    """No merge makes more rows than this; a segment of half of it only merges for its dead rows."""
    tier_floor_rows: int = 100_000
    """Smaller segments are all of the lowest tier."""

    def __post_init__(self) -> None:
        if self.fan_in < 2:
            raise ValueError(f"fan_in is {self.fan_in}, expected at least 2")
        if not 0 < self.max_dead_share <= 1:
            raise ValueError(f"max_dead_share is {self.max_dead_share}, expected above 0 and at most 1")

    def choose(self, segments: Sequence[SegmentSize]) -> tuple[str, ...] | None:
        """Ids of the segments to merge into one now, oldest first; None if all is well.

        `segments` are those that may be merged: the fresh one that still grows is not among them.
        """
        full_fresh = [one for one in segments if not one.is_sealed]
        if full_fresh:
            return self._fitting(full_fresh)
        ungrouped = [one for one in segments if not one.is_grouped]
        if ungrouped:
            return (min(ungrouped, key=lambda one: one.rows).segment_id,)
        half_dead = [one for one in segments if one.rows and one.dead_rows / one.rows >= self.max_dead_share]
        if half_dead:
            return (max(half_dead, key=lambda one: one.dead_rows).segment_id,)
        tiers: dict[int, list[SegmentSize]] = defaultdict(list)
        for one in segments:
            if one.live_rows <= self.max_merged_rows // 2:
                tiers[self._tier(one.live_rows)].append(one)
        for _, tier in sorted(tiers.items()):
            if len(tier) >= self.fan_in:
                smallest = sorted(tier, key=lambda one: one.live_rows)[: self.fan_in]
                chosen = self._fitting([one for one in tier if one in smallest])
                if len(chosen) > 1:
                    return chosen
        return None

    def _tier(self, live_rows: int) -> int:
        tier = 0
        while live_rows > self.tier_floor_rows:
            live_rows //= self.fan_in
            tier += 1
        return tier

    def _fitting(self, segments: Sequence[SegmentSize]) -> tuple[str, ...]:
        """As many of them as `max_merged_rows` allows, and at least one."""
        total = 0
        chosen: list[str] = []
        for one in segments:
            total += one.live_rows
            if chosen and total > self.max_merged_rows:
                break
            chosen.append(one.segment_id)
        return tuple(chosen)
