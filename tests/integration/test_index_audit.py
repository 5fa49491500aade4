"""`pinstream index audit` against a real index worker: right while 2,000 updates a second come, and not blind."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from prometheus_client import REGISTRY
from typer.testing import CliRunner

import index_sync.worker
from index_sync.checkpoint import ShardIdentity
from index_sync.code_batch import CodeBatch, PolledRecord, build_code_batch
from index_sync.kafka_audit import audit_shard
from index_sync.kafka_tail import end_of, read_tail
from index_sync.offline_shard import code_batch
from index_sync.segment import concatenate_rows
from index_sync.shard import Shard
from index_sync.worker import IndexWorker
from pinstream.cli.main import app
from pinstream.codes import (
    HEADER_EVENT_TIME,
    HEADER_MODEL,
    HEADER_SOURCE_OFFSET,
    Fingerprint,
    RefusedCode,
    empty_records,
    encode_records,
)
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics
from pinstream.settings import Settings
from tests.conftest import wait_for
from tests.light_worker import BITS

PINS = 15_000
UPDATES_PER_S = 2000
Build = Callable[[Sequence[PolledRecord], int, Fingerprint], tuple[CodeBatch, list[RefusedCode]]]


class Codes:
    """Writes codes as an embed worker does; the partition of Pin n is n % P."""

    def __init__(self, settings: Settings, model: Fingerprint) -> None:
        ensure_topics(reachable_admin(settings), (codes_topic(settings.topics, model),), settings.topics)
        self._settings = settings
        self._model = model
        self._producer = Producer(client_config(settings, linger_ms=5, queue_buffering_max_messages=1_000_000))
        self._random = np.random.default_rng(7)
        self._next = 0
        self.sent = 0

    def upsert(self, pin_id: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        count = len(pin_id)
        records = empty_records(count, BITS, self._model, 1)
        records["pin_id"] = pin_id
        records["source_offset"] = np.arange(self._next, self._next + count)
        records["event_time_ms"] = time.time_ns() // 1_000_000
        records["domain"] = pin_id % 3
        records["code"] = self._random.integers(0, 256, (count, BITS // 8), dtype=np.uint8)
        for pin, value in zip(pin_id.tolist(), encode_records(records), strict=True):
            self._send(pin, value, None)
        self._next += count

    def delete(self, pin_id: int) -> None:
        headers: list[tuple[str, str | bytes | None]] = [
            (HEADER_SOURCE_OFFSET, b"%d" % self._next),
            (HEADER_EVENT_TIME, b"1700000000000"),
            (HEADER_MODEL, self._model.hex[:8].encode()),
        ]
        self._send(pin_id, None, headers)
        self._next += 1

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def _send(self, pin: int, value: bytes | None, headers: list[tuple[str, str | bytes | None]] | None) -> None:
        self._producer.produce(
            self._model.codes_topic, value, b"%d" % pin, pin % self._settings.topics.partitions, headers=headers or []
        )
        self._producer.poll(0)
        self.sent += 1

    @contextmanager
    def updating(self, first: int, last: int) -> Iterator[None]:
        """Upserts and some deletes of these Pins at a steady rate for as long as the block lasts."""
        stop = threading.Event()

        def run() -> None:
            started_s, done = time.monotonic(), 0
            while not stop.wait(1 / 50):
                due = int((time.monotonic() - started_s) * UPDATES_PER_S) - done
                self.upsert(self._random.integers(first, last, due))
                for pin_id in self._random.integers(first, last, due // 20).tolist():
                    self.delete(pin_id)
                done += due

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.flush()


@contextmanager
def running(settings: Settings, model: Fingerprint) -> Iterator[IndexWorker]:
    worker = IndexWorker(settings, model, BITS, None)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(60)
        assert not thread.is_alive(), "the worker did not stop"


def pins_held(worker: IndexWorker) -> int:
    return sum(worker._info()["shards"].values())


def audit(
    settings: Settings, model: Fingerprint, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, list[dict[str, object]]]:
    """Exit code and reports of the command."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    command = ["index", "audit", "--model", model.hex, "--bits", str(BITS), "--json", *arguments]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]


