"""`rollout.flip_ms`: from a change's publication to the last front door that goes by it, p99 over flips and rollbacks.

Published is a change when the compare-and-set of the registry has succeeded; what the whole command takes, from its
begin until all front doors go by it, is in the details.
Real Kafka, Redis and workers of two generations that agree in no code, several front doors (all processes of their
own), and clients that search all the time. A flip is seen when every front door has said in Redis that it goes by it;
that searches which began later really were answered by it is checked of each. So is every answer: embedded by the model
whose index was searched, or its image's own Pin is not at distance 0.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import numpy as np

from bench.claims import record_claim
from bench.servers import bench_servers
from pinstream.codes import Fingerprint
from pinstream.events import Domain, Image, Op, PinEvent
from pinstream.kafka_clients import redis_url
from pinstream.local.worker_process import WorkerProcess
from pinstream.object_store import open_store
from pinstream.settings import Settings
from producers.kafka_pins import PinProducer
from producers.pin_source import data_uri
from rollout.commands import Commands
from rollout.controller import Controller, prepare
from rollout.front_door import registry_store
from rollout.generation import Registry, Replay, State
from rollout.redis_signal import RedisSignal
from rollout.store_registry import RegistryStore
from tests.light_worker import BITS
from tests.workload import jpeg

PINS = 200
BAR_MS = 100.0


@dataclass(frozen=True)
class Flip:
    number: int
    to: str
    began_s: float
    published_s: float
    """When its compare-and-set had succeeded."""
    told_s: float
    """When Redis had been told, and the command was done."""
    seen_s: float
    """When every front door went by it."""


class TimedStore(RegistryStore):
    """Says when it published last."""

    published_s = 0.0

    def update(self, *arguments: Any, **named: Any) -> Registry:
        registry = super().update(*arguments, **named)
        self.published_s = time.monotonic()
        return registry


@dataclass
class Searches:
    """What one client saw at its front door."""

    url: str
    times_s: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of each search."""
    models: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event, rate: float, bodies: list[dict[str, object]]) -> None:
        with httpx.Client(timeout=10) as client:
            number = 0
            while not stop.is_set():
                pin = number % PINS + 1
                number += 1
                began_s = time.monotonic()
                answer = client.post(f"{self.url}/v1/search", json=bodies[pin - 1])
                found = answer.json()
                if answer.status_code != 200 or (found["hits"][0]["pin_id"], found["hits"][0]["distance"]) != (pin, 0):
                    self.faults.append(f"{answer.status_code} {answer.text[:300]}")
                else:
                    self.times_s.append((began_s, time.monotonic()))
                    self.models.append(found["generation"])
                stop.wait(max(0.0, 1 / rate - (time.monotonic() - began_s)))

    def check(self, flips: list[Flip]) -> None:
        """Every search that began after a flip was seen everywhere, and ended before the next, was answered by it."""
        ends = [flip.began_s for flip in flips[1:]] + [float("inf")]
        for flip, until_s in zip(flips, ends, strict=True):
            self.faults += [
                f"registry {flip.number} was seen, and a later search was answered from {model[:12]}"
                for (began_s, ended_s), model in zip(self.times_s, self.models, strict=True)
                if flip.seen_s < began_s and ended_s < until_s and model != flip.to
            ]


def process(settings: Settings, role: str, name: str) -> WorkerProcess:
    command = ["-m", "tests.light_generations", role, name]
    return WorkerProcess(command, settings.environment(), settings.local_dir / f"{role}-{name[:12]}.log")


