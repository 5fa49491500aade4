"""The index worker is killed, its snapshots are damaged, its disk is full, its store is cut off: no wrong answer, ever.

Meanwhile somebody asks for everything the shard holds, again and again. Each answer names its checkpoint, and must be
what the topic held there, hit by hit. Afterwards the shard equals the fold of the topic (tests/oracle.py).

PINSTREAM_FAULT_ROUNDS: how many random moments and damages; from 20 on every fault point, not each third one.
`python -m bench.index_faults` takes 100 rounds.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pinstream.codes import Fingerprint
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Settings
from tests.code_topic import CodeTopic
from tests.conftest import asked_for, wait_for
from tests.faulty_worker import AT_START, FULL_DISK, SETTING_ASIDE, WHILE_RUNNING
from tests.fork_server import ForkedWorker, ForkServer
from tests.light_worker import BITS
from tests.oracle import check_index
from tests.s3_server import BUCKET, S3Server

ROUNDS = asked_for("PINSTREAM_FAULT_ROUNDS", 3)
STEP = 1 if ROUNDS >= 20 else 3
"""A short run takes every third fault point."""
SIGKILLED = -9

pytestmark = [pytest.mark.fault, pytest.mark.timeout(3600)]


class Asker:
    """Asks one worker for all that it holds, as often as it answers, and judges each answer. A thread of its own."""

    def __init__(self, topic: CodeTopic) -> None:
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.url = ""
        self.answers = 0
        self.wrong: list[str] = []

    def ask(self, client: httpx.Client) -> int | None:
        """The checkpoint of a judged answer; None if there was none."""
        try:
            answer = client.post(f"{self.url}/v1/search", json=self._topic.search(), timeout=5)
        except (httpx.HTTPError, httpx.InvalidURL):
            return None
        if not answer.is_success or answer.json()["partial"]:
            return None
        fault = self._topic.judge(answer.json())
        if fault is not None:
            self.wrong.append(fault)
        self.answers += 1
        return int(answer.json()["shards"][0]["checkpoint"])

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client() as client:
            while not self._stop.wait(0.03):
                self.ask(client)


class Scene:
    """One topic, one worker at a time with its snapshots, and somebody who asks it."""

    def __init__(self, settings: Settings, model: Fingerprint, folder: Path, forks: ForkServer) -> None:
        index = settings.index.model_copy(
            update={
                "seal_rows": 64,
                "snapshot_interval_s": 0.25,
                "keep_snapshots": 2,
                "instance_id": model.short,
                "train_rows": 64,
                "coarse_lists": 4,
            }
        )
        topics = settings.topics.model_copy(update={"partitions": 1})
        self.settings = settings.model_copy(update={"index": index, "topics": topics})
        self.topic = CodeTopic(self.settings, model, BITS)
        self.asker = Asker(self.topic)
        self.client = httpx.Client()
        self._forks = forks
        self._model = model
        self._folder = folder
        self._switch = folder / "switch"
        self._starts = 0

    def worker(self, point: str = "none") -> WorkerProcess:
        """Not started yet; its fault is not switched on."""
        self._switch.unlink(missing_ok=True)
        self._starts += 1
        log = self._folder / f"worker-{self._starts}.log"
        # a group of its own: the broker hands a killed member's partitions on with the next heartbeat only, after 5 s
        index = self.settings.index.model_copy(update={"group_id": f"{self._model.short}-{self._starts}"})
        environment = self.settings.model_copy(update={"index": index}).environment()
        return ForkedWorker(self._forks, [self._model.hex, str(self._switch), point], environment, log)

    def switch_on(self) -> None:
        self._switch.touch()

    def switch_off(self) -> None:
        self._switch.unlink()

    def files(self, kind: str) -> list[Path]:
        """Of the shard's snapshots, the newest last."""
        found = (self._folder / "snapshots" / self.topic.topic / "00000").glob(f"*.{kind}")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def find(self, name: str) -> list[Path]:
        """Files of the generation."""
        return list((self._folder / "snapshots" / self.topic.topic).glob(name))

    def newest(self, kind: str) -> Path:
        """A file of the newest snapshot."""
        manifest = max(self.files("json"), key=lambda path: path.name)
        if kind == "json":
            return manifest
        fields = json.loads(manifest.read_text())["manifest"]
        entry = fields["state"] if kind == "state" else fields["segments"][-1]
        return manifest.with_name(f"{entry['sha256']}.{kind}")

    def wait_until_equal(self, worker: WorkerProcess, what: str, *, every_pin: bool = False) -> None:
        """The worker has applied all of the topic, and what it answers is the fold of it.

        Args:
            every_pin: ask for the bytes of each Pin as well; a second or more.
        """
        self.asker.url = worker.url()
        wait_for(
            lambda: self.asker.ask(self.client) == self.topic.end or worker.exit_code is not None,
            lambda: f"{what}: all applied: …{worker.log_text()[-1500:]}",
        )
        assert worker.exit_code is None, f"{what}: ended: …{worker.log_text()[-1500:]}"
        assert not self.asker.wrong, f"{what}: {self.asker.wrong[:3]}"
        if every_pin:
            check_index([self.asker.url], self.topic.expected())
        assert "Traceback" not in worker.log_text(), worker.log_text()[-3000:]

    def feed_until(self, condition: Callable[[], object], what: Callable[[], str]) -> None:
        def step() -> object:
            self.topic.send(40)
            return condition()

        wait_for(step, what)


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer("tests.faulty_worker") as server:
        yield server


