"""Starts a contender's process and asks it. One thread."""

from __future__ import annotations

import os
import pickle
import select
import subprocess
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types


class PeerError(Exception):
    """What a contender raised, or that it ended or took too long."""


class PeerProcess:
    """A contender in a process of its own; `close` or `kill` it.

    Args:
        python: the interpreter of the environment that has its library.
        threads: OpenMP threads that it may use.
        limit_s: of one call; a contender that takes longer is killed.
    """

    def __init__(self, name: str, python: Path, folder: Path, bits: int, threads: int, limit_s: float) -> None:
        self.name = name
        self._limit_s = limit_s
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [str(python), "-m", "bench.peers.child", name, str(folder), str(bits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def ask(self, method: str, *arguments: Any) -> Any:
        """The result of a call. Blocks. Raises PeerError."""
        return self.timed(method, *arguments)[1]

    def timed(self, method: str, *arguments: Any) -> tuple[float, Any]:
        """Seconds that a call took there, and its result. Blocks. Raises PeerError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump((method, arguments), self._process.stdin)
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], self._limit_s)[0]:
                self.kill()
                raise PeerError(f"{self.name} took longer than {self._limit_s:g} s in {method}")
            seconds, result = pickle.load(self._process.stdout)  # noqa: S301 (from our child)
        except (EOFError, BrokenPipeError) as error:
            raise PeerError(f"{self.name} ended with {self._process.wait()} in {method}") from error
        if isinstance(result, Exception):
            raise PeerError(f"{self.name}: {method}: {result}")
        return seconds, result

    def resident_mib(self) -> float:
        """Memory of the process and of those that it started."""
        process = psutil.Process(self._process.pid)
        return float(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20)

    def kill(self) -> None:
        """SIGKILL, with the processes that it started."""
        if self._process.poll() is not None:
            return
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for one in family:
            one.kill()
        self._process.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
