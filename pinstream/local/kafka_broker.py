"""One Apache Kafka node of the embedded cluster: broker and controller in one process (KRaft)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata

from pinstream.errors import FatalError
from pinstream.events import MAX_EVENT_BYTES
from pinstream.local.jars import kafka_classpath
from pinstream.local.java import QUICK_START_FLAGS, find_java
from pinstream.local.process import LOOPBACK, free_port
from pinstream.local.server import Server, start_failure
from pinstream.local.state import ServerState

_ANSWER_TIMEOUT_S: Final = 3.0
_FORMAT_TIMEOUT_S: Final = 60
_POLL_S: Final = 0.03
_LOG_CONFIGURATION: Final = Path(__file__).with_name("log4j2.properties")
_PROPERTIES: Final = "server.properties"
_LOG_DIR: Final = "data"
_PROBE: Final = "pinstream-local-ready"

MAX_MESSAGE_BYTES: Final = MAX_EVENT_BYTES + 1024 * 1024
"""The largest record batch: a Pin event whose image is an inline `data:` URI, and its dead letter with headers."""

_SETTINGS: Final = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "message.max.bytes": MAX_MESSAGE_BYTES,
    "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
    # Groups: KIP-848 beside the classic protocol. A worker that was killed gives up its partitions after 5 s
    # (default 45 s), and a rebalance moves on with every heartbeat (default 5 s).
    "group.coordinator.rebalance.protocols": "classic,consumer",
    "group.initial.rebalance.delay.ms": 0,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 5000,
    "group.consumer.min.heartbeat.interval.ms": 100,
    "group.consumer.heartbeat.interval.ms": 500,
    "group.min.session.timeout.ms": 1000,
    # A transaction whose time is up is aborted within a second (default 10 s).
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
    # A killed or paused broker loses its leaders after 5 s (default 9 s); followers leave the in-sync set after 10 s.
    "broker.heartbeat.interval.ms": 500,
    "broker.session.timeout.ms": 5000,
    "replica.lag.time.max.ms": 10_000,
    # Little disk and little memory: few internal partitions, small segments, deleted soon.
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    "log.segment.bytes": 128 * 1024 * 1024,
    "log.segment.delete.delay.ms": 1000,
    "log.index.size.max.bytes": 2 * 1024 * 1024,
    "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,
    "metadata.log.segment.bytes": 16 * 1024 * 1024,
    "metadata.max.retention.bytes": 32 * 1024 * 1024,
    "num.network.threads": 2,
    "num.io.threads": 4,
}


def broker_properties(node_id: int, ports: tuple[int, int], quorum: Sequence[tuple[int, int]]) -> dict[str, str]:
    """The node's `server.properties`.

    Args:
        node_id: 1, 2, …
        ports: of the clients' and of the controllers' listener.
        quorum: (node id, controller port) of every node.
    """
    replicas = min(3, len(quorum))
    in_sync = min(2, len(quorum))
    own = {
        "node.id": node_id,
        "listeners": f"PLAINTEXT://{LOOPBACK}:{ports[0]},CONTROLLER://{LOOPBACK}:{ports[1]}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{ports[0]}",
        "controller.quorum.voters": ",".join(f"{node}@{LOOPBACK}:{port}" for node, port in quorum),
        "log.dirs": _LOG_DIR,  # relative to its working folder, so that no character of a path needs escaping
        "default.replication.factor": replicas,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "min.insync.replicas": in_sync,
    }
    return {key: str(value) for key, value in (_SETTINGS | own).items()}


class KafkaBroker(Server):
    """Broker `node_id` of the cluster `cluster_id`; see `Server` for what can be done to it."""

    def __init__(
        self, node_id: int, cluster_id: str, heap_mb: int, data_dir: Path, changed: Callable[[], None]
    ) -> None:
        super().__init__(f"broker-{node_id}", data_dir, changed)
        self.node_id = node_id
        self.controller_port = 0
        self._cluster_id = cluster_id
        self._heap_mb = heap_mb

    def state(self) -> ServerState:
        return super().state().model_copy(update={"controller_port": self.controller_port})

    def attach(self, state: ServerState) -> None:
        super().attach(state)
        self.controller_port = state.controller_port or 0

    def ports(self) -> tuple[int, ...]:
        return self.port, self.controller_port

    def choose_ports(self) -> None:
        self.port, self.controller_port = free_port(), free_port()

    def configure(self, quorum: Sequence[tuple[int, int]]) -> None:
        """Write the node's configuration; `quorum` as in `broker_properties`. Its ports must be chosen."""
        properties = broker_properties(self.node_id, (self.port, self.controller_port), quorum)
        text = "".join(f"{key}={value}\n" for key, value in properties.items())
        (self.folder / _PROPERTIES).write_text(text, encoding="utf-8")

    def start_format(self) -> subprocess.Popen[str] | None:
        """Begin to format the node's empty data folder with Kafka's own tool; None if that is done. Does not wait."""
        if (self.folder / _LOG_DIR / "meta.properties").exists():
            return None
        return subprocess.Popen(
            self._java("kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", _PROPERTIES),
            cwd=self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def command(self) -> Sequence[str]:
        return self._java("kafka.Kafka", _PROPERTIES)

    def answers(self, *, fully: bool) -> bool:
        metadata = self._metadata()
        if metadata is None or self.node_id not in metadata.brokers:
            return False
        if cast("str | None", metadata.cluster_id) != self._cluster_id:  # annotated as always None
            return False
        return not fully or all(
            self.node_id in partition.isrs and partition.leader in metadata.brokers
            for topic in metadata.topics.values()
            for partition in topic.partitions.values()
            if self.node_id in partition.replicas
        )

    def _metadata(self) -> ClusterMetadata | None:
        try:
            return AdminClient(quiet_client(self.endpoint)).list_topics(timeout=_ANSWER_TIMEOUT_S)
        except KafkaException:
            return None

    def _java(self, *arguments: str) -> list[str]:
        return [
            str(find_java()),
            *QUICK_START_FLAGS,
            f"-Xmx{self._heap_mb}m",
            f"-Dlog4j2.configurationFile={_LOG_CONFIGURATION.as_uri()}",
            f"-Dpinstream.log={Path('..', self.log.parent.name, self.log.name)}",
            "-cp",
            kafka_classpath(),
            *arguments,
        ]


def quiet_client(bootstrap_servers: str) -> dict[str, Any]:
    """A client for asking whether servers are there: it tries often and does not complain about refusals."""
    return {"bootstrap.servers": bootstrap_servers, "log_level": 0, "reconnect.backoff.max.ms": 200}


def format_brokers(brokers: Iterable[KafkaBroker]) -> None:
    """Format the data folders that are new, at the same time. Blocks: a second or two.

    Raises:
        FatalError: Kafka's tool fails; its output is the note.
    """
    formatting = [(broker, running) for broker in brokers if (running := broker.start_format())]
    try:
        for broker, running in formatting:
            output, _ = running.communicate(timeout=_FORMAT_TIMEOUT_S)
            if running.returncode != 0:
                raise start_failure(f"formatting {broker.name}", running.returncode, output, broker.folder)
    finally:
        for _, running in formatting:
            running.kill()
            running.wait()


def wait_for_cluster(bootstrap_servers: str, broker_count: int, timeout_s: float) -> None:
    """Block until clients see all brokers, and the cluster coordinates transactions and groups.

    The first use of a coordinator makes its internal topic, so this does it once before any client has to wait.

    Raises:
        FatalError: not within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    config = quiet_client(bootstrap_servers)
    admin = AdminClient(config)
    producer = Producer({**config, "transactional.id": _PROBE, "retry.backoff.ms": 20})
    # Not AdminClient.list_consumer_group_offsets: librdkafka 2.16 crashes in it while there is no coordinator.
    consumer = Consumer({**config, "group.id": _PROBE})

    def count_brokers() -> None:
        found = len(admin.list_topics(timeout=_ANSWER_TIMEOUT_S).brokers)
        if found < broker_count:
            raise TimeoutError(f"{found} of {broker_count} brokers are there")

    try:
        _insist(count_brokers, deadline_s)
        _insist(lambda: producer.init_transactions(_ANSWER_TIMEOUT_S), deadline_s)
        _insist(lambda: consumer.committed([TopicPartition(_PROBE, 0)], timeout=_ANSWER_TIMEOUT_S), deadline_s)
    except (KafkaException, TimeoutError) as error:
        raise FatalError(
            f"Kafka at {bootstrap_servers} runs but is not ready after {timeout_s:g} s ({error}): see the brokers' logs"
        ) from error
    finally:
        consumer.close()


def _insist(ask: Callable[[], object], deadline_s: float) -> None:
    """Ask until it is granted; the refusal at `deadline_s` is raised."""
    while True:
        try:
            ask()
            return
        except (KafkaException, TimeoutError):
            if time.monotonic() > deadline_s:
                raise
        time.sleep(_POLL_S)
