"""Which leaf is asked for which shard. Pure.

A shard goes to a fresh leaf that does not fail: to this node's own if it is one, else to the less loaded of two drawn
at random (Mitzenmacher, "The Power of Two Choices", 2001), so that many roots with the same leases don't all choose
the same leaf. Stale and failing leaves are asked only where there is no better one: an old answer that says how old it
is beats none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

_LEAST_LATENCY_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Leaf:
    """A node that serves shards, as the root sees it now."""

    instance: str
    lag_s: Mapping[int, float | None]
    """Partition → seconds behind the topic; None while not known."""
    is_own: bool
    in_flight: int
    """Searches that it has in hand, by its own word and by what this root has sent it."""
    latency_s: float
    """Recent time for one."""
    is_failing: bool


def route(
    partitions: Collection[int],
    leaves: Sequence[Leaf],
    tried: Mapping[int, Collection[str]],
    max_lag_s: float,
    random: Random,
) -> dict[str, tuple[int, ...]]:
    """Instance → the shards to ask it for, ascending. A shard that no leaf serves, or only tried ones, is in none.

    Args:
        tried: partition → instances that this search has asked for it already.
        max_lag_s: how much further behind than the freshest a leaf may be and still count as fresh.
    """
    chosen: dict[str, list[int]] = {}
    for partition in sorted(partitions):
        serving = [leaf for leaf in leaves if partition in leaf.lag_s]
        left = [leaf for leaf in serving if leaf.instance not in tried.get(partition, ())]
        if left:
            best = _best(partition, left, _freshest_s(partition, serving) + max_lag_s)
            leaf = _less_loaded(best, chosen, random)
            chosen.setdefault(leaf.instance, []).append(partition)
    return {instance: tuple(parts) for instance, parts in chosen.items()}


def _freshest_s(partition: int, leaves: Sequence[Leaf]) -> float:
    """The smallest lag that is known; if none is, any lag counts as fresh."""
    return min((lag_s for leaf in leaves if (lag_s := leaf.lag_s[partition]) is not None), default=float("inf"))


def _best(partition: int, leaves: Sequence[Leaf], bound_s: float) -> list[Leaf]:
    """The leaves of the best kind that there is: fresh and well, then well, then any."""
    known = [leaf for leaf in leaves if not leaf.is_failing]
    fresh = [leaf for leaf in known if _lag_s(leaf, partition) <= bound_s]
    own = [leaf for leaf in fresh if leaf.is_own]
    return own or fresh or known or list(leaves)


def _lag_s(leaf: Leaf, partition: int) -> float:
    lag_s = leaf.lag_s[partition]
    return float("inf") if lag_s is None else lag_s


def _less_loaded(leaves: Sequence[Leaf], chosen: Mapping[str, Sequence[int]], random: Random) -> Leaf:
    two = random.sample(leaves, min(2, len(leaves)))
    return min(two, key=lambda leaf: _load(leaf, len(chosen.get(leaf.instance, ()))))


def _load(leaf: Leaf, chosen: int) -> float:
    return (leaf.in_flight + chosen + 1) * max(leaf.latency_s, _LEAST_LATENCY_S)
