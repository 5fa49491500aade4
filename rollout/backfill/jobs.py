"""The jobs of a backfill: export a partition, embed a part, build a shard's snapshot. They run on other machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedder.pin_work import Outcome, PinWork
from embedder.publication import PublicationPlan
from index_sync.checkpoint import ShardIdentity
from index_sync.offline_shard import build_snapshot
from pinstream.clock import SystemClock
from pinstream.codes import Fingerprint
from pinstream.errors import CorruptStateError, OwnershipLostError
from pinstream.settings import Settings
from rollout.backfill.embedding import LoadModel, PartEmbedder
from rollout.backfill.kafka_export import Exporter
from rollout.backfill.plan import BackfillPlan, Part
from rollout.backfill.ray_engine import Job
from rollout.backfill.store_tables import BackfillTables, outgoing_table, read_headers


@dataclass(frozen=True, slots=True)
class Export:
    """Makes the job runner of the export; picklable."""

    settings: Settings
    plan: BackfillPlan
    bits: int
    part_rows: int

    def __call__(self) -> ExportJobs:
        return ExportJobs(self)


class ExportJobs:
    def __init__(self, made: Export) -> None:
        tables = BackfillTables(made.settings, Fingerprint(made.plan.model))
        self._exporter = Exporter(made.settings, tables, made.plan, made.bits, made.part_rows)

    def __call__(self, job: Job) -> Job:
        return {"parts": self._exporter.export(int(job["partition"]))}


@dataclass(frozen=True, slots=True)
class Embed:
    """Makes the job runner of one round of embedding; picklable."""

    settings: Settings
    plan: BackfillPlan
    load: LoadModel
    round: int

    def __call__(self) -> EmbedJobs:
        return EmbedJobs(self)


class EmbedJobs:
    """Each job embeds the chosen rows of one part, unless it has been done."""

    def __init__(self, made: Embed) -> None:
        self._made = made
        model = Fingerprint(made.plan.model)
        self._tables = BackfillTables(made.settings, model)
        self._embedder = PartEmbedder(made.settings, model, made.load)
        topics = made.settings.topics
        self._publication = PublicationPlan(
            model, self._embedder.bits, topics.codes_schema_id, topics.pins, topics.dead_letters
        )

    def __call__(self, job: Job) -> Job:
        part = Part.named(str(job["part"]))
        if self._tables.has(f"codes-{self._made.round}", part):
            return {"embedded": 0, "failed": 0}
        works = self._chosen(part, bytes(job["chosen"]))
        self._embedder.embed(works)
        failed = [work for work in works if work.outcome is Outcome.DEAD_LETTER]
        made = [work for work in works if work.outcome is not Outcome.DEAD_LETTER]
        if failed or self._tables.has(f"failed-{self._made.round}", part):  # a killed run's, without codes
            letters = [self._publication.outgoing([work])[0][0] for work in failed]
            table = outgoing_table([work.offset for work in failed], letters, [True] * len(failed))
            self._tables.put(f"failed-{self._made.round}", part, table)
        codes, _ = self._publication.outgoing(made)
        table = outgoing_table([work.offset for work in made], codes, [False] * len(made))
        self._tables.put(f"codes-{self._made.round}", part, table)
        return {"embedded": len(made), "failed": len(failed)}

    def _chosen(self, part: Part, chosen: bytes) -> Sequence[PinWork]:
        """The chosen upserts of a part, in order; `chosen` is a bit for each row of its Pins table."""
        table = self._tables.get("pins", part)
        if table is None:
            raise CorruptStateError(f"part {part.name} is gone: begin anew with --anew")
        wanted = np.unpackbits(np.frombuffer(chosen, np.uint8), count=table.num_rows).astype(bool)
        names = ("source_offset", "append_ms", "key", "event", "headers")
        rows = table.select(names).filter(wanted)
        works = [
            PinWork(part.partition, offset, append_ms, key, event, read_headers(headers))
            for offset, append_ms, key, event, headers in zip(
                *(rows.column(name).to_pylist() for name in names), strict=True
            )
        ]
        for work in works:
            work.parse()
        return works


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Makes the job runner of the snapshots; picklable."""

    settings: Settings
    model: str
    bits: int

    def __call__(self) -> SnapshotJobs:
        return SnapshotJobs(self)


class SnapshotJobs:
    """Each job builds the snapshot of one shard out of its codes topic, which is the index's write-ahead log."""

    def __init__(self, made: Snapshot) -> None:
        self._made = made

    def __call__(self, job: Job) -> Job:
        identity = ShardIdentity(
            topic=Fingerprint(self._made.model).codes_topic,
            partition=int(job["partition"]),
            partitions=self._made.settings.topics.partitions,
            bits=self._made.bits,
            model=self._made.model,
        )
        try:
            return {"rows": build_snapshot(self._made.settings, identity, SystemClock()).live_rows}
        except OwnershipLostError:
            return {"rows": 0}  # an index worker was started meanwhile, and snapshots by itself
