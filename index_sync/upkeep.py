"""A shard's life beside applying: restored once, sealed and merged in the background, snapshotted now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from index_sync.checkpoint import Manifest, ShardIdentity
from index_sync.delete_watch import DeleteWatch
from index_sync.grouping import Grouping
from index_sync.kafka_facts import delete_retention_ms
from index_sync.shard import Shard
from index_sync.shard_state import ShardState
from index_sync.store_quantizer import QuantizerStore
from index_sync.store_snapshot import Restored, SnapshotStore
from pinstream import metrics
from pinstream.clock import Clock
from pinstream.errors import FatalError, OwnershipLostError, RetryableError
from pinstream.interpreter import step_back
from pinstream.object_store import open_store
from pinstream.settings import Settings

log = logging.getLogger(__name__)

RESTORE_PATIENCE_S: Final = 30.0
"""A store that is away for longer at assignment stops the worker: it must not serve an empty shard."""
TICK_S: Final = 0.2
PREPARE_S: Final = 0.05
"""Between two looks at how much memory a shard's next rows will take."""
TAKE_OVER_INTERVALS: Final = 3
"""Snapshot intervals without a newer snapshot after which a fenced writer takes over."""


class HostedShard:
    """One shard of this process with its snapshots. `publish` and `snapshot` may be called by any thread, in turn."""

    def __init__(self, settings: Settings, identity: ShardIdentity, clock: Clock) -> None:
        """Restore the newest snapshot that is whole and young enough. Blocks.

        Raises:
            FatalError: the store is away or refuses us, or its snapshots are of another generation.
        """
        self.identity = identity
        self._clock = clock
        store = open_store(settings.snapshot_url, settings.fetch.store_options, setting="index.snapshot_url", retries=3)
        self._store = SnapshotStore(store, identity, keep=settings.index.keep_snapshots)
        self._turn = threading.Lock()
        retention_ms = tombstones_stay_ms(settings, identity.topic)
        now_ms = clock.wall_ms()
        state, complete_ms = trusted_state(identity, _patiently(self._store.restore), retention_ms, now_ms)
        self._deletes = DeleteWatch(complete_ms, retention_ms)
        self.shard = Shard(identity.bits, seal_rows=settings.index.seal_rows, state=state)
        self.saved_checkpoint = state.checkpoint
        self._saved_complete_ms = complete_ms
        self.saved_at_s = clock.monotonic_s()
        quantizers = QuantizerStore(store, identity.topic, identity.bits)
        self._grouping = Grouping(
            self.shard,
            quantizers,
            lists=settings.index.coarse_lists,
            train_rows=settings.index.train_rows,
            monotonic_s=clock.monotonic_s,
        )
        self._fence = Fence(TAKE_OVER_INTERVALS * settings.index.snapshot_interval_s)
        log.info("shard %s: %d Pins, checkpoint %d", identity.name, state.live_rows, state.checkpoint)

    def publish(self) -> Manifest:
        """Save the state and tidy up. Blocks.

        Raises:
            OwnershipLostError: another writer has published a snapshot of this shard.
            RetryableError, FatalError: the store is away, or refuses us.
        """
        with self._turn:
            complete_ms = self._deletes.complete_ms  # before the state, which may only be younger
            manifest = self._store.save(self.shard.capture().state(), self._clock.wall_ms(), complete_ms)
            self.saved_checkpoint = manifest.checkpoint
            self._saved_complete_ms = complete_ms
            self._store.retain()
            return manifest

    def held_all(self, now_ms: int) -> None:
        """Note that the shard holds all that its partition had at `now_ms`. One thread calls it."""
        behind_since_ms = self._deletes.complete_ms
        if self._deletes.held_all(now_ms):
            log.error(
                "shard %s was behind its topic for %.1f h, longer than tombstones stay there (delete.retention.ms): it "
                "may have missed deletes, and its snapshots are not trusted; restart this worker to rebuild it",
                *(self.identity.name, (now_ms - behind_since_ms) / 3_600_000),
            )

    def snapshot(self) -> bool:
        """Publish the state if it moved or the last snapshot gets old; True if what is published is as good. Blocks.

        A store that is away costs a longer replay at the next start, no more: it is logged and counted.
        """
        self.saved_at_s = self._clock.monotonic_s()
        if self.shard.checkpoint == self.saved_checkpoint and not self._deletes.outgrew(self._saved_complete_ms):
            return True
        started_s = time.monotonic()
        try:
            if not self._may_publish():
                return False
            manifest = self.publish()
        except OwnershipLostError as error:
            self._fence.close(self._clock.monotonic_s())
            metrics.SNAPSHOTS.labels("fenced").inc()
            log.warning("no snapshots of %s from here while another writer is at it: %s", self.identity.name, error)
            return False
        except (RetryableError, FatalError) as error:
            metrics.SNAPSHOTS.labels("failed").inc()
            log.warning("snapshot of %s failed: %s", self.identity.name, error)
            return False
        metrics.SNAPSHOTS.labels("published").inc()
        metrics.SNAPSHOT_SECONDS.observe(time.monotonic() - started_s)
        metrics.SNAPSHOT_TIME.labels(str(self.identity.partition)).set(manifest.created_ms / 1000)
        return True

    def _may_publish(self) -> bool:
        """Not fenced; or fenced by a writer that fell silent and left a snapshot that is behind this shard."""
        if not self._fence.closed:
            return True
        newest = self._store.newest()
        if newest is not None and newest.checkpoint >= self.shard.checkpoint:
            return False
        if not self._fence.opens(newest.number if newest else 0, self._clock.monotonic_s()):
            return False
        self._store.take_over()
        log.warning("snapshots of %s go on from here: the other writer is silent", self.identity.name)
        return True

    def merge_once(self) -> bool:
        """Seal or merge what the policy chooses; False if all is well. Blocks for the merge, and nobody else."""
        self.shard.seal_full()
        plan = self.shard.plan_merge()
        if plan is None:
            return False
        try:
            result = plan.run()
        except BaseException:
            self.shard.abandon(plan)
            raise
        self.shard.install(result)
        return True

    def group(self) -> None:
        """Find or train the quantizer, or calibrate, if that is due. Blocks for the work, and nobody else."""
        self._grouping.step()


