"""`pinstream rollout backfill`: plan → export → embed → publish → snapshots → the tail is the embed workers'.

Each step leaves its work in the store or in Kafka and is skipped when it is there, so the command is repeated until it
ends well. What counts is the group's committed offsets: until a record's offset is committed with its code, nothing of
it has happened, and ordinary embed workers could replay it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from confluent_kafka import KafkaException, TopicCollection

from index_sync.kafka_facts import delete_retention_ms
from pinstream.clock import Clock, SystemClock
from pinstream.codes import Fingerprint
from pinstream.errors import CorruptStateError, FatalError
from pinstream.kafka_clients import bootstrap_servers, reachable_admin, redis_url, translate
from pinstream.settings import Settings
from rollout.backfill.embedding import LoadModel
from rollout.backfill.jobs import Embed, Export, Snapshot
from rollout.backfill.kafka_publication import Publication, client_id
from rollout.backfill.plan import UPSERT, BackfillPlan, Bools, Int64s, Kinds, Part, chain, check_age, to_embed
from rollout.backfill.ray_engine import Engine, Job
from rollout.backfill.store_tables import BackfillTables
from rollout.catch_up import Seen
from rollout.controller import prepare
from rollout.generation import Generation, State
from rollout.kafka_offsets import GroupOffsets, embed_group, index_group
from rollout.retire import running_workers

log = logging.getLogger(__name__)

PART_ROWS = 32_768
"""About ten seconds of a GPU."""


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What one run of the command did."""

    parts: int
    embedded: int
    failed: int
    published: int
    """Codes, tombstones and dead letters."""
    snapshots: int
    """0: index workers run already and have read the codes as they came."""
    ends: tuple[int, ...]
    """By partition: where the tail begins."""


