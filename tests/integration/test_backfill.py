"""A backfill and the tail after it come to what a pure replay comes to, killed wherever it may be."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from signal import SIGKILL
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
from confluent_kafka import Producer

from consumers.kafka_ends import LogEnds
from consumers.topic_fold import fold_topic, read_topic
from index_sync.checkpoint import ShardIdentity
from index_sync.store_snapshot import SnapshotStore
from pinstream.codes import HEADER_SOURCE_OFFSET, Fingerprint, decode_records
from pinstream.errors import FatalError
from pinstream.events import Domain, Image, Op, PinEvent
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics, pins_topics
from pinstream.local.worker_process import WorkerProcess
from pinstream.object_store import open_store
from pinstream.settings import Settings
from producers.kafka_codes import CodesPublisher
from rollout.backfill.plan import BAD, DELETE, UPSERT, Part, chain, to_embed
from rollout.backfill.ray_engine import Job, Jobs
from rollout.backfill.run import Backfill
from rollout.backfill.store_tables import BackfillTables
from rollout.generation import Replay, State
from tests.conftest import wait_for
from tests.light_backfill import PART_ROWS, Load, replaying
from tests.light_worker import BITS
from tests.oracle import check_codes, check_index, fold_pins
from tests.pipeline import running
from tests.workload import Workload

RAY_S = 400.0
"""Starting Ray takes 10 s of a core, and a busy machine ten times as long."""


class Killed(BaseException):
    """Nothing of ours catches it, as nothing catches SIGKILL."""


class EngineHere:
    """Runs jobs in this process."""

    def run(self, make: Callable[[], Jobs], jobs: Sequence[Job], *, with_model: bool = False) -> list[Job]:
        runner = make()
        return [runner(job) for job in jobs]


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Two partitions, small transactions, and a topic that exists."""
    topics = settings.topics.model_copy(update={"partitions": 2})
    embed = settings.embed.model_copy(update={"max_publish_records": 16})
    own = settings.model_copy(update={"topics": topics, "embed": embed})
    ensure_topics(reachable_admin(own), pins_topics(own.topics), own.topics)
    return own


@pytest.fixture
def others() -> tuple[Fingerprint, ...]:
    """More generations."""
    return tuple(Fingerprint(os.urandom(32).hex()) for _ in range(3))