class Fence:
    """Decides when a fenced writer that still owns its shard may publish again. Pure; not thread-safe.

    The other one may be a replica or a successor, which goes on publishing, or a `pinstream snapshot` command or a
    process that died, which does not: then nobody would write any more.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._since_s = 0.0
        self._number = 0
        self.closed = False

    def close(self, now_s: float) -> None:
        self.closed, self._since_s, self._number = True, now_s, 0

    def opens(self, newest_number: int, now_s: float) -> bool:
        """Told the newest snapshot's number: True, and open, once that has not changed for the whole silence."""
        if newest_number != self._number:
            self._number, self._since_s = newest_number, now_s
        self.closed = now_s - self._since_s < self._silence_s
        return not self.closed


def trusted_state(
    identity: ShardIdentity, restored: Restored, retention_ms: int, now_ms: int
) -> tuple[ShardState, int]:
    """The state to start from, and when it held all that the partition had (epoch milliseconds).

    It is empty if there is no snapshot, or one that is older than tombstones stay on the topic.
    """
    empty = ShardState.empty(identity.bits // 8), now_ms
    if restored.manifest is None:
        return empty
    trusted_from_ms = restored.manifest.trusted_from_ms
    age_ms = now_ms - trusted_from_ms
    if age_ms <= retention_ms:
        return restored.state, trusted_from_ms
    log.warning(
        "snapshot %d of %s is %.1f h old, and tombstones stay on the topic for %.1f h (delete.retention.ms): it may "
        "have missed deletes, so the shard is rebuilt from offset 0",
        *(restored.manifest.number, identity.name, age_ms / 3_600_000, retention_ms / 3_600_000),
    )
    return empty


def tombstones_stay_ms(settings: Settings, topic: str) -> int:
    """The topic's `delete.retention.ms`; the setting, with a warning, while the broker is away. Blocks."""
    try:
        return delete_retention_ms(settings, topic)
    except RetryableError as error:
        log.warning(
            "%s; taking topics.delete_retention_ms, %d, for that of the topic",
            *(error, settings.topics.delete_retention_ms),
        )
        return settings.topics.delete_retention_ms


class Upkeep:
    """Threads that serve all shards of the process in turn: one merges, one snapshots, one has memory at hand.

    So a slow store delays no merge, and neither of them an apply.

    Args:
        shards: the shards that are hosted now.
        on_fatal: called with what must stop the worker.
    """

    def __init__(
        self,
        shards: Callable[[], list[HostedShard]],
        clock: Clock,
        snapshot_interval_s: float,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._shards = shards
        self._clock = clock
        self._interval_s = snapshot_interval_s
        self._on_fatal = on_fatal
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(work, tick_s), name=name, daemon=True)
            for name, work, tick_s in (
                ("merge", self._merge, TICK_S),
                ("snapshot", self._snapshot, TICK_S),
                ("memory", self._prepare, PREPARE_S),
            )
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the merge and the snapshot under way."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _run(self, work: Callable[[HostedShard], None], tick_s: float) -> None:
        step_back()
        try:
            while not self._stop.wait(tick_s):
                for hosted in self._shards():
                    work(hosted)
        except Exception as error:  # noqa: BLE001 (a thread must not die in silence: the worker stops with it)
            self._on_fatal(error)

    def _merge(self, hosted: HostedShard) -> None:
        while not self._stop.is_set() and hosted.merge_once():
            pass
        hosted.group()
        _report(hosted)

    def _prepare(self, hosted: HostedShard) -> None:
        hosted.shard.prepare()

    def _snapshot(self, hosted: HostedShard) -> None:
        if self._clock.monotonic_s() - hosted.saved_at_s >= self._interval_s:
            hosted.snapshot()


def forget_metrics(partition: int) -> None:
    """Remove the series of a shard that is no longer here."""
    for gauge in (metrics.INDEX_CHECKPOINT, metrics.INDEX_SEGMENTS, metrics.SNAPSHOT_TIME):
        gauge.remove_by_labels({"partition": str(partition)})
    metrics.INDEX_ROWS.remove_by_labels({"partition": str(partition)})


def _report(hosted: HostedShard) -> None:
    view = hosted.shard.view()
    label = str(hosted.identity.partition)
    metrics.INDEX_ROWS.labels(label, "live").set(view.live_rows)
    metrics.INDEX_ROWS.labels(label, "dead").set(view.dead_rows)
    metrics.INDEX_CHECKPOINT.labels(label).set(view.checkpoint)
    metrics.INDEX_SEGMENTS.labels(label).set(sum(one.segment.is_sealed for one in view.segments))


def _patiently(attempt: Callable[[], Restored]) -> Restored:
    deadline_s = time.monotonic() + RESTORE_PATIENCE_S
    wait_s = 0.2
    while True:
        try:
            return attempt()
        except RetryableError as error:
            if time.monotonic() + wait_s > deadline_s:
                raise FatalError(f"{error}; tried for {RESTORE_PATIENCE_S:g} s: check index.snapshot_url") from error
            log.warning("%s; trying again", error)
            time.sleep(wait_s)
            wait_s = min(5.0, 2 * wait_s)
