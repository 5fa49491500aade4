"""The index worker: poll → decode → apply → searchable; and beside it upkeep, leases and HTTP.

The polling thread is the only writer of its shards. A shard comes with its partition: restored from its newest
snapshot, read on from the checkpoint in it, and handed over with a last snapshot.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import faiss
import numpy as np
from confluent_kafka import Message

from consumers.kafka_ends import LogEnds
from consumers.kafka_lag import LagMonitor
from consumers.kafka_source import KafkaSource, by_partition
from index_sync.calibration import Effort
from index_sync.checkpoint import ShardIdentity
from index_sync.code_batch import CodeBatch, build_code_batch
from index_sync.device_scan import open_device
from index_sync.grpc_leaf import GrpcLeafServer
from index_sync.hamming_scan import load as load_scans
from index_sync.http_audit import add_audit
from index_sync.http_search import add_search
from index_sync.leaf import LocalLeaf
from index_sync.recall_probe import RecallProbe
from index_sync.redis_leases import LeaseBook
from index_sync.replica_shard import ReplicaShard
from index_sync.root import Root
from index_sync.search_service import QueryEncoder, SearchService
from index_sync.searcher import Searcher
from index_sync.shard import ApplyResult
from index_sync.upkeep import HostedShard, Upkeep, forget_metrics
from pinstream import metrics
from pinstream.clock import Clock, SystemClock
from pinstream.codes import Fingerprint, RefusedCode
from pinstream.errors import FatalError, PinstreamError, RetryableError
from pinstream.http_status import HttpServer, status_app
from pinstream.kafka_clients import instance_name, reachable_admin, redis_url
from pinstream.kafka_topics import codes_topic, ensure_topics
from pinstream.settings import Settings

log = logging.getLogger(__name__)

POLL_WAIT_S: Final = 0.05
BROKER_WAIT_S: Final = 10.0
RECENT_S: Final = 30.0


class IndexWorker:
    """One process's index worker. `run` blocks until `stop` (from any thread or a signal handler) or a fatal error.

    Args:
        encode_query: embeds query images with the model of this generation; None: search by Pin id and code only.

    Raises:
        FatalError: from the constructor: Kafka is unreachable, the topic is not as designed, settings are wrong.
    """

    def __init__(
        self,
        settings: Settings,
        model: Fingerprint,
        bits: int,
        encode_query: QueryEncoder | None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._model = model
        self._bits = bits
        self._clock: Clock = clock or SystemClock()
        self._topic = model.codes_topic
        replica = settings.index.replica
        beside = f"-r{replica}" if replica else ""
        self.group_id = (settings.index.group_id or f"pinstream-index-{model.short}") + beside
        instance = instance_name(settings.index.instance_id) + beside
        ensure_topics(reachable_admin(settings), (codes_topic(settings.topics, model),), settings.topics)

        self._log_ends = LogEnds(settings)
        self._hosted: dict[int, HostedShard] = {}
        self._searchable_from: dict[int, int] = {}
        """Offsets below were searchable before a restart: reading them again says nothing about freshness."""
        self._ends: dict[int, int] = {}
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._last_apply_s = time.monotonic()
        self._source = KafkaSource(settings, self._topic, self.group_id, f"pinstream-index-{instance}", self)
        self.lag = LagMonitor(self._log_ends, settings.cluster_name, self.group_id, self._topic, self._clock)
        self._upkeep = Upkeep(
            lambda: list(self._hosted.values()), self._clock, settings.index.snapshot_interval_s, self._fail
        )
        device = open_device(settings.index.device, settings.index.device_memory_gib)
        log.info("the loops that scan codes are loaded, in %.1f s", load_scans())
        self._searcher = Searcher(settings.index.search_threads, device)
        recall_target = settings.index.recall_target
        own_effort = None if recall_target == 1 else Effort(recall_target)
        self._probe = RecallProbe(model.short, settings.index.recall_sample_per_s, own_effort, self._clock)
        self._leaf = LocalLeaf(
            self._searcher,
            model.hex,
            self.lag.lags,
            lanes=settings.index.search_threads,
            max_batch=settings.index.max_batch_queries,
            max_waiting=settings.http.max_concurrent + settings.http.max_waiting,
            probe=self._probe,
        )
        self._leaf_server = GrpcLeafServer(self._leaf, settings.http, model.hex, bits)
        self._leases = LeaseBook(
            redis_url(settings),
            model,
            instance,
            address=self._leaf_server.address,
            replica=replica,
            status=self._leaf.status,
            timeout_s=settings.redis.timeout_s,
            url_of_http=lambda: self.http.url,
        )
        self._root = Root(
            self._leaf,
            self._leases.others,
            model=model.hex,
            bits=bits,
            partitions=settings.topics.partitions,
            max_lag_s=settings.index.max_replica_lag_s,
        )
        self._service = SearchService(
            self._root,
            encode_query,
            settings.http,
            model=model.hex,
            bits=bits,
            partitions=settings.topics.partitions,
            recall_target=settings.index.recall_target,
        )
        app = status_app(self._why_not_ready, self._info, "pinstream index worker")
        add_search(app, self._service, settings.http)
        add_audit(app, lambda p: hosted.shard.view() if (hosted := self._hosted.get(p)) else None, model.hex)
        self.http = HttpServer(app, settings.http)

    def run(self) -> None:
        """Work until stopped; then snapshot, leave the group and return.

        Raises:
            PinstreamError: what stopped the worker; the topic holds all that was not in a snapshot.
        """
        for part in (self.lag, self._upkeep, self._probe, self._leaf_server, self._leases, self.http):
            part.start()
        log.info(
            "index worker of model %s reads %s, search on %s, faiss %s (%s)",
            *(self._model.short, self._topic, self.http.url, faiss.__version__, faiss.get_compile_options().strip()),
        )
        try:
            while not self._stop.is_set():
                self._run_once()
        except PinstreamError as error:
            self._failure = self._failure or error
        finally:
            self._close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask `run` to snapshot and return. Does not block."""
        self._stop.set()

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        """The group gave us these partitions: restore their shards and read on from the checkpoints."""
        log.info("assigned partitions %s", sorted(partitions))
        self.lag.assigned(partitions)
        starts: dict[int, int] = {}
        try:
            ends = self._log_ends.ask(self._topic, partitions, BROKER_WAIT_S)
            self._searchable_from |= self._committed(partitions, ends)
            for partition in partitions:
                starts[partition] = self._host(partition, ends.get(partition))
        except PinstreamError as error:
            self._fail(error)
        self._serve()
        return starts

    def _committed(self, partitions: list[int], ends: dict[int, int]) -> dict[int, int]:
        """The group's offsets; while the broker can't tell them, where the partitions end."""
        try:
            return self._source.committed(partitions, BROKER_WAIT_S)
        except RetryableError as error:
            log.warning("freshness counts what comes after the present end of the topic: %s", error)
            return ends

    def revoked(self, partitions: list[int]) -> None:
        """The group takes these partitions: snapshot their shards, so that the next owner starts from there."""
        log.info("revoked partitions %s", sorted(partitions))
        self._drop(partitions, last_snapshot=True)

    def lost(self, partitions: list[int]) -> None:
        """The group gave these partitions to another member already."""
        log.warning("lost partitions %s", sorted(partitions))
        self._drop(partitions, last_snapshot=False)

    def _host(self, partition: int, end_offset: int | None) -> int:
        identity = ShardIdentity(
            topic=self._topic,
            partition=partition,
            partitions=self._settings.topics.partitions,
            bits=self._bits,
            model=self._model.hex,
        )
        kind = ReplicaShard if self._settings.index.replica else HostedShard
        hosted = kind(self._settings, identity, self._clock)
        checkpoint = hosted.shard.checkpoint
        if end_offset is not None and checkpoint > end_offset:
            raise FatalError(
                f"the snapshot of {identity.name} ends at offset {checkpoint} and the topic at {end_offset}: the topic "
                "was made anew; remove its snapshots under index.snapshot_url and start again"
            )
        self._hosted = {**self._hosted, partition: hosted}
        self._leaf.add(partition, hosted.shard)
        self.lag.done({partition: checkpoint})
        return checkpoint

    def _drop(self, partitions: list[int], *, last_snapshot: bool) -> None:
        self.lag.revoked(partitions)
        for partition in partitions:
            hosted = self._hosted.get(partition)
            self._hosted = {p: kept for p, kept in self._hosted.items() if p != partition}
            self._leaf.remove(partition)
            self._searchable_from.pop(partition, None)
            self._ends.pop(partition, None)
            if hosted is not None:
                if last_snapshot:
                    hosted.snapshot()
                forget_metrics(partition)
        self._serve()

    def _serve(self) -> None:
        self._leases.renew()
        metrics.ASSIGNED_PARTITIONS.set(len(self._hosted))

    def _run_once(self) -> None:
        self._ends.clear()
        messages = self._source.poll(self._settings.index.max_apply_records, POLL_WAIT_S, self._ends.__setitem__)
        done: dict[int, int] = {}
        for partition, records in by_partition(messages).items():
            if partition in self._hosted:
                done[partition] = self._apply(self._hosted[partition], records)
        for partition, offset in self._ends.items():
            if partition in self._hosted:
                done[partition] = self._reach_end(self._hosted[partition], offset)
        if done:
            self.lag.done(done)
            self._source.commit_soon(done)
        for partition, complete_ms in self.lag.complete_ms().items():
            if partition in self._hosted:
                self._hosted[partition].held_all(complete_ms)

    def _apply(self, hosted: HostedShard, messages: Sequence[Message]) -> int:
        """Apply one partition's records; return its next offset."""
        partition = hosted.identity.partition
        batch, refused = build_code_batch(messages, self._bits, self._model)
        for one in refused:
            log.error(
                "refused record at %s partition %d offset %s: %s",
                *(self._topic, partition, messages[one.position].offset(), one.message),
            )
        if refused:
            metrics.INDEX_RECORDS.labels("refused").inc(len(refused))
            self._stop_on_another_model(hosted, batch, refused)
        with metrics.APPLY_SECONDS.time():
            result = hosted.shard.apply(batch)
        self._leaf.applied(partition, hosted.shard.checkpoint)
        self._last_apply_s = time.monotonic()
        self._observe(partition, batch, messages)
        _count(result)
        return batch.next_offset

    def _stop_on_another_model(self, hosted: HostedShard, batch: CodeBatch, refused: Sequence[RefusedCode]) -> None:
        """A stray record is passed over; a topic that begins with another model's codes is the wrong topic.

        Raises:
            FatalError: nothing but codes of other models so far.
        """
        strange = [one for one in refused if one.reason in ("model", "length")]
        if hosted.shard.checkpoint == 0 and not len(batch) and len(strange) == len(refused):
            raise FatalError(
                f"{self._topic} holds codes of another model: {strange[0].message}; "
                "models never mix, give this worker the model that the topic was written with"
            )

    def _reach_end(self, hosted: HostedShard, offset: int) -> int:
        """The reader stands at the end, past control records: so does the checkpoint."""
        if offset > hosted.shard.checkpoint:
            batch, _ = build_code_batch([], self._bits, self._model, next_offset=offset)
            hosted.shard.apply(batch)
            self._leaf.applied(hosted.identity.partition, hosted.shard.checkpoint)
        return max(offset, hosted.shard.checkpoint)

    def _observe(self, partition: int, batch: CodeBatch, messages: Sequence[Message]) -> None:
        """Event time → searchable, of the records that are searchable for the first time."""
        first = messages[0].offset()
        if first is None or first < self._searchable_from.get(partition, 0) or not len(batch):
            return
        known = batch.event_time_ms[batch.event_time_ms >= 0]
        metrics.FRESHNESS.observe("searchable", (self._clock.wall_ms() - known.astype(np.float64)) / 1000)

    def _fail(self, error: BaseException) -> None:
        """Stop with this error; the first one counts. Any thread."""
        if self._failure is None:
            self._failure = error
        self._stop.set()

    def _close(self) -> None:
        self._leases.stop()
        self._upkeep.stop()
        self._source.close()
        self.lag.stop()
        self.http.stop()
        self._service.close()
        self._leaf_server.stop()
        self._root.close()
        self._leaf.close()
        self._probe.stop()
        self._searcher.close()

    def _why_not_ready(self) -> str | None:
        if not self._hosted:
            return "no partition is assigned yet"
        lags = self.lag.lags()
        behind = sum(lag.records for lag in lags.values())
        if len(lags) < len(self._hosted):
            return "the end of the topic is not known yet"
        idle_s = time.monotonic() - self._last_apply_s
        if behind and idle_s > RECENT_S:
            return f"{behind} records behind and nothing was applied for {idle_s:.0f} s"
        return None

    def _info(self) -> Mapping[str, Any]:
        return {
            "role": "index",
            "model": self._model.hex,
            "bits": self._bits,
            "group": self.group_id,
            "replica": self._settings.index.replica,
            "leaf": self._leaf_server.address,
            "leaves": {
                lease.instance: {"replica": lease.replica, "shards": sorted(lease.status.shards)}
                for lease in self._leases.others()
            },
            "codes_topic": self._topic,
            "partitions": self._settings.topics.partitions,
            "shards": {p: hosted.shard.view().live_rows for p, hosted in sorted(self._hosted.items())},
            "snapshot_url": self._settings.snapshot_url,
            "faiss": f"{faiss.__version__} {faiss.get_compile_options().strip()}",
        }


def _count(result: ApplyResult) -> None:
    for effect in ("inserted", "updated", "deleted", "absent", "superseded", "stale"):
        count = getattr(result, effect)
        if count:
            metrics.INDEX_RECORDS.labels(effect).inc(count)
