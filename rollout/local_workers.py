"""Workers of a generation on this machine: `pinstream rollout start --spawn` starts them, `retire` ends them.

In production they are two deployments instead. What runs is written beside its logs, so that a repeated start starts
only what is missing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # ships no types

from pinstream.local.process import end_processes, find_process
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Settings

STOP_TIMEOUT_S: Final = 40.0
_ROLES: Final = ("embed", "index")


class LocalWorkers:
    """The embed and index workers of one generation. Not thread-safe."""

    def __init__(self, settings: Settings, model: str, artifact: str) -> None:
        self._settings = settings
        self._short = model[:12]
        self._artifact = artifact
        self._folder = settings.local_dir.resolve() / "rollout" / self._short

    def start(self, count: int) -> list[str]:
        """Start what is missing of `count` workers of each role; returns the names of those started. Does not wait."""
        started = []
        for role in _ROLES:
            for number in range(count):
                name = f"{role}-{number}"
                if self._find(name) is None:
                    command = ["-m", "pinstream.cli.main", role]
                    log = self._folder / f"{name}.log"
                    worker = WorkerProcess(command, self._environment(role, number), log)
                    worker.start()
                    assert worker.pid is not None
                    process = psutil.Process(worker.pid)
                    self._file(name).write_text(json.dumps([worker.pid, process.create_time()]), encoding="utf-8")
                    started.append(name)
        return started

    def stop(self) -> list[str]:
        """Drain and end those that run; returns their names. Blocks."""
        running = {
            path.stem: process for path in self._folder.glob("*.pid") if (process := self._find(path.stem)) is not None
        }
        end_processes(running.values(), STOP_TIMEOUT_S)
        return sorted(running)

    @property
    def folder(self) -> Path:
        return self._folder

    def _environment(self, role: str, number: int) -> dict[str, str]:
        return {
            **self._settings.environment(),
            "PINSTREAM_MODEL_PATH": str(Path(self._artifact).resolve()),
            f"PINSTREAM_{role.upper()}__INSTANCE_ID": f"{self._short}-{role}-{number}",
            "PINSTREAM_HTTP__PORT": "0",
            "PINSTREAM_HTTP__LEAF_PORT": "0",
        }

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.pid"

    def _find(self, name: str) -> psutil.Process | None:
        try:
            pid, started_s = json.loads(self._file(name).read_text(encoding="utf-8"))
            return find_process(int(pid), float(started_s))
        except (OSError, ValueError, TypeError):
            return None


def by_hand(artifact: str) -> list[str]:
    """The two commands that run a generation's workers; on Kubernetes two deployments run them."""
    return [f"PINSTREAM_MODEL_PATH={artifact} {Path(sys.argv[0]).name} {role}" for role in _ROLES]
