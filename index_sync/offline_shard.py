"""A shard brought up to the end of its topic without a worker: for building and checking snapshots by hand."""

from __future__ import annotations

import logging

from index_sync.checkpoint import Manifest, ShardIdentity
from index_sync.code_batch import CodeBatch, build_code_batch
from index_sync.kafka_tail import TailBatch, end_of, read_tail
from index_sync.shard import Shard
from index_sync.shard_state import ShardState
from index_sync.snapshot_check import PlainFold, differences
from index_sync.upkeep import HostedShard
from pinstream.clock import Clock
from pinstream.codes import Fingerprint
from pinstream.errors import FatalError
from pinstream.settings import Settings

log = logging.getLogger(__name__)


def build_snapshot(settings: Settings, identity: ShardIdentity, clock: Clock) -> Manifest:
    """Restore the newest snapshot, read on to where the topic ends now, seal, merge and publish. Blocks.

    Raises:
        OwnershipLostError: another writer published meanwhile: nothing was changed.
        FatalError, RetryableError: the store or Kafka is away, or the snapshots are not of this topic.
    """
    complete_ms = clock.wall_ms()
    end = end_of(settings, identity.topic, identity.partition)
    hosted = HostedShard(settings, identity, clock)
    start = hosted.shard.checkpoint
    check_end(identity, start, end)
    for tail in read_tail(settings, identity.topic, identity.partition, start, end):
        hosted.shard.apply(code_batch(identity, tail))
        while hosted.merge_once():
            pass
    hosted.held_all(complete_ms)
    return hosted.publish()


def compare_with_topic(settings: Settings, identity: ShardIdentity, state: ShardState) -> tuple[int, list[str]]:
    """The state with the rest of the topic applied, against a plain fold of the whole topic. Blocks.

    A compacted topic no longer has what it held at an older checkpoint; what it holds now is the same for both.

    Returns:
        How many Pins live by the fold, and a sentence for each difference.
    """
    end = end_of(settings, identity.topic, identity.partition)
    check_end(identity, state.checkpoint, end)
    shard, fold = Shard(identity.bits, state=state), PlainFold()
    for tail in read_tail(settings, identity.topic, identity.partition, 0, end):
        fold.apply(code_batch(identity, tail))
    for tail in read_tail(settings, identity.topic, identity.partition, state.checkpoint, end):
        shard.apply(code_batch(identity, tail))
    return len(fold.living), list(differences(shard, fold))


def code_batch(identity: ShardIdentity, tail: TailBatch) -> CodeBatch:
    """Records of the shard's partition as columns; those of other models are passed over, as the worker does."""
    batch, refused = build_code_batch(
        tail.messages, identity.bits, Fingerprint(identity.model), next_offset=tail.next_offset
    )
    for one in refused:
        log.warning("record at %s offset %s is refused: %s", identity.name, _offset(tail, one.position), one.message)
    return batch


def _offset(tail: TailBatch, position: int) -> int | None:
    return tail.messages[position].offset()


def check_end(identity: ShardIdentity, checkpoint: int, end: int) -> None:
    """Raises FatalError if the snapshot is of a topic that was longer."""
    if checkpoint > end:
        raise FatalError(
            f"the snapshot of {identity.name} ends at offset {checkpoint} and the topic at {end}: the topic was made "
            "anew; remove its snapshots under index.snapshot_url"
        )
