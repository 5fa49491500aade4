"""Which registry to go by when it is heard of from Redis, the store and the disk. Pure; the owner locks.

Numbers only grow, so a higher one is newer, whoever brings it. The store is the truth: if it was asked after a number
was taken over and still knows only a lower one, that number was never published (an old mirror of a store that was made
anew), and the store's counts.
"""

from __future__ import annotations

from rollout.generation import Registry


class NewestRegistry:
    """Every `from_…` returns whether the registry changed."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._taken_s = float("-inf")

    def from_mirror(self, registry: Registry, now_s: float) -> bool:
        """Redis, or the copy on this disk, has this one."""
        if registry.number <= self.registry.number:
            return False
        self._take(registry, now_s)
        return True

    def from_store(self, registry: Registry, asked_s: float, now_s: float) -> bool:
        """The store has this one, and was asked at `asked_s`."""
        if registry == self.registry:
            return False
        if registry.number < self.registry.number and asked_s <= self._taken_s:
            return False
        self._take(registry, now_s)
        return True

    def _take(self, registry: Registry, now_s: float) -> None:
        self.registry = registry
        self._taken_s = now_s
