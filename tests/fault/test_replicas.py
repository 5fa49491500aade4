"""Replicas are killed and stopped under query load: every query is answered whole, and soon; none reads what is old."""

from __future__ import annotations

import base64
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from confluent_kafka import Producer

from pinstream.codes import Fingerprint, empty_records, encode_records
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Settings
from tests.conftest import wait_for
from tests.light_worker import BITS

PINS = 2000
PARTITIONS = 2
CLIENTS = 4

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]


def code_of(pin_id: int) -> bytes:
    return np.random.default_rng(pin_id).bytes(BITS // 8)


def publish(settings: Settings, model: Fingerprint, pin_ids: list[int]) -> dict[int, tuple[int, int]]:
    """Put codes on the topic as any producer may. Pin id → (partition, next offset)."""
    records = empty_records(len(pin_ids), BITS, model, settings.topics.codes_schema_id)
    records["pin_id"] = records["source_offset"] = pin_ids
    records["event_time_ms"] = time.time_ns() // 1_000_000
    records["code"] = np.array([np.frombuffer(code_of(pin_id), np.uint8) for pin_id in pin_ids])
    placed: dict[int, tuple[int, int]] = {}
    producer = Producer(client_config(settings))
    for pin_id, value in zip(pin_ids, encode_records(records), strict=True):

        def delivered(_error: object, message: object, pin_id: int = pin_id) -> None:
            placed[pin_id] = (message.partition(), message.offset() + 1)  # type: ignore[attr-defined]  # a Message

        producer.produce(model.codes_topic, value, b"%d" % pin_id, pin_id % PARTITIONS, on_delivery=delivered)
    assert producer.flush(30) == 0
    assert len(placed) == len(pin_ids)
    return placed


@dataclass
class Cluster:
    settings: Settings
    model: Fingerprint
    root: WorkerProcess
    """Replica 0, with one of the two shards."""
    sibling: WorkerProcess
    """Replica 0, with the other one."""
    replica: WorkerProcess
    """Replica 1, with both."""

    def whole(self) -> bool:
        """The root sees both others, with the shards that they must have."""
        info = httpx.get(f"{self.root.url()}/info").json()
        seen = [(len(one["shards"]), one["replica"]) for one in info["leaves"].values()]
        return len(info["shards"]) == 1 and sorted(seen) == [(1, 0), (2, 1)]


def start(number: int, replica: int, settings: Settings, model: Fingerprint, folder: Path) -> WorkerProcess:
    index = settings.index.model_copy(update={"instance_id": f"node-{number}-{model.short}", "replica": replica})
    environment = settings.model_copy(update={"index": index}).environment()
    return WorkerProcess(["-m", "tests.light_worker", "index", model.hex], environment, folder / f"node-{number}.log")


@pytest.fixture(scope="module")
def cluster(servers: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of replica 0 and one of replica 1, all caught up."""
    from pinstream.settings import load_settings  # noqa: PLC0415 (the module's own settings)

    model = Fingerprint(os.urandom(32).hex())
    folder = tmp_path_factory.mktemp("replicas")
    settings = load_settings(
        kafka={"bootstrap_servers": servers.bootstrap_servers},  # type: ignore[attr-defined]  # LocalServers
        redis={"url": servers.redis_url},  # type: ignore[attr-defined]  # LocalServers
        topics={"partitions": PARTITIONS},
        index={"snapshot_url": f"file://{folder / 'snapshots'}", "snapshot_interval_s": 1},
    )
    ensure_topics(reachable_admin(settings), (codes_topic(settings.topics, model),), settings.topics)
    publish(settings, model, list(range(1, PINS + 1)))
    with ExitStack() as stack:
        nodes = [stack.enter_context(start(i, i // 2, settings, model, folder)) for i in range(3)]
        made = Cluster(settings, model, *nodes)
        for one in nodes:
            one.wait_ready()
        wait_for(made.whole, lambda: httpx.get(f"{made.root.url()}/info").text)
        yield made


def body(pin_id: int, **more: object) -> dict[str, object]:
    return {"code": base64.b64encode(code_of(pin_id)).decode(), "k": 3, "allow_partial": False, **more}


@dataclass
class Load:
    latencies_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def wait_for_more(self, count: int) -> None:
        until = len(self.latencies_s) + len(self.faults) + count
        wait_for(lambda: len(self.latencies_s) + len(self.faults) >= until, f"{count} more queries")


@contextmanager
def searching(url: str) -> Iterator[Load]:
    """Clients that search without pause for as long as the block lasts."""
    load, stop = Load(), threading.Event()

    def run(seed: int) -> None:
        random = np.random.default_rng(seed)
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                pin_id = int(random.integers(1, PINS + 1))
                started_s = time.monotonic()
                answer = client.post("/v1/search", json=body(pin_id))
                took_s = time.monotonic() - started_s
                if answer.status_code != 200 or answer.json()["hits"][0]["pin_id"] != pin_id:
                    load.faults.append(answer.text)
                else:
                    load.latencies_s.append(took_s)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def metric(node: WorkerProcess, line: str) -> float:
    text = httpx.get(f"{node.url()}/metrics").text
    return next((float(one.rsplit(" ", 1)[1]) for one in text.splitlines() if one.startswith(line)), 0.0)


def test_what_was_written_is_read_on_every_shard(cluster: Cluster) -> None:
    with httpx.Client(base_url=cluster.root.url(), timeout=30) as client:
        for pin_id in range(PINS + 1, PINS + 41):
            placed = publish(cluster.settings, cluster.model, [pin_id])
            partition, offset = placed[pin_id]
            answer = client.post("/v1/search", json=body(pin_id, min_offset={partition: offset}))
            assert answer.status_code == 200, answer.text
            assert answer.json()["hits"][0] == {"pin_id": pin_id, "distance": 0, "domain": "camera", "flags": []}
            states = {state["partition"]: state["checkpoint"] for state in answer.json()["shards"]}
            assert states[partition] >= offset


def test_what_is_not_there_by_the_deadline_is_412(cluster: Cluster) -> None:
    for partition in range(PARTITIONS):
        answer = httpx.post(
            f"{cluster.root.url()}/v1/search",
            json=body(1, min_offset={partition: 10**9}, timeout_ms=400),
            timeout=30,
        )
        assert answer.status_code == 412
        assert f"shard {partition} has applied up to offset 1" in answer.text
        assert "wanted 1000000000" in answer.text
    nowhere = httpx.post(f"{cluster.root.url()}/v1/search", json=body(1, min_offset={PARTITIONS: 1}))
    assert nowhere.status_code == 400
    assert "expected 0 to 1" in nowhere.text


def test_only_replica_0_writes_snapshots(cluster: Cluster) -> None:
    snapshots = Path(cluster.settings.index.snapshot_url.removeprefix("file://"))
    wait_for(lambda: len(list(snapshots.rglob("manifest-*.json"))) >= PARTITIONS, "snapshots of both shards")
    assert metric(cluster.replica, 'pinstream_snapshots_total{outcome="published"}') == 0
    assert metric(cluster.replica, 'pinstream_snapshots_total{outcome="fenced"}') == 0


def test_a_stopped_replica_costs_no_query_and_little_time(cluster: Cluster) -> None:
    url = cluster.root.url()
    with searching(url) as load:
        load.wait_for_more(200)
        pid = cluster.replica.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            load.latencies_s.clear()
            load.wait_for_more(400)
            stopped_s = sorted(load.latencies_s)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert not load.faults, load.faults[:3]
    assert stopped_s[int(0.99 * len(stopped_s))] < 1.0, f"p99 of {len(stopped_s)}: waited for the stopped one"
    assert metric(cluster.root, 'pinstream_leaf_hedges_total{outcome="won"}') > 0


def test_killed_replicas_cost_no_query(cluster: Cluster) -> None:
    """One after the other, each time with the other one left."""
    with searching(cluster.root.url()) as load:
        wait_for(cluster.whole, "the replica that was stopped is seen again")
        load.wait_for_more(100)
        cluster.replica.kill()
        load.wait_for_more(300)
        cluster.replica.start()
        cluster.replica.wait_ready()
        wait_for(cluster.whole, "the replica is seen again")
        cluster.sibling.kill()
        load.wait_for_more(300)
    assert not load.faults, load.faults[:3]


def test_with_no_replica_left_every_answer_says_what_is_missing_until_the_root_has_taken_over(cluster: Cluster) -> None:
    """The last one: nothing starts the killed nodes again, and the group gives their shards to the root."""
    cluster.sibling.kill()
    cluster.replica.kill()
    with httpx.Client(base_url=cluster.root.url(), timeout=30) as client:

        def honest() -> bool:
            owned = {int(partition) for partition in client.get("/info").json()["shards"]}
            missing: set[int] = set()
            for pin_id in range(1, 1 + PARTITIONS):
                answer = client.post("/v1/search", json=body(pin_id, allow_partial=True)).json()
                assert answer["partial"] == bool(answer["missing_shards"])
                missing |= set(answer["missing_shards"])
                assert not missing & owned
                assert answer["hits"][0]["pin_id"] == pin_id or pin_id % PARTITIONS in missing
                held = client.get(f"/v1/pins/{pin_id}")
                assert held.status_code == 200 or (held.status_code == 503 and pin_id % PARTITIONS not in owned)
            return not missing

        wait_for(honest, "the root has both shards", 60)