@pytest.fixture
def scene(settings: Settings, model: Fingerprint, tmp_path: Path, forks: ForkServer) -> Iterator[Scene]:
    staged = Scene(settings, model, tmp_path, forks)
    staged.topic.send(300)
    with staged.asker, staged.client:
        yield staged
    assert staged.asker.answers > 3
    assert not staged.asker.wrong
    print(f"{staged.asker.answers} answers were right")


def wait_until_killed(worker: WorkerProcess, scene: Scene, point: str) -> None:
    scene.feed_until(lambda: worker.exit_code is not None, lambda: f"killed {point}: …{worker.log_text()[-1500:]}")
    assert worker.exit_code == SIGKILLED, f"{point}: {worker.log_text()[-1500:]}"


def wait_until_ended(worker: WorkerProcess, what: str) -> None:
    wait_for(lambda: worker.exit_code is not None, lambda: f"{what}: ended: …{worker.log_text()[-1500:]}", 120)


def test_killed_at_every_step_of_a_publication_of_retention_and_of_a_merge(scene: Scene) -> None:
    for point in (*WHILE_RUNNING[::STEP], "none"):
        with scene.worker(point) as worker:
            scene.wait_until_equal(worker, f"before being killed {point}", every_pin=point == "none")
            if point != "none":
                scene.switch_on()
                wait_until_killed(worker, scene, point)


def test_killed_at_every_step_of_a_restore(scene: Scene) -> None:
    with scene.worker() as worker:
        scene.wait_until_equal(worker, "at first")
        scene.feed_until(lambda: scene.files("json") and scene.files("segment"), lambda: "a segment")
        assert worker.stop() == 0
    for point in (*AT_START[::STEP], *SETTING_ASIDE):
        if point in SETTING_ASIDE:
            truncate(scene.newest("state"))
        worker = scene.worker(point)
        scene.switch_on()
        with worker:
            wait_until_ended(worker, point)
            assert worker.exit_code == SIGKILLED
        if point == "before set aside":
            assert "is set aside" in worker.log_text()
    with scene.worker() as worker:
        scene.wait_until_equal(worker, "after all of these", every_pin=True)