@contextmanager
def two_generations(settings: Settings) -> Iterator[tuple[str, str]]:
    old, new = (Fingerprint((uuid4().hex + uuid4().hex)[:64]) for _ in range(2))
    prepare(settings, old.hex)
    with PinProducer(settings) as pins:
        for pin in range(1, PINS + 1):
            image = Image(uri=data_uri(jpeg(pin)))
            pins.send(PinEvent(pin_id=pin, op=Op.UPSERT, event_time=1, image=image, domain=Domain.PIN))
    with ExitStack() as stack:
        for model in (old, new):
            for role in ("embed", "index"):
                stack.enter_context(process(settings, role, model.hex))
        operator, controller = commands(settings, registry_store(settings)), Controller(settings)
        operator.adopt(old.hex, BITS, "old")
        operator.start(new.hex, BITS, "new", Replay())
        while controller.run_once().generations[new.hex].state is not State.CAUGHT_UP:
            time.sleep(0.1)
        operator.move(new.hex, State.CAUGHT_UP, State.VALIDATED, "for the benchmark")
        yield old.hex, new.hex


def both_whole(url: str) -> bool:
    """Both generations are loaded there, and all their shards in sight."""
    served = httpx.get(f"{url}/info").json()["generations"].values()
    return len(served) == 2 and not any(one["missing_shards"] for one in served)


def commands(settings: Settings, store: RegistryStore) -> Commands:
    signal = RedisSignal(redis_url(settings), settings.topics.pins, settings.redis.timeout_s)
    return Commands(store, signal, "bench")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--fronts", type=int, default=3)
    parser.add_argument("--queries-per-s", type=float, default=30, help="at each front door")
    parser.add_argument("--gap-s", type=float, default=0.15)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        settings = stack.enter_context(bench_servers())
        old, new = stack.enter_context(two_generations(settings))
        fronts = [stack.enter_context(process(settings, "front", f"front-{n}")) for n in range(arguments.fronts)]
        urls = [front.wait_ready() for front in fronts]
        while not all(both_whole(url) for url in urls):
            time.sleep(0.1)
        searches = [Searches(url) for url in urls]
        stop = threading.Event()
        bodies = [
            {"application": "lens", "image": base64.b64encode(jpeg(pin)).decode(), "k": 10, "allow_partial": False}
            for pin in range(1, PINS + 1)
        ]
        clients = [threading.Thread(target=one.run, args=(stop, arguments.queries_per_s, bodies)) for one in searches]
        for client in clients:
            client.start()
        store = TimedStore(open_store(settings.snapshot_url, {}, setting="index.snapshot_url"))
        operator, flips = commands(settings, store), []
        for number in range(arguments.flips):
            to = (new, old)[number % 2]
            began_s = time.monotonic()
            registry = operator.rollback() if number % 4 == 1 else operator.flip(to)
            told_s = time.monotonic()
            _, late = operator.seen_by_all(registry.number, timeout_s=10)
            if late:
                raise SystemExit(f"{late[0].name} did not see registry {registry.number} within 10 s")
            flips.append(Flip(registry.number, to, began_s, store.published_s, told_s, time.monotonic()))
            time.sleep(arguments.gap_s)
        stop.set()
        for client in clients:
            client.join()
    for one in searches:
        one.check(flips)
    seen_ms = [1000 * (flip.seen_s - flip.published_s) for flip in flips]
    whole_ms = [1000 * (flip.seen_s - flip.began_s) for flip in flips]
    told_ms = [1000 * (flip.told_s - flip.began_s) for flip in flips]
    faults = [fault for one in searches for fault in one.faults]
    answered = sum(len(one.models) for one in searches)
    if faults:
        raise SystemExit(f"{len(faults)} of {answered} searches went wrong, such as: {faults[0]}")
    record_claim(
        "rollout.flip_ms",
        seen_ms,
        value=float(np.quantile(seen_ms, 0.99)),
        bar=BAR_MS,
        better="lower",
        unit="ms p99",
        details={
            "flips": arguments.flips,
            "front_doors": arguments.fronts,
            "searches": answered,
            "searches_that_failed_or_mixed_generations": 0,
            "median_ms": statistics.median(seen_ms),
            "max_ms": max(seen_ms),
            "whole_command_and_seen_median_ms": statistics.median(whole_ms),
            "whole_command_and_seen_p99_ms": float(np.quantile(whole_ms, 0.99)),
            "command_median_ms": statistics.median(told_ms),
            "command_p99_ms": float(np.quantile(told_ms, 0.99)),
        },
    )


if __name__ == "__main__":
    main()
