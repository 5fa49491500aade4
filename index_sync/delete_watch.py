"""Until when a shard is known to have seen every delete. Pure.

A tombstone stays on a compacted topic for `delete.retention.ms` and then vanishes. So whoever is behind by more than
that, or starts from a state that is, may never learn of a delete. What counts is when the state last held all that the
topic had, not when a snapshot of it was written: a shard that lags writes young snapshots of old data.
"""

from __future__ import annotations


class DeleteWatch:
    """One shard's. One thread calls `held_all`; any may read `complete_ms`.

    Args:
        complete_ms: when the state that the shard starts from held all that its partition had, epoch milliseconds. An
            empty one does so now: a delete is gone from the topic only after what it deletes.
        retention_ms: the topic's `delete.retention.ms`.
    """

    def __init__(self, complete_ms: int, retention_ms: int) -> None:
        self.complete_ms = complete_ms
        self._retention_ms = retention_ms
        self.may_have_missed = False
        """It was behind for longer than tombstones stay. Only a rebuild ends this."""

    def held_all(self, now_ms: int) -> bool:
        """The shard holds all that its partition had at `now_ms`. True, once, if it was behind for too long until then.

        `complete_ms` then stays, so that no snapshot from here on is trusted.
        """
        if self.may_have_missed or now_ms <= self.complete_ms:
            return False
        self.may_have_missed = now_ms - self.complete_ms > self._retention_ms
        if not self.may_have_missed:
            self.complete_ms = now_ms
        return self.may_have_missed

    def outgrew(self, saved_ms: int) -> bool:
        """A snapshot that was complete at `saved_ms` is worth renewing, though nothing has changed since."""
        return self.complete_ms - saved_ms > self._retention_ms // 4
