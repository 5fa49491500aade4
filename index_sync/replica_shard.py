"""One more copy of a shard, for search only."""

from __future__ import annotations

from index_sync.upkeep import HostedShard


class ReplicaShard(HostedShard):
    """Starts from the snapshots of replica 0 and never writes one: a shard has one writer."""

    def snapshot(self) -> bool:
        return False
