"""The light index worker with faults at named points of its upkeep, put in from outside: its code does not know them.

A fork server for `main([MODEL, SWITCH, POINT])`. While the file SWITCH exists, the worker kills itself with SIGKILL at
POINT; at the point `full disk`, every put says that there is no space left.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore

import index_sync.upkeep
from index_sync.merge import MergePlan
from index_sync.shard import Shard
from index_sync.store_snapshot import SnapshotStore
from tests import light_worker
from tests.fork_server import serve

WHILE_RUNNING = (
    *(f"{when} put {kind}" for kind in ("segment", "state", "json") for when in ("before", "in", "after")),
    *(f"{when} delete {kind}" for kind in ("json", "state", "segment") for when in ("before", "after")),
    *(f"{when} {what}" for what in ("merge", "install") for when in ("before", "after")),
)
"""Publication of a snapshot, retention, and merges, step by step; json is the manifest."""
AT_START = (*(f"{when} read {kind}" for kind in ("json", "segment", "state") for when in ("before", "after")),)
"""Restoring a snapshot."""
SETTING_ASIDE = ("before set aside", "after set aside")
"""Restoring beside a damaged one."""
FULL_DISK = "full disk"
PATIENCE_S = 8.0


class Faults:
    def __init__(self, switch: Path, point: str) -> None:
        self._switch = switch
        self._point = point

    def pass_by(self, point: str) -> None:
        if point == self._point and self._switch.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function between two points."""

        def watched(*arguments: Any, **options: Any) -> Any:
            self.pass_by(f"before {what}")
            result = function(*arguments, **options)
            self.pass_by(f"after {what}")
            return result

        return watched

    def around_path(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same for a function of (store, path, …): the points name the kind of file."""

        def watched(store: Any, path: str, *arguments: Any, **options: Any) -> Any:
            named = self.around(f"{what} {_kind(path)}", function)
            return named(store, path, *arguments, **options)

        return watched

    def putting(self, put: Callable[..., Any]) -> Callable[..., Any]:
        """`obstore.put`, whose bytes can stop half-way."""

        def watched(store: Any, path: str, file: Any, **options: Any) -> Any:
            if self._point == FULL_DISK and self._switch.exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            point = f"in put {_kind(path)}"
            if self._point == point and self._switch.exists():
                file = self._torn(file if not isinstance(file, bytes) else iter([memoryview(file)]), point)
                options["use_multipart"] = True
            return put(store, path, file, **options)

        return self.around_path("put", watched)

    def _torn(self, pieces: Iterator[memoryview], point: str) -> Iterator[memoryview]:
        """The first half of what there is, so much more that obstore must write it out, and the end."""
        first = next(pieces)
        yield first[: len(first) // 2]
        yield memoryview(bytes(16 * 1024 * 1024))
        self.pass_by(point)


def install(faults: Faults) -> None:
    obstore.put = faults.putting(obstore.put)
    obstore.delete = faults.around_path("delete", obstore.delete)
    obstore.get_range = faults.around_path("read", obstore.get_range)
    obstore.rename = faults.around("set aside", obstore.rename)
    MergePlan.run = faults.around("merge", MergePlan.run)  # type: ignore[method-assign]  # the fault
    Shard.install = faults.around("install", Shard.install)  # type: ignore[method-assign]  # the fault
    assert SnapshotStore.__init__.__kwdefaults__ is not None
    SnapshotStore.__init__.__kwdefaults__["grace_s"] = 0  # so that retention removes files at all
    index_sync.upkeep.RESTORE_PATIENCE_S = PATIENCE_S  # type: ignore[misc]  # quicker


def _kind(path: str) -> str:
    return path.rpartition(".")[2]


def main(arguments: list[str]) -> int:
    model, switch, point = arguments
    install(Faults(Path(switch), point))
    sys.argv = ["light_worker", "index", model]
    return light_worker.main()


if __name__ == "__main__":
    serve(main)
