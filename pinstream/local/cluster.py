"""The embedded servers of one data folder: Kafka with one or three brokers, and Redis."""

from __future__ import annotations

import base64
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pinstream.errors import FatalError
from pinstream.kafka_clients import LOCAL_STATE
from pinstream.local.jars import kafka_classpath, locked_folder
from pinstream.local.java import find_java
from pinstream.local.kafka_broker import KafkaBroker, format_brokers, wait_for_cluster
from pinstream.local.process import end_processes, is_port_free
from pinstream.local.redis_server import RedisServer
from pinstream.local.server import READY_TIMEOUT_S, STOP_TIMEOUT_S, PortTakenError, Server, wait_until_ready
from pinstream.local.state import ClusterState, load_state, save_state
from pinstream.settings import SNAPSHOTS_FOLDER

BROKER_COUNTS: Final = (1, 3)
_STILL_READY_TIMEOUT_S: Final = 20.0
_ABANDON_TIMEOUT_S: Final = 2.0
_STOP_SEVERAL_TIMEOUT_S: Final = 10.0
"""Of brokers that stop at once the last may find no quorum to take leave of, and would wait 5 minutes for one."""
_PORT_ATTEMPTS: Final = 3
_FREE_BYTES: Final = 256 * 1024 * 1024


class Health(StrEnum):
    OK = "OK"
    STALL = "STALL"
    """The process is there, but it does not answer."""
    STOP = "STOP"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    name: str
    health: Health
    endpoint: str
    pid: int | None
    uptime_s: float | None
    log: Path


