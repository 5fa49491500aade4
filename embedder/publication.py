"""What is published of finished records: codes, tombstones and dead letters. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from embedder.pin_work import SIGNATURE_BYTES, Outcome, PinWork
from pinstream.codes import (
    HEADER_EVENT_TIME,
    HEADER_MODEL,
    HEADER_SOURCE_OFFSET,
    Fingerprint,
    empty_records,
    encode_records,
)
from pinstream.events import DOMAIN_NUMBER
from producers.dead_letter import dead_letter_headers
from producers.kafka_codes import Outgoing

_NO_SIGNATURE = bytes(SIGNATURE_BYTES)


class PublicationPlan:
    """Turns finished records, in order, into records to publish. Holds only what never changes. Thread-safe."""

    def __init__(self, model: Fingerprint, bits: int, schema_id: int, pins_topic: str, dead_letter_topic: str) -> None:
        self._model = model
        self._bits = bits
        self._schema_id = schema_id
        self._pins_topic = pins_topic
        self._dead_letter_topic = dead_letter_topic

    def outgoing(self, works: Sequence[PinWork]) -> tuple[list[Outgoing], Counter[Outcome]]:
        """Only the last effect of each Pin is published; every dead letter is. Order within a partition is kept.

        Returns:
            The records to publish, and how many of `works` had which outcome (a code that a later one of the same
            publication replaces counts as superseded).
        """
        last = {(work.partition, work.pin_id): work for work in works if work.outcome in _EFFECTS}
        outcomes: Counter[Outcome] = Counter()
        codes: list[PinWork] = []
        others: list[Outgoing] = []
        for work in works:
            assert work.outcome is not None
            if work.outcome is Outcome.DEAD_LETTER:
                others.append(self._dead_letter(work))
            elif work.outcome in _EFFECTS and last[work.partition, work.pin_id] is not work:
                outcomes[Outcome.SUPERSEDED] += 1
                continue
            elif work.outcome in (Outcome.DELETED, Outcome.LEFT_OUT):
                others.append(self._tombstone(work))
            elif work.outcome is not Outcome.SUPERSEDED:
                codes.append(work)
            outcomes[work.outcome] += 1
        return self._codes(codes) + others, outcomes

    def _codes(self, works: list[PinWork]) -> list[Outgoing]:
        """One structured array for all, one Kafka value each."""
        if not works:
            return []
        records = empty_records(len(works), self._bits, self._model, self._schema_id)
        records["pin_id"] = [work.pin_id for work in works]
        records["source_offset"] = [work.offset for work in works]
        records["event_time_ms"] = [work.event_time_ms for work in works]
        signatures = b"".join([work.signature or _NO_SIGNATURE for work in works])
        records["signature"] = np.frombuffer(signatures, np.uint8).reshape(len(works), SIGNATURE_BYTES)
        events = [work.event for work in works]
        records["domain"] = [DOMAIN_NUMBER[event.domain] for event in events if event and event.domain]
        flags = np.array([event.flag_bits for event in events if event], dtype=">u4")
        records["flags"] = flags.view(np.uint8).reshape(-1, 4)[:, 1:]
        codes = b"".join([work.code or b"" for work in works])
        records["code"] = np.frombuffer(codes, np.uint8).reshape(len(works), self._bits // 8)
        topic = self._model.codes_topic
        return [
            (topic, work.partition, work.key, value, None)
            for work, value in zip(works, encode_records(records), strict=True)
        ]

    def _tombstone(self, work: PinWork) -> Outgoing:
        headers = [
            (HEADER_SOURCE_OFFSET, b"%d" % work.offset),
            (HEADER_EVENT_TIME, b"%d" % work.event_time_ms),
            (HEADER_MODEL, self._model.hex[:8].encode()),
        ]
        return (self._model.codes_topic, work.partition, work.key, None, headers)

    def _dead_letter(self, work: PinWork) -> Outgoing:
        assert work.error is not None
        headers = dead_letter_headers(
            work.error,
            topic=self._pins_topic,
            partition=work.partition,
            offset=work.offset,
            attempts=max(1, work.attempts),
            model=self._model,
            received=work.headers,
        )
        return (self._dead_letter_topic, work.partition, work.key, work.value, headers)


_EFFECTS = frozenset({Outcome.EMBEDDED, Outcome.CACHED, Outcome.DELETED, Outcome.LEFT_OUT})
