"""The Pins topic → the Pins table: one partition, up to where it ended when the backfill was planned.

Records are read in order and cut into parts; a part holds so few that reading and embedding it take little memory.
Every record is exported, not only the newest of its Pin: if the newest can't be embedded, an older one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from embedder.pin_work import Outcome, PinWork, work_of
from embedder.publication import PublicationPlan
from index_sync.kafka_tail import read_tail
from pinstream.codes import Fingerprint
from pinstream.settings import Settings
from rollout.backfill.plan import BAD, DELETE, UPSERT, BackfillPlan, Part, chain
from rollout.backfill.store_tables import (
    BackfillTables,
    arrow,
    headers_column,
    keys_schema,
    outgoing_table,
    pins_schema,
)

PART_BYTES: Final = 64 * 1024 * 1024
"""Of event values, after which a part is closed however few records it has: events may carry their image."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """Exports partitions. Thread-safe; blocks for the reading.

    Args:
        part_rows: records of a part: what is embedded, and repeated after a kill, as a whole.
    """

    settings: Settings
    tables: BackfillTables
    plan: BackfillPlan
    bits: int
    part_rows: int

    def export(self, partition: int) -> int:
        """Go on where the last part ends. Returns how many parts were made.

        Raises:
            RetryableError, FatalError: Kafka or the store is away, or refuses us.
        """
        start, end = self.plan.starts[partition], self.plan.ends[partition]
        done = chain(self.tables.parts("pins", partition), start)
        position = start = done[-1].end if done else start
        works: list[PinWork] = []
        size_bytes = made = 0
        for tail in read_tail(self.settings, self.plan.topic, partition, start, end):
            for message in tail.messages:
                works.append(work_of(message))
                works[-1].parse()
                size_bytes += works[-1].size_bytes
                if len(works) == self.part_rows or size_bytes >= PART_BYTES:
                    self._put(Part(partition, start, works[-1].offset + 1), works)
                    start, works, size_bytes, made = works[-1].offset + 1, [], 0, made + 1
            position = tail.next_offset
        if position > start:
            self._put(Part(partition, start, position), works)
            made += 1
        return made

    def _put(self, part: Part, works: Sequence[PinWork]) -> None:
        pa = arrow()
        kinds = [_kind(work) for work in works]
        keys = {
            "pin_id": [work.pin_id for work in works],
            "source_offset": [work.offset for work in works],
            "kind": kinds,
        }
        self.tables.put("keys", part, pa.table(keys, schema=keys_schema()))
        topics = self.settings.topics
        model = Fingerprint(self.plan.model)
        publication = PublicationPlan(model, self.bits, topics.codes_schema_id, topics.pins, topics.dead_letters)
        ready = [work for work in works if work.done]
        records = [publication.outgoing([work])[0][0] for work in ready]
        is_dead = [work.outcome is Outcome.DEAD_LETTER for work in ready]
        self.tables.put("ready", part, outgoing_table([work.offset for work in ready], records, is_dead))
        self.tables.put("pins", part, _pins([work for work in works if not work.done]))


def _kind(work: PinWork) -> int:
    if not work.done:
        return UPSERT
    return DELETE if work.outcome is Outcome.DELETED else BAD


def _pins(works: Sequence[PinWork]) -> object:
    columns = {
        "pin_id": [work.pin_id for work in works],
        "partition": [work.partition for work in works],
        "source_offset": [work.offset for work in works],
        "append_ms": [work.append_ms for work in works],
        "event_time_ms": [work.event_time_ms for work in works],
        "domain": [work.event.domain.value if work.event and work.event.domain else None for work in works],
        "key": [work.key for work in works],
        "event": [work.value for work in works],
        "headers": headers_column([work.headers for work in works]),
    }
    return arrow().table(columns, schema=pins_schema())