class Backfill:
    """One generation's. `run` blocks; repeat it after any failure.

    Args:
        settings: every machine of the engine must reach what they name.
        step: told what is done now, for people.
    """

    def __init__(
        self,
        settings: Settings,
        generation: Generation,
        load: LoadModel,
        *,
        part_rows: int = PART_ROWS,
        clock: Clock | None = None,
        step: Callable[[str], None] = log.info,
    ) -> None:
        self._settings = reachable_from_elsewhere(settings)
        self._generation = generation
        self._model = Fingerprint(generation.model)
        self._load = load
        self._part_rows = part_rows
        self._clock: Clock = clock or SystemClock()
        self._step = step
        self._tables = BackfillTables(settings, self._model)

    def run(self, engine: Engine, *, anew: bool = False) -> Backfilled:
        """Args:
            anew: forget what an earlier run has exported and embedded; what it published stays.

        Raises:
            FatalError: the generation is no longer replaying, embeds a part of the history only, or has embed workers
                that run; or the backfill takes longer than the topic keeps deletes.
            RetryableError: Kafka, the store or the cluster is away: run it again.
            CorruptStateError: a table is torn.
        """
        self._refuse_wrong_state()
        prepare(self._settings, self._model.hex)
        if anew:
            self._tables.clear()
        plan = self._plan()
        parts = embedded = failed = published = 0
        if not plan.is_done(self._seen().committed):
            parts = self._export(engine, plan)
            embedded, failed = self._embed(engine, plan)
            check_age(plan, self._clock.wall_ms(), delete_retention_ms(self._settings, plan.topic))
            self._step("publishing codes, tombstones and dead letters")
            published = Publication(self._settings, self._tables, plan).run()
        snapshots = self._snapshots(engine)
        self._tables.clear()
        return Backfilled(parts, embedded, failed, published, snapshots, plan.ends)

    def _refuse_wrong_state(self) -> None:
        one = self._generation
        short = one.model[:12]
        if one.state not in (State.CREATED, State.REPLAYING):
            raise FatalError(f"generation {short} is {one.state}, expected replaying: see `pinstream rollout start`")
        if one.replay.paused:
            raise FatalError(f"the replay of {short} is paused: `pinstream rollout resume {short}` first")
        if one.replay.domains or one.replay.partitions is not None or one.replay.from_time_ms is not None:
            raise FatalError(f"generation {short} was started with a part of the history; a backfill embeds all of it")
        group, own = embed_group(one.model), f": {client_id(self._model)}"
        members = [member for member in running_workers(self._settings, one.model) if member.startswith(group)]
        if members := [member for member in members if not member.endswith(own)]:
            raise FatalError(
                f"embed workers of {short} run and replay the topic themselves ({', '.join(members)}): "
                "stop them until the backfill is done"
            )

    def _plan(self) -> BackfillPlan:
        """The one of an earlier run, or a new one."""
        topic_id = self._topic_id()
        plan = self._tables.plan()
        if plan is None:
            created_ms = self._clock.wall_ms()
            seen = self._seen()
            count = self._settings.topics.partitions
            plan = self._tables.keep_plan(
                BackfillPlan(
                    model=self._model.hex,
                    topic=self._settings.topics.pins,
                    topic_id=topic_id,
                    starts=tuple(seen.committed.get(p, 0) for p in range(count)),
                    ends=tuple(seen.ends[p] for p in range(count)),
                    created_ms=created_ms,
                )
            )
        expected = (self._model.hex, self._settings.topics.pins, topic_id, self._settings.topics.partitions)
        if (plan.model, plan.topic, plan.topic_id, len(plan.ends)) != expected:
            raise FatalError(
                f"an earlier backfill of {self._model.short} was of another topic ({plan.topic}, id {plan.topic_id}, "
                f"{len(plan.ends)} partitions): forget it with --anew"
            )
        committed = self._seen().committed
        if behind := [p for p, start in enumerate(plan.starts) if committed.get(p, 0) < start]:
            raise FatalError(
                f"the group of {self._model.short} stands before what this backfill covers in partitions {behind}: its "
                "offsets were reset or removed since; forget the backfill with --anew"
            )
        return plan

    def _seen(self) -> Seen:
        """Where the generation's group stands, and where the topic ends."""
        offsets = GroupOffsets(self._settings)
        try:
            return offsets.see(embed_group(self._model.hex), self._settings.topics.pins)
        finally:
            offsets.close()

    def _topic_id(self) -> str:
        admin = reachable_admin(self._settings)
        name = self._settings.topics.pins
        try:
            return str(admin.describe_topics(TopicCollection([name]))[name].result().topic_id)
        except KafkaException as error:
            raise translate(error, f"asked what topic {name} is") from error

    def _export(self, engine: Engine, plan: BackfillPlan) -> int:
        jobs: list[Job] = [
            {"partition": partition}
            for partition, (start, end) in enumerate(zip(plan.starts, plan.ends, strict=True))
            if end > start
        ]
        offsets = sum(plan.ends) - sum(plan.starts)
        self._step(f"exporting {len(jobs)} partitions, {offsets} offsets in all")
        made = engine.run(Export(self._settings, plan, self._generation.bits, self._part_rows), jobs)
        return sum(int(one["parts"]) for one in made)

    def _embed(self, engine: Engine, plan: BackfillPlan) -> tuple[int, int]:
        """Rounds, until every Pin has a code, is deleted, or has no version that can be embedded."""
        embedded = failed = round_ = 0
        while jobs := self._jobs(plan, round_):
            rows = sum(int(np.bitwise_count(np.frombuffer(job["chosen"], np.uint8)).sum()) for job in jobs)
            self._step(f"embedding {rows} Pins in {len(jobs)} parts, round {round_}")
            made = engine.run(Embed(self._settings, plan, self._load, round_), jobs, with_model=True)
            embedded += sum(int(one["embedded"]) for one in made)
            failed += sum(int(one["failed"]) for one in made)
            round_ += 1
        return embedded, failed

    def _jobs(self, plan: BackfillPlan, round_: int) -> list[Job]:
        """The parts of which this round embeds something, with a bit for each row of their Pins table."""
        jobs: list[Job] = []
        for partition, start in enumerate(plan.starts):
            parts = chain(self._tables.parts("pins", partition), start)
            if not parts:
                continue
            pin_id, offset, kind, length = self._keys(parts)
            failed = self._failed(partition, offset, round_)
            before = self._failed(partition, offset, round_ - 1) if round_ else np.ones(len(offset), dtype=bool)
            chosen = to_embed(pin_id, kind, failed, before)
            ends = np.cumsum(length)
            for part, first, last in zip(parts, ends - length, ends, strict=True):
                of_part = chosen[first:last][kind[first:last] == UPSERT]
                if of_part.any():
                    jobs.append({"part": part.name, "chosen": np.packbits(of_part).tobytes()})
        return jobs

    def _keys(self, parts: list[Part]) -> tuple[Int64s, Int64s, Kinds, Int64s]:
        """Pin id, offset and kind of every record of a partition; how many records each part has."""
        tables = [self._tables.get("keys", part) for part in parts]
        if missing := [part.name for part, table in zip(parts, tables, strict=True) if table is None]:
            raise CorruptStateError(f"part {missing[0]} is not whole: begin anew with --anew")
        columns = [
            np.concatenate([table.column(name).to_numpy() for table in tables if table is not None])
            for name in ("pin_id", "source_offset", "kind")
        ]
        length = np.array([table.num_rows for table in tables if table is not None], dtype=np.int64)
        return columns[0], columns[1], columns[2], length

    def _failed(self, partition: int, offset: Int64s, rounds: int) -> Bools:
        """Which records could not be embedded in the first so many rounds."""
        found: list[Int64s] = [np.empty(0, dtype=np.int64)]
        for number in range(rounds):
            for part in self._tables.parts(f"failed-{number}", partition):
                table = self._tables.get(f"failed-{number}", part)
                if table is not None:
                    found.append(table.column("source_offset").to_numpy())
        return np.isin(offset, np.concatenate(found))

    def _snapshots(self, engine: Engine) -> int:
        """Unless index workers run, which have read the codes as they came and snapshot by themselves."""
        group = index_group(self._model.hex)
        if any(member.startswith(group) for member in running_workers(self._settings, self._model.hex)):
            return 0
        count = self._settings.topics.partitions
        self._step(f"building the snapshots of {count} shards")
        made = Snapshot(self._settings, self._model.hex, self._generation.bits)
        return len(engine.run(made, [{"partition": partition} for partition in range(count)]))


def reachable_from_elsewhere(settings: Settings) -> Settings:
    """The same with the addresses of local servers written out: other machines have no `local_dir` of ours."""
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap_servers(settings)})
    redis = settings.redis.model_copy(update={"url": redis_url(settings)})
    index = settings.index.model_copy(update={"snapshot_url": settings.snapshot_url})
    return settings.model_copy(update={"kafka": kafka, "redis": redis, "index": index})
