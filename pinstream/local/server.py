"""One server process on 127.0.0.1: how it is started, waited for, hurt (in fault tests) and ended."""

from __future__ import annotations

import re
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # ships no types

from pinstream.errors import FatalError
from pinstream.local.process import (
    LOOPBACK,
    accepts_connections,
    end_processes,
    find_process,
    is_port_free,
    is_running,
    send,
    start_detached,
)
from pinstream.local.state import ServerState

READY_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 25.0
_POLL_S: Final = 0.03
_TAIL_LINES: Final = 20

_REASONS: Final = (
    ("Address already in use", "its port was taken by another process"),
    ("No space left on device", "the disk is full"),
    ("Failed to acquire lock on file", "another broker is using its data folder"),
    ("insufficient memory for the Java Runtime", "the machine has too little free memory"),
    ("Could not reserve enough space for", "the machine has too little free memory"),
    ("OutOfMemoryError", "its heap was too small"),
    ("UnsupportedClassVersionError", "Java is too old"),
    ("Permission denied", "a file or folder may not be written"),
)
"""What a log says and what it means, the most telling first."""


_EXCEPTION: Final = re.compile(r"^(?:Caused by: )?((?:\w+\.)+\w+(?:Exception|Error): .{1,200})", re.MULTILINE)


class PortTakenError(FatalError):
    """Another process listens on the server's port: choose other ports and try again, where they may change."""


def start_failure(name: str, exit_code: int | None, written: str, log: Path) -> FatalError:
    """What to raise for a server that is not ready: one sentence, with the last lines of its log as a note.

    Args:
        name: the server.
        exit_code: None if it still runs but does not answer.
        written: what it has logged since this start.
        log: where all of that is.
    """
    if exit_code is None:
        how = "runs but does not answer: end it with 'pinstream local down'"
    else:
        how = f"ended with exit code {exit_code}{_reason(written)}"
    kind = PortTakenError if "Address already in use" in written else FatalError
    failure = kind(f"{name} {how}; its log is {log}")
    tail = written.strip().splitlines()[-_TAIL_LINES:]
    if tail:
        failure.add_note("\n".join(tail))
    return failure


def _reason(written: str) -> str:
    known = next((meaning for words, meaning in _REASONS if words in written), None)
    thrown = _EXCEPTION.findall(written)
    return f": {known}" if known else f" ({thrown[-1]})" if thrown else ""


def wait_until_ready(servers: Iterable[Server], timeout_s: float) -> None:
    """Block until every server answers fully.

    Raises:
        FatalError: one has ended, or does not answer within `timeout_s`; PortTakenError if it ended for want of a port.
    """
    deadline_s = time.monotonic() + timeout_s
    waiting = list(servers)
    while waiting:
        waiting = [server for server in waiting if not server.is_ready()]
        for server in waiting:
            if not server.is_running or time.monotonic() > deadline_s:
                raise server.failure()
        if waiting:
            time.sleep(_POLL_S)


class Server(ABC):
    """A handle on one server. Signals and questions return at once, `stop` and `start` block. Not thread-safe.

    Args:
        name: `broker-1`, `redis`.
        data_dir: the cluster's folder; the server owns `<name>` and its logs in it.
        changed: called after the process came or went, so that the owner can write it down.
    """

    def __init__(self, name: str, data_dir: Path, changed: Callable[[], None]) -> None:
        self.name = name
        self.port = 0
        self.log = data_dir / "logs" / f"{name}.log"
        self._output = data_dir / "logs" / f"{name}.out"
        self.folder = data_dir / name
        self._changed = changed
        self._process: psutil.Process | None = None
        self._log_offset = 0

    @abstractmethod
    def ports(self) -> tuple[int, ...]:
        """All ports that the server listens on."""

    @abstractmethod
    def choose_ports(self) -> None:
        """Give the server ports that are free now."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What starts the server."""

    @abstractmethod
    def answers(self, *, fully: bool) -> bool:
        """Whether it serves requests now; `fully`: and has caught up on all that it holds. Blocks up to 3 s."""

    def state(self) -> ServerState:
        running = self.process
        return ServerState(
            name=self.name,
            port=self.port,
            pid=running.pid if running else None,
            started_s=running.create_time() if running else None,
        )

    def attach(self, state: ServerState) -> None:
        """Take over the ports and, if it still runs, the process that `state` names."""
        self.port = state.port
        if state.pid is None or state.started_s is None:
            self._process = None
        elif self._process is None or self._process.pid != state.pid:
            self._process = find_process(state.pid, state.started_s)

    @property
    def endpoint(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and is_running(self._process)

    @property
    def process(self) -> psutil.Process | None:
        """Its process, if that runs."""
        return self._process if self.is_running else None

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        if self._process is not None:
            send(self._process, signal.SIGKILL)
            self._process.wait()
        self._changed()

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing, as a long garbage collection or a dead host would."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT. A broker that was paused for more than 5 s has lost its place: `LocalServers.wait_ready` then."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM and a bounded wait, then SIGKILL. Blocks up to 25 s."""
        if self._process is not None:
            end_processes([self._process], STOP_TIMEOUT_S)
        self._changed()

    def start(self, *, wait: bool = True) -> None:
        """Start it again on the same ports and data; with `wait`, block until it has caught up.

        Raises:
            FatalError: it runs already, does not start, or is not ready within 90 s. PortTakenError: a port is taken.
        """
        self.launch()
        if wait:
            wait_until_ready([self], READY_TIMEOUT_S)

    def launch(self) -> None:
        """Start the process and don't wait for it.

        Raises:
            PortTakenError: one of its ports is taken.
            FatalError: it runs already.
        """
        if running := self.process:
            raise FatalError(f"{self.name} runs already (pid {running.pid}): stop or kill it first")
        for port in self.ports():
            if not is_port_free(port):
                raise PortTakenError(
                    f"port {port} of {self.name} is taken by another process: end that one, or let 'pinstream local "
                    "down' and 'up' choose other ports"
                )
        self._log_offset = self._log_size()
        self._output.write_bytes(b"")
        self._process = start_detached(self.command(), self._output, self.folder)
        self._changed()

    def make_folders(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def is_ready(self) -> bool:
        """Whether it answers fully. Blocks up to 3 s."""
        return self.is_running and accepts_connections(self.port) and self.answers(fully=True)

    def failure(self) -> FatalError:
        """What to raise for a server that ought to answer and does not."""
        exit_code = None if self.is_running or self._process is None else int(self._process.wait() or 0)
        return start_failure(self.name, exit_code, self._written(), self.log)

    def _signal(self, what: signal.Signals) -> None:
        if self._process is not None:
            send(self._process, what)

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _written(self) -> str:
        """What the server has logged since this start, its stdout and stderr first."""
        text = self._output.read_bytes() if self._output.exists() else b""
        if self.log.exists():
            with self.log.open("rb") as file:
                file.seek(self._log_offset if self._log_size() >= self._log_offset else 0)
                text += file.read()
        return text.decode(errors="replace")