def events(seed: int, count: int) -> list[tuple[bytes, bytes | None]]:
    """Updates, deletes, duplicates, bad records, and images that can't be decoded: some as a Pin's newest."""
    workload = Workload(seed, pins=60)
    records = [workload.next() for _ in range(count)]
    for pin_id in range(seed % 7 + 1, 60, 7):
        broken = PinEvent(
            pin_id=pin_id,
            op=Op.UPSERT,
            event_time=1_700_000_000_000,
            image=Image(uri="data:image/jpeg;base64,AAAA"),
            domain=Domain.PIN,
        )
        records.insert(count * pin_id // 60, (b"%d" % pin_id, broken.value()))
        records.append((b"%d" % pin_id, broken.value()))
    return records + records[-10:]


def send(settings: Settings, records: list[tuple[bytes, bytes | None]]) -> None:
    producer = Producer(client_config(settings))
    for key, value in records:
        producer.produce(settings.topics.pins, value, key)
    assert producer.flush(30) == 0


def dying(method: Callable[..., None], lives: Callable[[], int]) -> Callable[..., None]:
    """The same method, which works so many times between deaths."""
    done = 0

    def call(*arguments: Any) -> None:
        nonlocal done
        if done >= lives():
            done = 0
            raise Killed
        done += 1
        method(*arguments)

    return call


def make(settings: Settings, model: Fingerprint) -> Backfill:
    ensure_topics(reachable_admin(settings), (codes_topic(settings.topics, model),), settings.topics)
    return Backfill(settings, replaying(model), Load(model.hex), part_rows=PART_ROWS)


def codes(settings: Settings, model: Fingerprint) -> dict[bytes, tuple[int | None, int, bytes]]:
    """Pin → partition, source offset, and all that its code record says, but for the model; b"": deleted."""
    found = {}
    for key, message in fold_topic(settings, model.codes_topic, settings.topics.partitions).items():
        value = message.value()
        if value is None:
            offset, content = int(dict(message.headers() or [])[HEADER_SOURCE_OFFSET]), b""  # type: ignore[arg-type]
        else:
            record, _, _ = decode_records([value], BITS, model)
            offset = int(record["source_offset"][0])
            content = b"".join(record[field].tobytes() for field in record.dtype.names or () if field != "model")
        found[key] = (message.partition(), offset, content)
    return found


def letters(settings: Settings, model: Fingerprint) -> Counter[tuple[str, ...]]:
    """This generation's dead letters: stage, value and every header but the model and the tries."""
    found: Counter[tuple[str, ...]] = Counter()
    for message in read_topic(settings, settings.topics.dead_letters, settings.topics.partitions):
        headers = {name: value.decode() for name, value in message.headers() or [] if isinstance(value, bytes)}
        if headers.pop("pinstream.model") == model.hex:
            del headers["pinstream.attempts"]
            stage = headers["__connect.errors.stage"]
            found[stage, repr(message.value()), *sorted(map(repr, headers.items()))] += 1
    return found


def check_letters(settings: Settings, replayed: Fingerprint, backfilled: Fingerprint) -> None:
    """Unreadable records are the same dead letters, once each; of bad images those that a code was wanted of."""
    pure, ours = letters(settings, replayed), letters(settings, backfilled)
    assert {one: count for one, count in ours.items() if one[0] == "PARSE"} == {
        one: count for one, count in pure.items() if one[0] == "PARSE"
    }
    assert any(one[0] != "PARSE" for one in ours)
    assert ours <= pure, ours - pure


def newest_checkpoints(settings: Settings, model: Fingerprint) -> list[int]:
    store = open_store(settings.snapshot_url, {}, setting="")
    found = []
    for partition in range(settings.topics.partitions):
        shard = ShardIdentity(
            topic=model.codes_topic,
            partition=partition,
            partitions=settings.topics.partitions,
            bits=BITS,
            model=model.hex,
        )
        manifest = SnapshotStore(store, shard).newest()
        found.append(manifest.checkpoint if manifest else -1)
    return found


def check_tail(settings: Settings, replayed: Fingerprint, *backfilled: Fingerprint) -> None:
    """With embed and index workers on the rest of the topic, all is as the replay has it and as the topic says."""
    expected, _ = fold_pins(settings)
    pure = codes(settings, replayed)
    for model in backfilled:
        with running(settings, model) as pipeline:
            pipeline.settle()
            check_index([pipeline.index.http.url], expected)
        check_codes(settings, model, expected, exactly_once=True)
        assert codes(settings, model) == pure


class TestBackfill:
    def test_equals_a_replay_wherever_it_is_killed(
        self, small: Settings, model: Fingerprint, others: tuple[Fingerprint, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, torn, given_up = others
        send(small, events(1, 260))
        with running(small, model) as pipeline:
            pipeline.settle()
        # one that goes through
        done = make(small, whole).run(EngineHere())
        assert done.parts > 4 and done.snapshots == 2 and done.failed
        ends = LogEnds(small).ask(whole.codes_topic, [0, 1], 10)
        assert newest_checkpoints(small, whole) == [ends[0], ends[1]]
        assert codes(small, whole) == codes(small, model)
        check_letters(small, model, whole)
        # one that is killed again and again, between files and between transactions
        assert self.run_to_the_end(small, torn, monkeypatch) > 7
        check_letters(small, model, torn)
        # one that is killed while it publishes, and given up for a plain replay
        with monkeypatch.context() as patched:
            patched.setattr(CodesPublisher, "publish", dying(CodesPublisher.publish, lambda: 3))
            with pytest.raises(Killed):
                make(small, given_up).run(EngineHere())
        send(small, events(2, 80))
        with running(small, model) as pipeline:
            pipeline.settle()
        check_tail(small, model, whole, torn, given_up)

    def run_to_the_end(self, settings: Settings, model: Fingerprint, patch: pytest.MonkeyPatch) -> int:
        """Killed after 0 to 6 files, and after 0 to 6 transactions, until it is done; returns how often."""
        deaths = 0
        with patch.context() as patched:
            patched.setattr(BackfillTables, "put", dying(BackfillTables.put, lambda: deaths % 7))
            patched.setattr(CodesPublisher, "publish", dying(CodesPublisher.publish, lambda: deaths % 7))
            while True:
                try:
                    make(settings, model).run(EngineHere())
                except Killed:
                    deaths += 1
                else:
                    return deaths

    def test_refuses_what_would_make_two_writers_or_lose_deletes(self, small: Settings, model: Fingerprint) -> None:
        send(small, events(1, 20))
        backfill = make(small, model)
        with running(small, model) as pipeline:
            pipeline.settle()
            with pytest.raises(FatalError, match="and replay the topic themselves"):
                backfill.run(EngineHere())
        for fields, why in (
            ({"state": State.LIVE}, "is live, expected replaying"),
            ({"replay": Replay(paused=True)}, "is paused"),
            ({"replay": Replay(domains=("pin",))}, "a part of the history"),
        ):
            with pytest.raises(FatalError, match=why):
                Backfill(small, replaying(model, **fields), Load(model.hex)).run(EngineHere())

    def test_refuses_another_model_and_an_old_export(self, small: Settings, model: Fingerprint) -> None:
        send(small, events(1, 20))
        ensure_topics(reachable_admin(small), (codes_topic(small.topics, model),), small.topics)
        with pytest.raises(FatalError, match="the model on this machine is"):
            Backfill(small, replaying(model), Load("ab" * 32)).run(EngineHere())
        tables = BackfillTables(small, model)
        plan = tables.plan()
        assert plan is not None
        tables.clear()
        tables.keep_plan(plan.model_copy(update={"created_ms": plan.created_ms - 6 * 86_400_000}))
        with pytest.raises(FatalError, match=r"keeps deletes for 168\.0 h"):
            make(small, model).run(EngineHere())
        tables.clear()
        tables.keep_plan(plan.model_copy(update={"topic_id": "another"}))
        with pytest.raises(FatalError, match="another topic"):
            make(small, model).run(EngineHere())
        tables.clear()
        tables.keep_plan(plan.model_copy(update={"starts": plan.ends}))
        with pytest.raises(FatalError, match="stands before what this backfill covers"):
            make(small, model).run(EngineHere())
        assert make(small, model).run(EngineHere(), anew=True).published

    @pytest.mark.fault
    @pytest.mark.timeout(900)
    def test_on_ray_with_its_driver_killed(
        self, small: Settings, model: Fingerprint, others: tuple[Fingerprint, ...], tmp_path: Path
    ) -> None:
        send(small, events(3, 150))
        with running(small, model) as pipeline:
            pipeline.settle()
        replayed, model = model, others[0]
        ensure_topics(reachable_admin(small), (codes_topic(small.topics, model),), small.topics)
        folder = f"/tmp/pinstream-ray-{os.getpid()}"  # noqa: S108 (a socket's path is at most 107 bytes long)
        process = WorkerProcess(
            ["-m", "tests.light_backfill", model.hex, folder],
            {**small.environment(), "RAY_AUTH_TOKEN": os.urandom(24).hex(), "OMP_NUM_THREADS": "1"},
            tmp_path / "ray.log",
        )
        tables = BackfillTables(small, model)
        try:
            run_until(process, lambda: tables.parts("codes-0"))
            assert process.exit_code is None, process.log_text()
        finally:
            kill_all(process)
        made = tables.parts("codes-0")
        try:
            run_until(process, lambda: False)
            assert process.exit_code == 0, process.log_text()
            session = process.pid
            wait_for(lambda: not of_session(session), lambda: f"Ray has left {of_session(session)}")
        finally:
            kill_all(process)
            rmtree(folder, ignore_errors=True)
        assert f"parts done before: {len(made)}" in process.log_text()
        assert codes(small, model) == codes(small, replayed)
        check_letters(small, replayed, model)
        send(small, events(4, 40))
        with running(small, replayed) as pipeline:
            pipeline.settle()
        check_tail(small, replayed, model)


def run_until(process: WorkerProcess, condition: Callable[[], object]) -> None:
    """Start the driver and wait for the condition, or until it ends. Ray gives its own start 30 s (2.60), which a
    machine that is busy with other tests may not make: then it is started again."""
    for _ in range(4):
        process.start()
        wait_for(lambda: process.exit_code is not None or condition(), process.log_text, RAY_S)
        if process.exit_code in (None, 0) or "Ray did not start" not in process.log_text():
            return
        kill_all(process)


def of_session(session: int | None) -> list[int]:
    """Processes that the driver of this pid has started; each driver has a session of its own."""
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                found.append(pid)
    return found


def kill_all(process: WorkerProcess) -> None:
    """SIGKILL the driver, and what its Ray had started that does not end with it."""
    session = process.pid
    assert session is not None
    if process.exit_code is None:
        process.kill()
    for pid in of_session(session):
        with suppress(ProcessLookupError):
            os.kill(pid, SIGKILL)
    wait_for(lambda: not of_session(session), f"processes of session {session} gone")


class TestPlan:
    NAMES: ClassVar = {"b": BAD, "u": UPSERT, "d": DELETE}

    @pytest.mark.parametrize(
        ("kinds", "pins", "failed", "before", "chosen"),
        [
            ("uuu", [1, 2, 1], "...", None, [1, 2]),
            ("uud", [1, 2, 1], "...", None, [1]),
            ("udu", [1, 1, 1], "...", None, [2]),
            ("uub", [1, 1, 1], "...", None, [1]),
            ("uuu", [1, 1, 2], ".x.", "...", [0]),
            ("uduu", [1, 1, 1, 2], "..x.", "....", []),
            ("uuu", [1, 1, 1], ".xx", "..x", [0]),
        ],
    )
    def test_rounds(self, kinds: str, pins: list[int], failed: str, before: str | None, chosen: list[int]) -> None:
        kind = np.array([self.NAMES[one] for one in kinds], np.uint8)
        marks = [np.array([one == "x" for one in text]) for text in (failed, before or "x" * len(kinds))]
        assert np.flatnonzero(to_embed(np.array(pins), kind, *marks)).tolist() == chosen

    def test_parts_of_two_commands_at_once_still_follow_each_other(self) -> None:
        parts = [Part(0, 0, 10), Part(0, 0, 12), Part(0, 10, 20), Part(0, 12, 22), Part(0, 30, 40)]
        assert chain(parts, 0) == [Part(0, 0, 10), Part(0, 10, 20)]
        assert Part.named(parts[1].name) == parts[1]
