"""Worker processes in a tenth of a second: forked from one that has imported everything and has no thread yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pinstream.local.worker_process import WorkerProcess


class ForkServer:
    """Runs `python -m MODULE`, which must call `serve`. Thread-safe."""

    def __init__(self, module: str) -> None:
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> Any:
        with self._turn:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


class ForkedWorker(WorkerProcess):
    """As any worker process, but forked: it runs `main(arguments)` of the server's module."""

    def __init__(
        self, server: ForkServer, arguments: list[str], environment: Mapping[str, str], log_path: Path
    ) -> None:
        super().__init__(arguments, environment, log_path)
        self._server = server
        self._request = {"arguments": arguments, "environment": dict(environment), "log": str(log_path)}

    def start(self) -> None:
        self._log_start = self._log_path.stat().st_size if self._log_path.exists() else 0
        self._log_path.touch()
        self._process = _Forked(self._server, self._server.ask(**self._request))  # type: ignore[assignment]  # the part of Popen that is used


class _Forked:
    """A process whose parent is the fork server."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self._code: int | None = None
        self.pid = pid

    def poll(self) -> int | None:
        if self._code is None:
            self._code = self._server.ask(wait=self.pid)
        return self._code

    def wait(self, timeout_s: float = 60.0) -> int | None:
        deadline_s = time.monotonic() + timeout_s
        while self.poll() is None:
            if time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired("forked worker", timeout_s)
            time.sleep(0.01)
        return self._code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, 9)


def serve(main: Callable[[list[str]], int]) -> None:
    """Answer requests on standard input until it ends: fork a worker, or say how one ended."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for target, source in ((0, nothing), (1, log), (2, log)):
                os.dup2(source, target)
            os.environ.update(request["environment"])
            os._exit(_run(main, request["arguments"]))
        print(pid, flush=True)


def _run(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """What the interpreter does around a script."""
    try:
        return main(arguments)
    except BaseException:  # noqa: BLE001 (the process ends here)
        sys.excepthook(*sys.exc_info())
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
