"""A codes topic of one partition, written by the test itself, with every state that a shard of it may ever be in."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
from confluent_kafka import Producer

from pinstream.codes import (
    HEADER_EVENT_TIME,
    HEADER_MODEL,
    HEADER_SOURCE_OFFSET,
    Fingerprint,
    empty_records,
    encode_records,
)
from pinstream.events import Domain
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics
from pinstream.settings import Settings
from tests.oracle import Expected

_DOMAINS = tuple(Domain)


class CodeTopic:
    """Upserts, deletes with and without a header, and stale replays, drawn by chance from few Pins.

    `states[c]` sums up what a shard holds when its checkpoint is c, so that any answer can be judged.
    """

    def __init__(self, settings: Settings, model: Fingerprint, bits: int, *, pins: int = 120, seed: int = 1) -> None:
        ensure_topics(reachable_admin(settings), (codes_topic(settings.topics, model),), settings.topics)
        self.topic = model.codes_topic
        self._model = model
        self._bits = bits
        self._pins = pins
        self._random = random.Random(seed)
        self._codes = np.random.default_rng(seed)
        self._producer = Producer(client_config(settings))
        self._source_offset = 0
        self._known: dict[int, int] = {}
        self.living: dict[int, tuple[int, bytes, int]] = {}
        """Pin id → source offset, code, domain."""
        self.query = self._codes.integers(0, 256, bits // 8, dtype=np.uint8)
        self.states = [0]

    @property
    def end(self) -> int:
        return len(self.states) - 1

    def send(self, count: int) -> None:
        """Put `count` more records on the topic and wait until Kafka has them."""
        for _ in range(count):
            pin_id = self._random.randint(1, self._pins)
            chance = self._random.random()
            self._source_offset += 1
            if chance < 0.03:
                self._send_delete(pin_id, None)
            elif chance < 0.15:
                self._send_delete(pin_id, self._source_offset)
            elif chance < 0.27:
                self._send_upsert(pin_id, self._random.randint(0, self._source_offset))
            else:
                self._send_upsert(pin_id, self._source_offset)
        assert self._producer.flush(30) == 0

    def expected(self) -> dict[int, Expected]:
        return {pin_id: Expected(0, offset, code) for pin_id, (offset, code, _) in self.living.items()}

    def judge(self, answer: dict[str, Any]) -> str | None:
        """What is wrong with an answer to a search for `query` with k above the number of Pins; None if nothing is."""
        (shard,) = answer["shards"]
        checkpoint = shard["checkpoint"]
        if checkpoint > self.end:
            return f"checkpoint {checkpoint} is past the end of the topic, {self.end}"
        order = [(hit["distance"], hit["pin_id"]) for hit in answer["hits"]]
        if order != sorted(set(order)):
            return f"hits are doubled or out of order at checkpoint {checkpoint}"
        total = 0
        for hit in answer["hits"]:
            total ^= hash((hit["pin_id"], hit["distance"], hit["domain"]))
        if total != self.states[checkpoint]:
            return f"{len(order)} hits at checkpoint {checkpoint} are not what the topic held there"
        return None

    def search(self) -> dict[str, Any]:
        """The body of a search for everything."""
        return {"code": base64.b64encode(self.query.tobytes()).decode(), "k": 1000}

    def _send_upsert(self, pin_id: int, source_offset: int) -> None:
        record = empty_records(1, self._bits, self._model, 1)
        code = self._codes.integers(0, 256, self._bits // 8, dtype=np.uint8)
        domain = self._random.randrange(3)
        record["pin_id"], record["source_offset"], record["event_time_ms"] = pin_id, source_offset, 1_700_000_000_000
        record["domain"], record["code"] = domain, code
        self._note(pin_id, source_offset, (source_offset, code.tobytes(), domain))
        self._producer.produce(self.topic, encode_records(record)[0], b"%d" % pin_id, 0)

    def _send_delete(self, pin_id: int, source_offset: int | None) -> None:
        headers: list[tuple[str, str | bytes | None]] = []
        if source_offset is not None:
            headers = [
                (HEADER_SOURCE_OFFSET, b"%d" % source_offset),
                (HEADER_EVENT_TIME, b"1700000000000"),
                (HEADER_MODEL, self._model.hex[:8].encode()),
            ]
        self._note(pin_id, source_offset, None)
        self._producer.produce(self.topic, None, b"%d" % pin_id, 0, headers=headers)

    def _note(self, pin_id: int, source_offset: int | None, row: tuple[int, bytes, int] | None) -> None:
        """Fold one record, before anybody can have read it."""
        state = self.states[-1]
        if source_offset is None or source_offset > self._known.get(pin_id, -1):
            held = self.living.pop(pin_id, None)
            state ^= self._mark(pin_id, held)
            if row is not None:
                self.living[pin_id] = row
                state ^= self._mark(pin_id, row)
            if source_offset is not None:
                self._known[pin_id] = source_offset
        self.states.append(state)

    def _mark(self, pin_id: int, row: tuple[int, bytes, int] | None) -> int:
        if row is None:
            return 0
        _, code, domain = row
        distance = int(np.bitwise_count(np.frombuffer(code, np.uint8) ^ self.query).sum())
        return hash((pin_id, distance, _DOMAINS[domain].value))