def test_killed_at_random_moments(scene: Scene) -> None:
    chance = random.Random(5)
    with scene.worker() as worker:
        for round_ in range(ROUNDS):
            scene.wait_until_equal(worker, f"round {round_}", every_pin=round_ % 10 == 9)
            scene.topic.send(chance.randint(1, 200))
            time.sleep(chance.uniform(0, 0.7))  # the random moment; nothing is awaited
            worker.kill()
            scene.topic.send(chance.randint(1, 50))
            worker.start()
        scene.wait_until_equal(worker, "at last", every_pin=True)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def tear(path: Path) -> None:
    """What a power cut leaves: the right length, and zeros where blocks were not written."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(len(content)).randrange(len(content))] ^= 4
    path.write_bytes(content)


DAMAGES: tuple[Callable[[Path], None], ...] = (truncate, tear, flip, Path.unlink, lambda path: os.truncate(path, 0))
KINDS = ("state", "segment", "json")


def test_damaged_files(scene: Scene) -> None:
    """Of the newest snapshot, while the worker is down: the next start says so, and uses what is whole."""
    cases = [(kind, damage) for damage in DAMAGES for kind in KINDS if (kind, damage) != ("json", Path.unlink)]
    cases = [cases[(5 * i) % len(cases)] for i in range(ROUNDS)] if len(cases) > ROUNDS else cases
    for kind, damage in cases:
        with scene.worker() as worker:
            scene.wait_until_equal(worker, f"before {kind}")
            scene.feed_until(lambda: scene.files("json") and scene.files("segment"), lambda: "a segment")
            assert worker.stop() == 0
        damage(scene.newest(kind))
        with scene.worker() as worker:
            scene.wait_until_equal(worker, f"after {damage.__name__} of {kind}", every_pin=kind == "segment")
            assert "is set aside" in worker.log_text(), f"{damage.__name__} of {kind}: {worker.log_text()}"


@pytest.mark.parametrize("name", ["*.quantizer", "quantizer.json"])
def test_a_damaged_quantizer(scene: Scene, name: str) -> None:
    """Searches scan every row then, and say so."""
    with scene.worker() as worker:
        scene.wait_until_equal(worker, "at first")
        scene.feed_until(lambda: scene.files("segment"), lambda: "a segment")
        wait_for(lambda: scene.find(name), "a quantizer")
        assert worker.stop() == 0
    (path,) = scene.find(name)
    truncate(path)
    with scene.worker() as worker:
        scene.wait_until_equal(worker, "with a damaged quantizer", every_pin=True)
        wait_for(lambda: "no quantizer yet" in worker.log_text(), worker.log_text)


def test_a_full_disk(scene: Scene) -> None:
    with scene.worker(FULL_DISK) as worker:
        scene.wait_until_equal(worker, "at first")
        wait_for(lambda: scene.files("json"), "a snapshot")
        scene.switch_on()
        scene.feed_until(
            lambda: "No space left on device" in worker.log_text(), lambda: f"no space: {worker.log_text()}"
        )
        scene.wait_until_equal(worker, "while it is full")
        newest = scene.files("json")[-1]
        scene.switch_off()
        wait_for(lambda: scene.files("json")[-1] != newest, "snapshots again")
        scene.switch_on()
        scene.topic.send(100)
        worker.kill()
    with scene.worker() as worker:
        scene.wait_until_equal(worker, "after a kill on a full disk", every_pin=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk; the test before fakes one")
def test_a_disk_that_is_really_full(scene: Scene, tmp_path: Path) -> None:
    with small_disk(tmp_path / "snapshots"):
        with scene.worker() as worker:
            scene.wait_until_equal(worker, "at first")
            wait_for(lambda: scene.files("json"), "a snapshot")
            ballast = tmp_path / "snapshots" / "ballast"
            fill(ballast)
            scene.feed_until(
                lambda: "No space left on device" in worker.log_text(), lambda: f"no space: {worker.log_text()}"
            )
            scene.wait_until_equal(worker, "while it is full")
            worker.kill()
        with scene.worker() as worker:
            scene.wait_until_equal(worker, "started on a full disk")
            newest = scene.files("json")[-1]
            ballast.unlink()
            scene.topic.send(10)
            wait_for(lambda: scene.files("json")[-1] != newest, "snapshots again")
            worker.kill()
        with scene.worker() as worker:
            scene.wait_until_equal(worker, "afterwards", every_pin=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 1 MiB."""
    import subprocess  # noqa: PLC0415 (only here)

    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"can't mount here: {mounted.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_the_store_is_cut_off(scene: Scene) -> None:
    with S3Server() as s3:
        index = scene.settings.index.model_copy(update={"snapshot_url": f"s3://{BUCKET}/index"})
        options = s3.options(timeout="1 seconds", connect_timeout="1 seconds")
        fetch = scene.settings.fetch.model_copy(update={"store_options": options})
        scene.settings = scene.settings.model_copy(update={"index": index, "fetch": fetch})
        published = 'snapshots_total{outcome="published"} '

        def snapshots() -> float:
            text = httpx.get(f"{scene.asker.url}/metrics").text
            return float(text.partition(published)[2].partition("\n")[0] or 0)

        with scene.worker() as worker:
            scene.wait_until_equal(worker, "on S3")
            wait_for(snapshots, "a snapshot")
            s3.pause()  # while it runs
            scene.feed_until(lambda: "failed: snapshot store is away" in worker.log_text(), worker.log_text)
            scene.wait_until_equal(worker, "while the store is silent")
            before = snapshots()
            s3.resume()
            wait_for(lambda: snapshots() > before, worker.log_text)
            worker.kill()
        s3.pause()  # at the start, and so during the restore
        with scene.worker() as worker:
            wait_for(lambda: "snapshot store is away" in worker.log_text(), worker.log_text)
            s3.resume()
            scene.wait_until_equal(worker, "after a silent start")
            assert "checkpoint 0\n" not in worker.log_text()
            s3.kill()
            scene.feed_until(lambda: "failed: snapshot store is away" in worker.log_text(), worker.log_text)
            scene.wait_until_equal(worker, "while the store refuses connections")
            worker.kill()
        with scene.worker() as worker:
            wait_until_ended(worker, "without a store")
            assert worker.exit_code == 1
            assert "stopped: snapshot store is away" in worker.log_text()
        s3.start()  # and has lost everything
        with scene.worker() as worker:
            scene.wait_until_equal(worker, "on an empty store", every_pin=True)
            assert "checkpoint 0\n" in worker.log_text()
