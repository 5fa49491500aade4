"""Publishes what a backfill made, as a member of the generation's own group: the place of an embed worker, taken.

One transaction holds the codes, tombstones and dead letters of some consecutive Pin events and the group's offset after
them. So at every moment the group stands where the codes end: killed here, the command goes on from there, and so would
an ordinary embed worker. If one joins meanwhile, Kafka gives it partitions and fences this member's transactions.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from consumers.kafka_source import KafkaSource
from pinstream.codes import Fingerprint
from pinstream.errors import CorruptStateError, OwnershipLostError, RetryableError
from pinstream.settings import Settings
from producers.kafka_codes import CodesPublisher, Outgoing
from rollout.backfill.plan import BackfillPlan, Part, chain
from rollout.backfill.store_tables import BackfillTables, outgoing_records
from rollout.kafka_offsets import embed_group

log = logging.getLogger(__name__)

_POLL_S: Final = 0.05
_RETRY_S: Final = 0.2
_PATIENCE_S: Final = 120.0
"""Without anything published, by us or by embed workers that joined."""


def client_id(model: Fingerprint) -> str:
    """Names the member of the group that publishes a backfill."""
    return f"pinstream-backfill-{model.short}"


class Publication:
    """Not thread-safe. `run` blocks.

    Raises:
        FatalError: from the constructor and `run`: Kafka refuses us, or the same command runs elsewhere too.
    """

    def __init__(self, settings: Settings, tables: BackfillTables, plan: BackfillPlan) -> None:
        self._settings = settings
        self._tables = tables
        self._plan = plan
        self._model = Fingerprint(plan.model)
        self._rounds = tables.rounds()
        self._source = KafkaSource(settings, plan.topic, embed_group(plan.model), client_id(self._model), self)
        self._publisher = CodesPublisher(settings, f"backfill-{self._model.short}", self._source.commit_soon)
        self._positions: dict[int, int] = {}
        """Of the partitions that are ours: the Pin offset from which on nothing is published yet."""
        self._pending: dict[int, list[Part]] = {}
        self._records = 0

    def run(self) -> int:
        """Publish until the group has passed every end of the plan. Returns how many records were published here.

        Raises:
            RetryableError: nothing went on for a while: Kafka or the store is away; run it again.
            CorruptStateError: a part is missing.
        """
        self._source.pause()
        heard_s = time.monotonic()
        seen: tuple[int, dict[int, int]] = (-1, {})
        try:
            while True:
                self._source.poll(1, _POLL_S, lambda _partition, _offset: None)
                if self._publish_next():
                    continue
                committed = self._committed(list(range(len(self._plan.ends))))
                if self._plan.is_done(committed):
                    return self._records
                now = (self._records, committed)
                if now != seen:
                    heard_s, seen = time.monotonic(), now
                elif time.monotonic() - heard_s > _PATIENCE_S:
                    raise RetryableError(f"nothing was published for {_PATIENCE_S:g} s: is a broker away? Run it again")
        finally:
            self._publisher.close()
            self._source.close()

    def assigned(self, partitions: list[int]) -> dict[int, int]:
        """Ours: go on after what the group has committed."""
        self._take_up(partitions)
        return {}

    def revoked(self, partitions: list[int]) -> None:
        """Nothing is under way: publishing and polling take turns."""
        self.lost(partitions)

    def lost(self, partitions: list[int]) -> None:
        log.info("partitions %s are not ours any more", sorted(partitions))
        for partition in partitions:
            self._positions.pop(partition, None)
            self._pending.pop(partition, None)

    def _take_up(self, partitions: list[int]) -> None:
        committed = self._committed(partitions)
        for partition in partitions:
            position = max(committed.get(partition, 0), self._plan.starts[partition])
            self._positions[partition] = position
            parts = chain(self._tables.parts("pins", partition), self._plan.starts[partition])
            if (parts[-1].end if parts else self._plan.starts[partition]) < self._plan.ends[partition]:
                raise CorruptStateError(f"the export of partition {partition} is not whole: run the command again")
            self._pending[partition] = [part for part in reversed(parts) if part.end > position]

    def _committed(self, partitions: list[int]) -> dict[int, int]:
        return self._source.committed(partitions, self._settings.kafka.request_timeout_s)

    def _publish_next(self) -> bool:
        """Publish the next part of one partition; False if there is none."""
        partition = next((p for p, parts in self._pending.items() if parts), None)
        if partition is None:
            return False
        part = self._pending[partition][-1]
        try:
            self._publish(part)
        except (RetryableError, OwnershipLostError) as error:
            # whether a transaction took effect is not known when its answer was lost: ask the group
            log.warning("%s; trying again", error)
            time.sleep(_RETRY_S)
            self._source.poll(1, _POLL_S, lambda _partition, _offset: None)
            self._take_up(list(self._positions))
            return True
        self._pending[partition].pop()
        return True

    def _publish(self, part: Part) -> None:
        """In slices: a transaction has to end in time."""
        records = self._records_of(part)
        at_most = self._settings.embed.max_publish_records
        for start in range(0, max(1, len(records)), at_most):
            some = records[start : start + at_most]
            is_last = start + at_most >= len(records)
            next_offset = part.end if is_last else some[-1][0] + 1
            metadata = self._source.group_metadata()
            self._publisher.publish([record for _, record in some], {part.partition: next_offset}, metadata)
            self._positions[part.partition] = next_offset
            self._records += len(some)

    def _records_of(self, part: Part) -> list[tuple[int, Outgoing]]:
        """What is published of a part and is not yet, by source offset."""
        ready = self._tables.get("ready", part)
        if ready is None:
            raise CorruptStateError(f"part {part.name} is not whole: begin anew with --anew")
        kinds = [f"{kind}-{number}" for number in range(self._rounds) for kind in ("codes", "failed")]
        tables = [ready, *(table for kind in kinds if (table := self._tables.get(kind, part)) is not None)]
        topics = (self._model.codes_topic, self._settings.topics.dead_letters)
        records = [one for table in tables for one in outgoing_records(table, part.partition, *topics)]
        position = self._positions[part.partition]
        return sorted((one for one in records if one[0] >= position), key=lambda one: one[0])
