"""Runs a backfill's jobs on Ray: Ray Data hands them out to tasks or to actors, and repeats what a lost machine held.

A job is a row that names a part or a partition; what it makes goes to the store, and only counts come back. So a job
may be run twice, and a driver that was killed goes on with what is not in the store yet.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from pinstream.errors import FatalError, PinstreamError, RetryableError

Job = Mapping[str, Any]
"""Of plain numbers, strings and bytes."""
MAX_BLOCKS: Final = 10_000
"""Ray hands out blocks of jobs; each costs it some memory in the driver."""


class Jobs(Protocol):
    """Picklable class of whatever runs jobs, made once a worker process from picklable arguments."""

    def __call__(self, job: Job) -> Job: ...


class Engine(Protocol):
    """Runs jobs somewhere, each at least once, and waits for all of them. Blocks."""

    def run(self, make: Callable[[], Jobs], jobs: Sequence[Job], *, with_model: bool = False) -> list[Job]:
        """What the jobs returned, in any order. Raises PinstreamError: what a job raised, or the cluster is away."""


@dataclass(frozen=True, slots=True)
class RayOptions:
    address: str = ""
    """Of a running cluster: `auto`, `ray://host:port` or host:port. Empty: a Ray of this machine's own, as long as the
    command runs."""
    actors: int = 1
    """At most so many machines or devices embed at once."""
    cpus_per_actor: float = 1.0
    """For fetching and decoding; about one for 4,000 images/s."""
    gpus_per_actor: float = 0.0
    local: Mapping[str, Any] | None = None
    """Arguments of `ray.init` for a Ray of this machine's own, such as `num_cpus`."""


class RayEngine:
    """A context manager: a Ray of this machine's own ends with it. Not thread-safe.

    Raises:
        FatalError: Ray is not installed, or the address is wrong.
        RetryableError: the cluster did not answer.
    """

    def __init__(self, options: RayOptions) -> None:
        self._options = options

    def __enter__(self) -> Self:
        own = not self._options.address
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if own:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # its name for: listen on 127.0.0.1 only
            os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # 15 s are too few on a busy machine
        try:
            import ray  # noqa: PLC0415 (an extra: only a backfill needs it)
            import ray.data  # noqa: PLC0415
        except ImportError as error:
            raise FatalError(f"a backfill needs Ray ({error}): install pinstream[backfill]") from error
        self._ray: Any = ray
        arguments: dict[str, Any] = (
            {"include_dashboard": False, **(self._options.local or {})} if own else {"address": self._options.address}
        )
        try:
            ray.init(logging_level=logging.WARNING, log_to_driver=False, **arguments)
        except (ConnectionError, ValueError) as error:
            raise FatalError(f"there is no Ray at {self._options.address!r}: {error}") from error
        except Exception as error:
            raise RetryableError(f"Ray did not start: {error}") from error
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ray.shutdown()

    def run(self, make: Callable[[], Jobs], jobs: Sequence[Job], *, with_model: bool = False) -> list[Job]:
        """As `Engine.run`: with a model in actors, which load it once; else in tasks."""
        if not jobs:
            return []
        data = self._ray.data.from_items([dict(job) for job in jobs], override_num_blocks=min(len(jobs), MAX_BLOCKS))
        if with_model:
            asked: dict[str, Any] = {
                "fn_constructor_args": (make,),
                "compute": self._ray.data.ActorPoolStrategy(min_size=1, max_size=self._options.actors),
                "num_cpus": self._options.cpus_per_actor,
                "num_gpus": self._options.gpus_per_actor or None,
            }
        else:
            asked = {"fn_args": (make,), "num_cpus": 1}
        try:
            done: list[Job] = data.map(_RunInActor if with_model else _run_in_task, **asked).take_all()
        except Exception as error:
            raise _translate(error) from error
        return done


class _RunInActor:
    """Made with the first job: Ray tells what a job raised, and of a constructor only that the actor died."""

    def __init__(self, make: Callable[[], Jobs]) -> None:
        self._make = make
        self._run: Jobs | None = None

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        self._run = self._run or self._make()
        return dict(self._run(job))


def _run_in_task(job: dict[str, Any], make: Callable[[], Jobs]) -> dict[str, Any]:
    return dict(make()(job))


def _translate(error: BaseException) -> PinstreamError:
    """What Ray raises → what our code raised on the other machine, if it was that."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, PinstreamError):
        return cause
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return RetryableError(f"Ray gave up: {lines[-1].strip()[:500]}; run it again")
