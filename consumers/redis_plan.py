"""Follows the replay's pace in Redis. Away, empty or unreadable: the pace that was known last goes on."""

from __future__ import annotations

import logging
import threading
from typing import Final

from consumers.replay_plan import ReplayPlan, parse_plan, replay_key
from pinstream.codes import Fingerprint
from pinstream.redis_client import REDIS_AWAY, connect_if_set, redis_errors, required

log = logging.getLogger(__name__)

INTERVAL_S: Final = 0.5
"""A pause is obeyed this much later at most, and half a second of polled records goes on to be embedded."""


class PlanFollower:
    """Reads the plan of one generation in a thread of its own. Thread-safe.

    Args:
        url: of Redis; empty: there is none, and the plan stays as given.
        plan: as of the start, from the registry.
    """

    def __init__(self, url: str, model: Fingerprint, plan: ReplayPlan, timeout_s: float) -> None:
        self._key = replay_key(model)
        self._plan = plan
        self._up = True
        self._redis = connect_if_set(url, timeout_s, "plan")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay-plan", daemon=True)

    @property
    def plan(self) -> ReplayPlan:
        """As last known. Does not block."""
        return self._plan

    def start(self) -> None:
        if self._redis is not None:
            self._thread.start()

    def stop(self) -> None:
        """Blocks for the request under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._read()
            self._stop.wait(INTERVAL_S)

    def _read(self) -> None:
        assert self._redis is not None
        try:
            value = self._redis.get(self._key)
        except REDIS_AWAY as error:
            if self._up:
                log.warning("Redis is away (%s): the replay goes on at the pace known last", error)
            self._up = False
            return
        self._up = True
        found = parse_plan(value)  # type: ignore[arg-type]  # the sync client's answer
        if found is None:
            return
        pace = {"paused": found.paused, "max_records_per_s": found.max_records_per_s}
        changed = self._plan.model_copy(update=pace)
        if changed != self._plan:
            log.info("the pace is now: %s", _say(changed))
            self._plan = changed


def mirrored_plan(url: str, model: Fingerprint, timeout_s: float) -> ReplayPlan | None:
    """The whole plan as Redis has it, for a start while the registry can't be read. None: none is there. Blocks.

    Raises:
        RetryableError: Redis does not answer, or none is set.
    """
    client = required(connect_if_set(url, timeout_s, "plan"))
    with redis_errors():
        return parse_plan(client.get(replay_key(model)))  # type: ignore[arg-type]  # the same


def _say(plan: ReplayPlan) -> str:
    if plan.paused:
        return "paused"
    return "unlimited" if plan.max_records_per_s is None else f"{plan.max_records_per_s:g} records/s in all"