class LocalServers:
    """Real servers for tests, demos and benches; as a context manager, up inside the `with` and down after it.

    A `with` that finds everything up already (`pinstream local up` in the same folder) leaves it up. All methods
    block; not thread-safe, but safe against other processes that use the same folder.

    Args:
        data_dir: everything is kept here: data, logs, `state.json`.
        brokers: 1 or 3; None: as many as the folder has, 1 in a new one.
        redis: whether Redis is wanted as well.
    """

    def __init__(self, data_dir: Path, *, brokers: int | None = None, redis: bool = True) -> None:
        if brokers is not None and brokers not in BROKER_COUNTS:
            raise FatalError(f"{brokers} brokers were asked for, expected 1 or 3")
        self.data_dir = data_dir.absolute()
        self.brokers: tuple[KafkaBroker, ...] = ()
        self.redis: RedisServer | None = None
        self._broker_count = brokers
        self._wants_redis = redis
        self._cluster_id = ""
        self._found_up = False

    def __enter__(self) -> Self:
        self._found_up = not self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._found_up:
            self.down()

    @property
    def bootstrap_servers(self) -> str:
        """All brokers, running or not."""
        return ",".join(broker.endpoint for broker in self.brokers)

    @property
    def redis_url(self) -> str:
        """Raises FatalError: there is no Redis here."""
        if self.redis is None:
            raise FatalError(f"there is no Redis in {self.data_dir}: it was left out at start")
        return self.redis.url

    def up(self) -> bool:
        """Start what does not run yet and wait until all of it serves; keep what is healthy as it is.

        Returns:
            Whether anything had to be started.

        Raises:
            FatalError: a server can't be started or does not answer. Whatever this call had started is ended.
        """
        with locked_folder(self.data_dir):
            self._check_machine()
            self._load()
            missing = [server for server in self._servers() if not server.is_running]
            try:
                if self.redis is not None:
                    self._start([self.redis])
                self._start(self.brokers)
                self.wait_ready(READY_TIMEOUT_S if missing else _STILL_READY_TIMEOUT_S)
            except BaseException:
                end_processes([server.process for server in missing if server.process], _ABANDON_TIMEOUT_S)
                self._save()
                raise
            return bool(missing)

    def down(self, *, delete: bool = False) -> list[str]:
        """End all servers, the brokers and Redis at once; with `delete`, remove their data and logs as well.

        Returns:
            The names of the servers that ran.
        """
        if load_state(self.data_dir) is None:
            return []
        with locked_folder(self.data_dir):
            self._load()
            running = {server.name: server.process for server in self._servers() if server.process}
            end_processes(running.values(), STOP_TIMEOUT_S if len(self.brokers) == 1 else _STOP_SEVERAL_TIMEOUT_S)
            self._save()
            if delete:
                self._delete()
            return list(running)

    def status(self) -> list[ServerStatus]:
        """How every server of the folder is; empty if there never was one. Blocks up to 3 s for each that stalls."""
        if load_state(self.data_dir) is None:
            return []
        self._load()
        return [_status(server, time.time()) for server in self._servers()]

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Block until every server answers, every replica is in sync and the coordinators work.

        Raises:
            FatalError: a server has ended, or not within `timeout_s`.
        """
        wait_until_ready(self._servers(), timeout_s)
        wait_for_cluster(self.bootstrap_servers, len(self.brokers), timeout_s)

    def _servers(self) -> list[Server]:
        return [*self.brokers, *([self.redis] if self.redis else [])]

    def _load(self) -> None:
        """Make the handles that are missing and attach all to what `state.json` says runs."""
        state = load_state(self.data_dir)
        count = len(state.brokers) if state else self._broker_count or 1
        if self._broker_count not in (None, count):
            raise FatalError(
                f"{self.data_dir} has {count} broker{'s' * (count > 1)}, {self._broker_count} were asked "
                "for: use another folder, or remove that one with 'pinstream local down --delete'"
            )
        if not self.brokers or (state and state.cluster_id != self._cluster_id):
            self._cluster_id = state.cluster_id if state else _new_cluster_id()
            heap_mb = 512 if count == 1 else 384
            self.brokers = tuple(
                KafkaBroker(node_id, self._cluster_id, heap_mb, self.data_dir, self._save)
                for node_id in range(1, count + 1)
            )
        if self.redis is None and (self._wants_redis or (state and state.redis)):
            self.redis = RedisServer("redis", self.data_dir, self._save)
        for server, saved in zip(self.brokers, state.brokers if state else (), strict=False):
            server.attach(saved)
        if self.redis and state and state.redis:
            self.redis.attach(state.redis)

    def _save(self) -> None:
        state = ClusterState(
            cluster_id=self._cluster_id,
            brokers=tuple(broker.state() for broker in self.brokers),
            redis=self.redis.state() if self.redis else None,
        )
        save_state(self.data_dir, state)

    def _start(self, group: Sequence[Server]) -> None:
        """Start those of `group` that don't run; while none does, they may move to other ports."""
        missing = [server for server in group if not server.is_running]
        may_move = len(missing) == len(group)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if may_move:
                for server in missing:
                    if attempt > 1 or not all(port and is_port_free(port) for port in server.ports()):
                        server.choose_ports()
            try:
                self._launch(missing)
                wait_until_ready(missing, READY_TIMEOUT_S)
                return
            except PortTakenError:
                if not may_move or attempt == _PORT_ATTEMPTS:
                    raise
                end_processes([server.process for server in missing if server.process], _ABANDON_TIMEOUT_S)

    def _launch(self, servers: Iterable[Server]) -> None:
        quorum = [(broker.node_id, broker.controller_port) for broker in self.brokers]
        for server in servers:
            server.make_folders()
            if isinstance(server, KafkaBroker):
                server.configure(quorum)
        format_brokers(server for server in servers if isinstance(server, KafkaBroker))
        for server in servers:
            server.launch()

    def _check_machine(self) -> None:
        """Raises FatalError, before anything is started: no room, no Java, no jars."""
        free = shutil.disk_usage(self.data_dir).free
        if free < _FREE_BYTES:
            raise FatalError(
                f"the disk of {self.data_dir} has {free >> 20} MiB free, expected at least {_FREE_BYTES >> 20}: "
                "free some, or choose another --data-dir"
            )
        find_java()
        kafka_classpath()

    def _delete(self) -> None:
        """Remove what we made, and the folder itself only if nothing else is in it."""
        for server in self._servers():
            shutil.rmtree(server.folder, ignore_errors=True)
            shutil.rmtree(server.log.parent, ignore_errors=True)
        shutil.rmtree(self.data_dir / SNAPSHOTS_FOLDER, ignore_errors=True)  # of offsets that are gone now
        (self.data_dir / LOCAL_STATE).unlink()
        if not any(self.data_dir.iterdir()):
            self.data_dir.rmdir()


def _status(server: Server, now_s: float) -> ServerStatus:
    running = server.process
    if running is None:
        return ServerStatus(server.name, Health.STOP, server.endpoint, None, None, server.log)
    health = Health.OK if server.answers(fully=False) else Health.STALL
    return ServerStatus(server.name, health, server.endpoint, running.pid, now_s - running.create_time(), server.log)


def _new_cluster_id() -> str:
    """As Kafka makes them: a random UUID in URL-safe base64, never with a leading dash."""
    while (cluster_id := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return cluster_id
