"""Processes of our own: started detached, recognised by pid and start time, ended within a bound; and free ports."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # ships no types

LOOPBACK: Final = "127.0.0.1"
_START_TOLERANCE_S: Final = 2.0
"""The kernel's boot time, which start times are counted from, wanders by a second when the clock is slewed."""
_LOWEST_PORT: Final = 15_000
_EPHEMERAL_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


def start_detached(command: Sequence[str], output: Path, folder: Path) -> psutil.Process:
    """Start `command` in `folder`, in a session of its own: neither a Ctrl-C nor a closed terminal reaches it.

    Its stdout and stderr are appended to `output`. Does not wait for it.
    """
    with output.open("ab") as file:
        return psutil.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def find_process(pid: int, started_s: float) -> psutil.Process | None:
    """The process that had this pid and start time (epoch seconds), if it still runs. A recycled pid is not it."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - started_s) <= _START_TOLERANCE_S
    except psutil.Error:
        return None
    return process if is_same and is_running(process) else None


def is_running(process: psutil.Process) -> bool:
    """A zombie has ended; a stopped process (SIGSTOP) runs."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end_processes(processes: Iterable[psutil.Process], timeout_s: float) -> None:
    """SIGTERM to all, and SIGKILL to those that are left after `timeout_s`. Blocks until all have ended.

    A paused process is resumed, for it could not obey otherwise.
    """
    left = [process for process in processes if is_running(process)]
    for process in left:
        send(process, signal.SIGTERM)
        send(process, signal.SIGCONT)
    _, left = psutil.wait_procs(left, timeout=timeout_s)
    for process in left:
        send(process, signal.SIGKILL)
    psutil.wait_procs(left)


def send(process: psutil.Process, what: signal.Signals) -> None:
    """Send a signal; a process that has ended meanwhile is none the worse."""
    try:
        process.send_signal(what)
    except psutil.NoSuchProcess:
        return


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this port now; connections that linger in TIME_WAIT don't count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def accepts_connections(port: int) -> bool:
    """Whether something listens on this port of 127.0.0.1."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that is free now, below the range from which the kernel serves outgoing connections.

    In that range a client that keeps trying to reach a server that is down can be given the server's own port, and
    the server then can't come back. Another process may still be quicker: retry when a server can't bind.
    """
    try:
        ceiling = int(_EPHEMERAL_PORTS.read_text(encoding="ascii").split()[0])
    except OSError:
        ceiling = 32_768
    for _ in range(100):
        port = _LOWEST_PORT + secrets.randbelow(max(ceiling, _LOWEST_PORT + 10_000) - _LOWEST_PORT)
        if is_port_free(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} in 100 tries from {_LOWEST_PORT}")
