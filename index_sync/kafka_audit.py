"""Audits one shard: its rows as of one checkpoint against a fold of its partition of the codes topic.

The rows are taken first, then the topic is read from the beginning to its end and once more to where it ends by then.
A record before the checkpoint that compaction took away before we came to it had a newer one at that moment, which
that second reading finds. Where something is still wrong after it, a third reading makes sure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from index_sync.audit import ENTRY, Comparison, Entries, Moved, TopicFold, compare, entries
from index_sync.checkpoint import ShardIdentity
from index_sync.code_batch import build_code_batch
from index_sync.kafka_tail import end_of, read_tail
from index_sync.segment import CodeRows
from pinstream.codes import Fingerprint
from pinstream.errors import CorruptStateError, FatalError
from pinstream.settings import Settings


@dataclass(frozen=True, slots=True)
class AuditReport:
    shard: str
    """`<codes topic>/<partition>`"""
    source: str
    """Where the rows came from."""
    checkpoint: int
    """Records before this offset count."""
    end: int
    """Where the topic ended when the audit was done."""
    pins: int
    """Rows of the shard."""
    pins_by_topic: int
    records: int
    """Read before the checkpoint; those that compaction removed are not there."""
    seconds: float
    found: Comparison

    def as_json(self) -> dict[str, Any]:
        """Plain values, `clean` among them."""
        plain = asdict(self)
        return {**plain, **plain.pop("found"), "clean": self.found.clean}


def audit_shard(
    settings: Settings, identity: ShardIdentity, source: str, checkpoint: int, rows: int, parts: Iterable[CodeRows]
) -> AuditReport:
    """Compare. Blocks for the reading of the whole partition: some 100,000 records a second.

    Takes ~300 bytes a Pin on this side.

    Raises:
        RetryableError: Kafka or the shard's node went away.
        FatalError: the topic is shorter than the shard's checkpoint: it was made anew.
        CorruptStateError: the shard sent another number of rows than it announced.
    """
    started_s = time.monotonic()
    shard = _collect(parts)
    if len(shard) != rows:
        raise CorruptStateError(f"{source} sent {len(shard)} rows of {identity.name}, expected {rows}")
    reading = _Reading(settings, identity, checkpoint)
    reading.go_on()
    if reading.end < checkpoint:
        raise FatalError(
            f"{identity.name} ends at offset {reading.end} and the shard's checkpoint is {checkpoint}: "
            "the topic was made anew; remove its snapshots under index.snapshot_url and start its workers again"
        )
    reading.go_on()
    found = compare(reading.fold.result(), shard, reading.moved)
    if not found.clean:
        reading.go_on()
        found = compare(reading.fold.result(), shard, reading.moved)
    return AuditReport(
        shard=identity.name,
        source=source,
        checkpoint=checkpoint,
        end=reading.end,
        pins=len(shard),
        pins_by_topic=int(np.count_nonzero(~reading.fold.result()["is_delete"])),
        records=reading.records,
        seconds=round(time.monotonic() - started_s, 3),
        found=found,
    )


class _Reading:
    """Goes through a partition: before the checkpoint records are folded, beyond it their Pins are noted."""

    def __init__(self, settings: Settings, identity: ShardIdentity, checkpoint: int) -> None:
        self.fold = TopicFold()
        self.moved = Moved()
        self.end = 0
        self.records = 0
        self._settings = settings
        self._identity = identity
        self._model = Fingerprint(identity.model)
        self._checkpoint = checkpoint

    def go_on(self) -> None:
        """Read from where we are to where the topic ends now."""
        topic, partition = self._identity.topic, self._identity.partition
        end = end_of(self._settings, topic, partition)
        for tail in read_tail(self._settings, topic, partition, self.end, end):
            before = [message for message in tail.messages if (message.offset() or 0) < self._checkpoint]
            if before:
                batch, _refused = build_code_batch(before, self._identity.bits, self._model)
                self.fold.add(batch)
                self.records += len(before)
            self.moved.add(message.key() for message in tail.messages[len(before) :])
        self.end = max(self.end, end)


def _collect(parts: Iterable[CodeRows]) -> Entries:
    found = [entries(*part.columns) for part in parts]  # type: ignore[arg-type]  # `columns` are in this order
    return np.concatenate(found) if found else np.empty(0, dtype=ENTRY)
