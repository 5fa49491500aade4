"""A shard's life beside applying: restored once, sealed and merged in the background, snapshotted now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from index_sync.checkpoint import ShardIdentity
from index_sync.shard import Shard
from index_sync.store_snapshot import Restored, SnapshotStore
from pinstream import metrics
from pinstream.clock import Clock
from pinstream.errors import FatalError, OwnershipLostError, RetryableError
from pinstream.object_store import open_store
from pinstream.settings import Settings

log = logging.getLogger(__name__)

RESTORE_PATIENCE_S: Final = 30.0
"""A store that is away for longer at assignment stops the worker: it must not serve an empty shard."""
TICK_S: Final = 0.2


class HostedShard:
    """One shard of this process with its snapshots. `snapshot` may be called by any thread; they take turns."""

    def __init__(self, settings: Settings, identity: ShardIdentity, clock: Clock) -> None:
        """Restore the newest snapshot that is whole and young enough. Blocks.

        Raises:
            FatalError: the store is away or refuses us, or its snapshots are of another generation.
        """
        self.identity = identity
        self._clock = clock
        store = open_store(settings.snapshot_url, settings.fetch.store_options, setting="index.snapshot_url", retries=3)
        self._store = SnapshotStore(store, identity, keep=settings.index.keep_snapshots)
        self._saving = threading.Lock()
        restored = _patiently(self._store.restore)
        state = restored.state
        if restored.manifest is not None:
            age_ms = clock.wall_ms() - restored.manifest.created_ms
            if age_ms > settings.topics.delete_retention_ms:
                log.warning(
                    "snapshot %d of %s is %.1f h old, longer than tombstones stay on the topic: it may have missed "
                    "deletes, so the shard is rebuilt from offset 0",
                    *(restored.manifest.number, identity.name, age_ms / 3_600_000),
                )
                state = type(state).empty(identity.bits // 8)
        self.shard = Shard(identity.bits, seal_rows=settings.index.seal_rows, state=state)
        self.saved_checkpoint = state.checkpoint
        self.saved_at_s = clock.monotonic_s()
        self.fenced = False
        log.info("shard %s: %d Pins, checkpoint %d", identity.name, state.live_rows, state.checkpoint)

    def snapshot(self) -> bool:
        """Publish the state if it moved since the last snapshot; True if it is published now. Blocks.

        A store that is away costs a longer replay at the next start, no more: it is logged and counted.
        """
        with self._saving:
            if self.fenced or self.shard.checkpoint == self.saved_checkpoint:
                return not self.fenced
            started_s = time.monotonic()
            try:
                manifest = self._store.save(self.shard.capture().state(), self._clock.wall_ms())
                self._store.retain()
            except OwnershipLostError as error:
                self.fenced = True
                metrics.SNAPSHOTS.labels("fenced").inc()
                log.warning("no more snapshots of %s from here: %s", self.identity.name, error)
                return False
            except (RetryableError, FatalError) as error:
                metrics.SNAPSHOTS.labels("failed").inc()
                log.warning("snapshot of %s failed: %s", self.identity.name, error)
                self.saved_at_s = self._clock.monotonic_s()
                return False
            self.saved_checkpoint = manifest.checkpoint
            self.saved_at_s = self._clock.monotonic_s()
            metrics.SNAPSHOTS.labels("published").inc()
            metrics.SNAPSHOT_SECONDS.observe(time.monotonic() - started_s)
            metrics.SNAPSHOT_TIME.labels(str(self.identity.partition)).set(manifest.created_ms / 1000)
            return True

    def merge_once(self) -> bool:
        """Seal or merge what the policy chooses; False if all is well. Blocks for the merge, and nobody else."""
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


class Upkeep:
    """One thread that merges and snapshots all shards of the process in turn.

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
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the merge or snapshot under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(TICK_S):
                for hosted in self._shards():
                    while hosted.merge_once() and not self._stop.is_set():
                        pass
                    if self._clock.monotonic_s() - hosted.saved_at_s >= self._interval_s:
                        hosted.snapshot()
                    _report(hosted)
        except Exception as error:  # noqa: BLE001 (a thread must not die in silence: the worker stops with it)
            self._on_fatal(error)


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
                raise FatalError(f"the snapshot store is away: {error}; check index.snapshot_url") from error
            log.warning("%s; trying again", error)
            time.sleep(wait_s)
            wait_s = min(5.0, 2 * wait_s)
