"""A process of ours is never confused with another, and always ends."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from pinstream.errors import FatalError
from pinstream.local.process import (
    end_processes,
    find_process,
    free_port,
    is_port_free,
    is_running,
    start_detached,
)
from pinstream.local.server import PortTakenError, start_failure
from pinstream.local.state import ClusterState, ServerState, load_state, save_state

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('set', flush=True); time.sleep(60)"
)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[psutil.Process]:
    process = start_detached(["sleep", "60"], tmp_path / "out", tmp_path)
    yield process
    end_processes([process], 1)


def test_a_process_is_found_by_pid_and_start_time(sleeper: psutil.Process) -> None:
    found = find_process(sleeper.pid, sleeper.create_time())
    assert found is not None
    assert found.pid == sleeper.pid


def test_a_recycled_pid_is_not_ours(sleeper: psutil.Process) -> None:
    assert find_process(sleeper.pid, sleeper.create_time() - 60) is None


def test_a_zombie_has_ended(sleeper: psutil.Process) -> None:
    started_s = sleeper.create_time()
    sleeper.send_signal(signal.SIGKILL)
    while sleeper.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.005)
    assert not is_running(sleeper)
    assert find_process(sleeper.pid, started_s) is None


def test_it_has_a_session_of_its_own(sleeper: psutil.Process) -> None:
    session = subprocess.run(["ps", "-o", "sid=", "-p", str(sleeper.pid)], capture_output=True, text=True, check=True)
    assert int(session.stdout) == sleeper.pid


def test_a_paused_process_obeys_sigterm(sleeper: psutil.Process) -> None:
    sleeper.send_signal(signal.SIGSTOP)
    while sleeper.status() != psutil.STATUS_STOPPED:
        time.sleep(0.005)
    end_processes([sleeper], timeout_s=30)
    assert sleeper.returncode == -signal.SIGTERM


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start_detached([sys.executable, "-c", STUBBORN], output, tmp_path)
    while output.read_bytes() != b"set\n":
        time.sleep(0.005)
    end_processes([process], timeout_s=0.2)
    assert process.returncode == -signal.SIGKILL


def test_a_free_port_can_be_listened_on_and_is_not_for_outgoing_connections() -> None:
    ceiling = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    ports = {free_port() for _ in range(50)}
    assert all(is_port_free(port) for port in ports)
    assert max(ports) < max(ceiling, 25_000)


@pytest.mark.parametrize(
    ("exit_code", "written", "sentence", "kind"),
    [
        (
            1,
            "java.net.BindException: Address already in use",
            "1: its port was taken by another process",
            PortTakenError,
        ),
        (1, "x\njava.io.IOException: No space left on device\ny", "exit code 1: the disk is full", FatalError),
        (1, "Failed to acquire lock on file .lock in /d", "another broker is using its data folder", FatalError),
        (
            1,
            "ERROR x\njava.lang.RuntimeException: no node ID\n\tat a.B(B.java:1)",
            "1 (java.lang.RuntimeException: no node ID)",
            FatalError,
        ),
        (7, "something new", "ended with exit code 7; its log is b.log", FatalError),
        (None, "", "runs but does not answer: end it with 'pinstream local down'; its log is b.log", FatalError),
    ],
)
def test_a_failure_is_one_sentence_with_the_log_as_its_note(
    exit_code: int | None, written: str, sentence: str, kind: type[FatalError]
) -> None:
    failure = start_failure("broker-1", exit_code, written, Path("b.log"))
    assert type(failure) is kind
    assert sentence in str(failure)
    assert "\n" not in str(failure)
    assert getattr(failure, "__notes__", []) == ([written] if written else [])


def test_state_comes_back_and_names_only_what_was_started(tmp_path: Path) -> None:
    up = ServerState(name="broker-1", port=1, controller_port=2, pid=3, started_s=4.5)
    stopped = ServerState(name="broker-2", port=5, controller_port=6)
    state = ClusterState(cluster_id="c", brokers=(up, stopped), redis=ServerState(name="redis", port=7))
    assert load_state(tmp_path) is None
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state
    assert state.bootstrap_servers == "127.0.0.1:1"
    assert state.redis_url == ""


def test_a_damaged_state_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"cluster_id": ')
    with pytest.raises(FatalError, match=r"state.json can't be read \(ValidationError\)"):
        load_state(tmp_path)
