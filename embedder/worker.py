"""The embed worker: poll → parse → look up → fetch and decode → encode → publish → commit.

Threads, joined by queues whose bound is `max_in_flight` (docs/architecture.md draws them): this one polls; a pool
fetches and decodes; one encodes; one publishes. A slow stage fills the flight, the flight pauses the partitions, and
the poll thread goes on polling so that the group sees a live member.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import Message

from consumers.backpressure import Backpressure, Flow
from consumers.image_fetch import ImageFetcher
from consumers.kafka_ends import LogEnds
from consumers.kafka_lag import LagMonitor
from consumers.kafka_source import KafkaSource
from consumers.pace import Pacer
from consumers.redis_plan import PlanFollower
from consumers.replay_plan import ReplayPlan
from embedder.breaker import Breaker
from embedder.encode_stage import EncodeStage, ImageEncoder
from embedder.fetch_stage import FetchStage
from embedder.pin_work import ImageArray, Outcome, PinWork, leave_out, supersede_deleted, work_of
from embedder.publication import PublicationPlan
from embedder.publish_stage import PublishStage
from embedder.redis_code_cache import RedisCodeCache
from pinstream import metrics
from pinstream.clock import Clock, SystemClock
from pinstream.codes import Fingerprint
from pinstream.errors import PinstreamError, RetryableError
from pinstream.events import Box
from pinstream.http_status import HttpServer, status_app
from pinstream.kafka_clients import instance_name, reachable_admin, redis_url
from pinstream.kafka_topics import codes_topic, ensure_topics, pins_topics
from pinstream.settings import Settings
from producers.kafka_codes import CodesPublisher

log = logging.getLogger(__name__)

POLL_WAIT_S: Final = 0.05
MAX_POLL_RECORDS: Final = 2048
COMMITTED_TIMEOUT_S: Final = 5.0
COMMITTED_PATIENCE_S: Final = 20.0
"""How long a replay of a part of history waits for the group's offsets, without which it can't know where it is."""
RECENT_S: Final = 30.0
"""Ready means: a commit within this time, or nothing to do."""


class EmbedWorker:
    """One process's embed worker. `run` blocks until `stop` (from any thread or a signal handler) or a fatal error.

    Args:
        image_input: encoded bytes and a crop → the encoder's input; thread-safe.
        plan: of this model's generation, as the registry has it now; its pace is followed in Redis from then on.

    Raises:
        FatalError: from the constructor: Kafka is unreachable, topics are not as designed, settings are wrong.
    """

    def __init__(
        self,
        settings: Settings,
        encoder: ImageEncoder,
        image_input: Callable[[bytes, Box | None], ImageArray],
        model: Fingerprint,
        clock: Clock | None = None,
        plan: ReplayPlan | None = None,
    ) -> None:
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._model = model
        self._image_bytes = encoder.input_size**2 * 3
        embed, topics = settings.embed, settings.topics
        instance = instance_name(embed.instance_id)
        self.group_id = embed.group_id or f"pinstream-embed-{model.short}"
        admin = reachable_admin(settings)
        ensure_topics(admin, (*pins_topics(topics), codes_topic(topics, model)), topics)

        self._source = KafkaSource(settings, topics.pins, self.group_id, f"pinstream-embed-{instance}", self)
        self.lag = LagMonitor(LogEnds(settings), settings.cluster_name, self.group_id, topics.pins, self._clock)
        self._cache = RedisCodeCache(redis_url(settings), model, encoder.bits, settings.redis.timeout_s)
        self._fetcher = ImageFetcher(settings.fetch)
        self._publish = PublishStage(
            CodesPublisher(settings, f"{model.short}-{instance}", self._source.commit_soon),
            PublicationPlan(model, encoder.bits, topics.codes_schema_id, topics.pins, topics.dead_letters),
            Breaker(embed.breaker_bad_in_a_row),
            self._clock,
            max_records=embed.max_publish_records,
            group_metadata=self._source.group_metadata,
            on_committed=self._committed,
            on_fatal=self._fail,
        )
        self._encode = EncodeStage(
            encoder,
            self._cache,
            self._clock,
            max_batch_size=embed.max_batch_size,
            max_batch_delay_s=embed.max_batch_delay_ms / 1000,
            on_done=self._encoded,
            on_fatal=self._fail,
        )
        self._fetch = FetchStage(
            self._fetcher,
            image_input,
            threads=embed.fetch_threads,
            on_ready=self._encode.submit,
            on_done=lambda _work: self._publish.wake(),
            on_fatal=self._fail,
        )
        self._plan = PlanFollower(redis_url(settings), model, plan or ReplayPlan(), settings.redis.timeout_s)
        self._pacer = Pacer()
        self._backpressure = Backpressure(embed.max_in_flight, embed.max_in_flight_bytes)
        self._stop = threading.Event()
        self._has_room = threading.Event()
        """Set by every commit: a full flight may have room again."""
        self._failure: BaseException | None = None
        self._last_commit_s = time.monotonic()
        self._assigned: set[int] = set()
        self._behind: set[int] = set()
        """Assigned, and not yet read to the end: what a replay's pace holds back."""
        self.http = HttpServer(status_app(self._why_not_ready, self._info, "pinstream embed worker"), settings.http)

    def run(self) -> None:
        """Work until stopped; then drain, leave the group and return.

        Raises:
            PinstreamError: what stopped the worker; nothing that was not committed is lost.
        """
        for part in (self._publish, self._encode, self._fetch, self.lag, self._plan, self.http):
            part.start()
        log.info(
            "embed worker of model %s: %s → %s, status on %s",
            *(self._model.short, self._settings.topics.pins, self._model.codes_topic, self.http.url),
        )
        try:
            while not self._stop.is_set():
                self._run_once()
            if self._failure is None:
                self._drain()
        except PinstreamError as error:
            self._failure = self._failure or error
        finally:
            self._close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Ask `run` to drain and return. Does not block."""
        self._stop.set()

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        """The group gave us these partitions: start at its committed offsets, or where the replay's plan says."""
        log.info("assigned partitions %s", sorted(partitions))
        self._assigned.update(partitions)
        self._behind.update(partitions)
        self._publish.assigned(partitions)
        self.lag.assigned(partitions)
        metrics.ASSIGNED_PARTITIONS.set(len(self._assigned))
        plan = self._plan.plan
        try:
            patience_s = COMMITTED_PATIENCE_S if plan.starts else COMMITTED_TIMEOUT_S
            committed = self._source.committed(partitions, patience_s)
        except RetryableError as error:
            if plan.starts:
                raise  # from 0 on it would embed what was left out: stop, and start again
            log.warning("lag is not known until the first commit: %s", error)
            return {}
        starts = plan.start_offsets(partitions, committed)
        self.lag.done({**starts, **committed})
        return starts

    def revoked(self, partitions: list[int]) -> None:
        """The group takes these partitions: what is committed stays, the rest is the next owner's."""
        log.info("revoked partitions %s", sorted(partitions))
        self._publish.revoked(partitions)
        self._forget(partitions)

    def lost(self, partitions: list[int]) -> None:
        """The group gave these partitions to another member already."""
        log.warning("lost partitions %s: their work in flight is dropped", sorted(partitions))
        self._publish.lost(partitions)
        self._forget(partitions)

    def _run_once(self) -> None:
        self._has_room.clear()
        records, size_bytes = self._publish.in_flight()
        paced = self._paced()
        if self._regulate(records, size_bytes, held=paced == 0) is Flow.WAIT:
            self._has_room.wait(POLL_WAIT_S)
            return
        room = min(MAX_POLL_RECORDS, max(1, self._backpressure.room(records)), max(1, paced))
        messages = self._source.poll(int(room), POLL_WAIT_S, self._end_reached)
        if messages:
            self._pacer.took(len(messages))
            self._accept(messages)
        self.lag.heads(self._publish.heads())

    def _paced(self) -> float:
        """How many records the replay's pace lets through now."""
        now_s = self._clock.monotonic_s()
        partitions = self._settings.topics.partitions
        self._pacer.set(self._plan.plan.rate_per_s(len(self._assigned), len(self._behind), partitions), now_s)
        return self._pacer.room(now_s)

    def _end_reached(self, partition: int, offset: int) -> None:
        self._behind.discard(partition)
        self._publish.end_reached(partition, offset)

    def _regulate(self, records: int, size_bytes: int, *, held: bool) -> Flow:
        flow = self._backpressure.decide(records, size_bytes, self._clock.monotonic_s(), held=held)
        if flow is Flow.PAUSE:
            self._source.pause()
        elif flow is Flow.RESUME:
            self._source.resume()
        metrics.PAUSED_PARTITIONS.set(self._source.paused_partitions)
        metrics.IN_FLIGHT_RECORDS.set(records)
        metrics.IN_FLIGHT_BYTES.set(size_bytes)
        metrics.QUEUE_DEPTH.labels("fetch").set(self._fetch.depth)
        metrics.QUEUE_DEPTH.labels("encode").set(self._encode.depth)
        return flow

    def _accept(self, messages: Sequence[Message]) -> None:
        works = [work_of(message) for message in messages]
        for work in works:
            work.parse()
        leave_out(works, self._plan.plan)
        supersede_deleted(works)
        pending = [work for work in works if not work.done]
        for work in pending:
            work.size_bytes += self._image_bytes
        self._publish.add(works)
        self._look_up(pending)
        for work in pending:
            if not work.done and not work.dropped:
                self._fetch.submit(work)
        self._publish.wake()
        now_ms = self._clock.wall_ms()
        metrics.FRESHNESS.observe("polled", [(now_ms - work.event_time_ms) / 1000 for work in pending])

    def _look_up(self, pending: Sequence[PinWork]) -> None:
        """Answer what the cache knows of the images that their events name by content: one MGET."""
        asked = [(work, key) for work in pending if (key := work.cache_key) is not None]
        for (work, _), code in zip(asked, self._cache.lookup([key for _, key in asked]), strict=True):
            work.looked_up = True
            if code is not None:
                work.finish(Outcome.CACHED, code)

    def _encoded(self, works: Sequence[PinWork]) -> None:
        now_ms = self._clock.wall_ms()
        metrics.FRESHNESS.observe("encoded", [(now_ms - work.event_time_ms) / 1000 for work in works])
        self._publish.wake()

    def _committed(self, next_offsets: dict[int, int]) -> None:
        self._last_commit_s = time.monotonic()
        self._has_room.set()
        self.lag.done(next_offsets)

    def _forget(self, partitions: list[int]) -> None:
        self._assigned.difference_update(partitions)
        self._behind.difference_update(partitions)
        self.lag.revoked(partitions)
        metrics.ASSIGNED_PARTITIONS.set(len(self._assigned))

    def _fail(self, error: BaseException) -> None:
        """Stop with this error; the first one counts. Any thread."""
        if self._failure is None:
            self._failure = error
        self._stop.set()

    def _drain(self) -> None:
        """Poll no more records, finish those in flight, up to `drain_timeout_s`."""
        deadline_s = time.monotonic() + self._settings.embed.drain_timeout_s
        self._source.pause()
        while time.monotonic() < deadline_s and self._failure is None:
            records, _ = self._publish.in_flight()
            if records == 0:
                return
            self._source.poll(1, POLL_WAIT_S, self._end_reached)
        log.warning("%d records were not done in time: the group reads them again", self._publish.in_flight()[0])

    def _close(self) -> None:
        self.http.stop()
        self._publish.stop()
        self._source.close()
        self.lag.stop()
        self._plan.stop()
        self._encode.stop()
        self._fetch.stop()
        self._fetcher.close()

    def _why_not_ready(self) -> str | None:
        if not self._assigned:
            return "no partition is assigned yet"
        idle_s = time.monotonic() - self._last_commit_s
        behind = sum(lag.records for lag in self.lag.lags().values())
        if behind and idle_s > RECENT_S and not self._plan.plan.paused:
            return f"{behind} records behind and nothing was committed for {idle_s:.0f} s"
        return None

    def _info(self) -> Mapping[str, Any]:
        embed = self._settings.embed
        return {
            "role": "embed",
            "model": self._model.hex,
            "group": self.group_id,
            "pins_topic": self._settings.topics.pins,
            "codes_topic": self._model.codes_topic,
            "delivery": embed.delivery.value,
            "assigned_partitions": sorted(self._assigned),
            "max_batch_size": embed.max_batch_size,
            "max_batch_delay_ms": embed.max_batch_delay_ms,
            "max_in_flight": embed.max_in_flight,
            "replay": self._replay_info(),
        }

    def _replay_info(self) -> Mapping[str, Any]:
        plan = self._plan.plan
        return {
            "paused": plan.paused,
            "max_records_per_s": plan.max_records_per_s,
            "partitions_behind": sorted(self._behind),
        }