def test_it_is_clean_while_updates_come(
    settings: Settings, model: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = Codes(settings, model)
    codes.upsert(np.arange(1, PINS + 1))
    codes.flush()
    with running(settings, model) as worker:
        wait_for(lambda: pins_held(worker) == PINS, lambda: f"{PINS} Pins held: {worker._info()['shards']}")
        with codes.updating(1, PINS + 500):
            wait_for(lambda: codes.sent > PINS + UPDATES_PER_S, "a second of updates")
            applied, sent = checkpoints(worker), codes.sent
            code, reports = audit(settings, model, monkeypatch, "--url", worker.http.url)
            wait_for(lambda: codes.sent > sent + 100, "updates go on")
        assert (code, len(reports)) == (0, settings.topics.partitions), reports
        for report in reports:
            assert report["clean"] and report["pins"] == report["pins_by_topic"]
            assert isinstance(report["checkpoint"], int) and isinstance(report["end"], int)
            assert report["checkpoint"] > applied[int(str(report["shard"]).rpartition("/")[2])] - 1
            assert report["end"] > report["checkpoint"], "the topic moved on meanwhile"


def checkpoints(worker: IndexWorker) -> dict[int, int]:
    return {partition: hosted.shard.checkpoint for partition, hosted in worker._hosted.items()}


def test_planted_damage_is_found(settings: Settings, model: Fingerprint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker loses Pin 9, flips a bit of Pin 30, and takes a delete of Pin 60 for another Pin's."""
    codes = Codes(settings, model)
    codes.upsert(np.arange(1, 3001))
    codes.delete(60)
    codes.flush()
    monkeypatch.setattr(index_sync.worker, "build_code_batch", damaging(build_code_batch))
    with running(settings, model) as worker:
        wait_for(lambda: pins_held(worker) == 2999, lambda: f"2999 Pins held: {worker._info()['shards']}")
        with codes.updating(1000, 3001):
            code, reports = audit(settings, model, monkeypatch, "--partition", "0")
            text = CliRunner().invoke(
                app, ["index", "audit", "--model", model.hex, "--bits", str(BITS), "--url", worker.http.url]
            )
        assert (code, len(reports)) == (1, 1)
        missing, extra, different = (reports[0][kind] for kind in ("missing", "extra", "different"))
        assert missing == {"count": 1, "examples": ["pin 9 is not in the shard; source offset 8 by the topic"]}
        assert isinstance(extra, dict) and extra["count"] == 1 and "pin 60 is in the shard" in extra["examples"][0]
        assert different == {"count": 1, "examples": ["pin 30 (source offset 29) differs in the code's bytes"]}
        assert text.exit_code == 1
        assert text.stdout.count("all the same") == 2 and "NOT THE SAME" in text.stdout and "missing: 1" in text.stdout


def damaging(build: Build) -> Build:
    def build_damaged(
        records: Sequence[PolledRecord], bits: int, model: Fingerprint, **more: int
    ) -> tuple[CodeBatch, list[RefusedCode]]:
        kept = [one for one in records if one.key() != b"9" and not (one.key() == b"60" and one.value() is None)]
        next_offset = more.get("next_offset", (records[-1].offset() or 0) + 1 if records else 0)
        batch, refused = build_code_batch(kept, bits, model, next_offset=next_offset)
        code_NW = batch.code_NW.copy()
        code_NW[batch.pin_id == 30, 5] ^= 4
        object.__setattr__(batch, "code_NW", code_NW)
        return batch, refused

    return build_damaged


def test_snapshots_are_audited_without_a_worker(
    settings: Settings, model: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = Codes(settings, model)
    codes.upsert(np.arange(1, 2001))
    codes.flush()
    with running(settings, model) as worker:
        wait_for(lambda: pins_held(worker) == 2000, "2000 Pins held")
    codes.upsert(np.arange(1, 501))
    codes.flush()
    code, reports = audit(settings, model, monkeypatch, "--snapshot")
    assert (code, len(reports)) == (0, settings.topics.partitions), reports
    assert sum(int(str(report["pins"])) for report in reports) == 2000


def test_live_searches_are_checked(settings: Settings, model: Fingerprint) -> None:
    """A search over HTTP ends up in the recall metric of its generation."""
    settings = settings.model_copy(update={"index": settings.index.model_copy(update={"recall_sample_per_s": 1000.0})})
    codes = Codes(settings, model)
    codes.upsert(np.arange(1, 2001))
    codes.flush()

    def recall() -> float | None:
        return REGISTRY.get_sample_value("pinstream_index_recall_at_k", {"generation": model.short})

    with running(settings, model) as worker:
        wait_for(lambda: pins_held(worker) == 2000, "2000 Pins held")
        search = {"pin_id": 5, "k": 10}
        wait_for(
            lambda: httpx.post(f"{worker.http.url}/v1/search", json=search).status_code == 200 and recall() == 1.0,
            "recall measured",
        )
    checked = REGISTRY.get_sample_value("pinstream_index_recall_neighbors_checked_total", {"generation": model.short})
    assert checked is not None and checked >= 10


def test_what_compaction_took_away_meanwhile_is_no_fault(settings: Settings, model: Fingerprint) -> None:
    """A shard's state is taken; a third of its Pins are then updated or deleted, and the old records compacted away."""
    codes = Codes(settings, model)
    identity = ShardIdentity(topic=model.codes_topic, partition=0, partitions=3, bits=BITS, model=model.hex)
    codes.upsert(np.arange(3, 3001, 3))
    codes.flush()
    shard, end = Shard(BITS), end_of(settings, model.codes_topic, 0)
    for tail in read_tail(settings, model.codes_topic, 0, 0, end):
        shard.apply(code_batch(identity, tail))
    view = shard.view()
    with quick_compaction(settings, model.codes_topic):
        for pin_id in range(3, 300, 3):
            codes.delete(pin_id)

        def compacted() -> bool:
            codes.upsert(np.arange(300, 1000, 3))
            codes.flush()
            first = next(iter(read_tail(settings, model.codes_topic, 0, 0, end_of(settings, model.codes_topic, 0))))
            return not any(
                message.key() in (b"3", b"300") and (message.offset() or 0) < end for message in first.messages
            )

        wait_for(compacted, "old records compacted away")

    report = audit_shard(settings, identity, "view", view.checkpoint, view.live_rows, view.items())
    assert report.found.clean, report
    assert (report.pins, report.records, report.found.moved_on) == (1000, 667, 333)
    lost = concatenate_rows(list(view.items()))[:-3]
    found = audit_shard(settings, identity, "view", view.checkpoint, len(lost), [lost]).found
    assert found.missing.count == 3


@contextmanager
def quick_compaction(settings: Settings, topic: str) -> Iterator[None]:
    """The topic's segments roll at once and the cleaner looks ten times a second."""
    admin = reachable_admin(settings)
    brokers = [(ResourceType.BROKER, str(broker)) for broker in admin.list_topics(timeout=10).brokers]

    def alter(kind: ResourceType, name: str, operation: AlterConfigOpType, **values: str) -> None:
        entries = [
            ConfigEntry(key.replace("_", "."), value, incremental_operation=operation) for key, value in values.items()
        ]
        (future,) = admin.incremental_alter_configs([ConfigResource(kind, name, incremental_configs=entries)]).values()
        future.result(10)

    for kind, name in brokers:
        alter(kind, name, AlterConfigOpType.SET, log_cleaner_backoff_ms="100")
    alter(ResourceType.TOPIC, topic, AlterConfigOpType.SET, segment_ms="100", min_cleanable_dirty_ratio="0.0")
    try:
        yield
    finally:
        for kind, name in brokers:
            alter(kind, name, AlterConfigOpType.DELETE, log_cleaner_backoff_ms="")
