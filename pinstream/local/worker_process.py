"""A worker as a process of its own, for the demo, the fault tests and the benches: started, killed, started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

from pinstream.errors import FatalError

_URL: Final = re.compile(rb"(http://127\.0\.0\.1:\d+)")
_LOG_TAIL_BYTES: Final = 2000


class WorkerProcess:
    """Runs `python COMMAND…` with settings in its environment, its log in a file. Not thread-safe.

    Args:
        command: what follows the interpreter, such as `-m pinstream.cli.main embed`.
        environment: added to this process's own.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log_path: Path) -> None:
        self._command = [sys.executable, *command]
        self._environment = {**os.environ, **environment}
        self._log_path = log_path
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again with the same name and settings. Does not wait."""
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_start = self._log_path.stat().st_size if self._log_path.exists() else 0
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before it was started."""
        return self._process.poll() if self._process is not None else None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def kill(self) -> None:
        """SIGKILL: it has no chance to finish anything."""
        self._end(signal.SIGKILL, timeout_s=10)

    def stop(self, timeout_s: float = 40.0) -> int | None:
        """SIGTERM and wait; SIGKILL if it does not drain in time. Returns the exit code."""
        self._end(signal.SIGTERM, timeout_s)
        return self.exit_code

    def log_text(self) -> str:
        """The log since the last start."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def url(self, timeout_s: float = 60.0) -> str:
        """Where it answers HTTP: waits until its log says so.

        Raises:
            FatalError: it ended instead, or took too long; with the end of its log.
        """
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s and self.exit_code is None:
            found = _URL.search(self.log_text().encode())
            if found:
                return found[1].decode()
            time.sleep(0.05)
        raise FatalError(f"worker {' '.join(self._command[1:])} did not come up: …{self.log_text()[-_LOG_TAIL_BYTES:]}")

    def wait_ready(self, timeout_s: float = 60.0) -> str:
        """Wait until /readyz says ready; return the URL. Raises FatalError as `url` does."""
        deadline_s = time.monotonic() + timeout_s
        url = self.url(timeout_s)
        reason = "no answer"
        while time.monotonic() < deadline_s and self.exit_code is None:
            try:
                answer = httpx.get(f"{url}/readyz", timeout=2)
                if answer.status_code == httpx.codes.OK:
                    return url
                reason = answer.text
            except httpx.HTTPError as error:
                reason = str(error)
            time.sleep(0.05)
        raise FatalError(f"worker {' '.join(self._command[1:])} is not ready: {reason}; {self.log_text()[-500:]}")

    def __enter__(self) -> WorkerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.exit_code is None:
            self.kill()

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
