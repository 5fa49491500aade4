"""What happens in the demo, in order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console

from embedder.model.artifact import default_artifact_path, load_artifact
from pinstream.cli.demo.live_table import LiveTable
from pinstream.cli.demo.report import write_report
from pinstream.cli.demo.searches import Score, run_searches
from pinstream.cli.demo.untrained import untrained_p_at_1
from pinstream.cli.demo.verify import verify
from pinstream.cli.produce import paced
from pinstream.errors import FatalError
from pinstream.events import PinEvent
from pinstream.kafka_clients import reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics, pins_topics
from pinstream.local import LocalServers
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Settings, load_settings
from pinstream.worker_metrics import Buckets, read_workers
from producers.generated_pins import GeneratedPin, chosen_pins, generated_event, generated_pin
from producers.kafka_pins import PinProducer
from producers.pin_source import delete_event
from producers.world import World

PRODUCTS: Final = 250
WORKERS: Final = 2
CATCH_UP_S: Final = 150.0


@dataclass(frozen=True, slots=True)
class Plan:
    pins: int
    rate: float
    queries: int
    seed: int

    @property
    def paced_creates(self) -> int:
        """Pins that are created at the steady rate; the others before it, as fast as it goes."""
        return min(self.pins // 5, int(20 * self.rate))

    @property
    def updates(self) -> int:
        return int(6 * self.rate)

    @property
    def deletes(self) -> int:
        return int(4 * self.rate)


@dataclass(slots=True)
class DemoResult:
    freshness: dict[str, Buckets] = field(default_factory=dict)
    """Of the steady phase, by stage."""
    scores: list[Score] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    untrained: dict[str, float] = field(default_factory=dict)
    """Application → P@1 of an untrained network of the model's shape, among the same Pins."""


class Demo:
    """Everything that it starts ends with `stack`."""

    def __init__(self, folder: Path, plan: Plan, console: Console, stack: ExitStack) -> None:
        self._folder = folder
        self._plan = plan
        self._console = console
        self._stack = stack
        self._world = World(plan.seed, PRODUCTS)
        self._artifact = load_artifact(default_artifact_path())

    def run(self) -> DemoResult:
        plan, console = self._plan, self._console
        console.print("starting a real Kafka and a real Redis …")
        servers = self._stack.enter_context(LocalServers(self._folder / "servers"))
        settings = self._settings(servers)
        ensure_topics(
            reachable_admin(settings),
            (*pins_topics(settings.topics), codes_topic(settings.topics, self._artifact.fingerprint)),
            settings.topics,
        )
        workers = self._start_workers(settings)
        first = plan.pins - plan.paced_creates
        updated, deleted = chosen_pins(plan.pins, plan.updates, plan.deletes, plan.seed)
        steady = [generated_pin(i, PRODUCTS) for i in range(first + 1, plan.pins + 1)]
        steady += [generated_pin(i, PRODUCTS).updated() for i in updated]
        console.print(f"{WORKERS} embed and {WORKERS} index workers are coming up; meanwhile rendering images …")
        with ProcessPoolExecutor(max(1, (os.cpu_count() or 2) - 1)) as pool:
            steady_events = list(self._render(pool, steady))
            urls = [worker.wait_ready(120) for worker in workers]
            result = DemoResult()
            with LiveTable(console, urls) as table, PinProducer(settings) as producer:
                table.phase(f"creating {first} Pins as fast as they render")
                for event in self._render(pool, [generated_pin(i, PRODUCTS) for i in range(1, first + 1)]):
                    producer.send(event)
                producer.flush()
                self._wait_caught_up(urls)
                table.phase(f"creates, updates and deletes at {plan.rate:g} a second")
                before = self._freshness(urls)
                for event in paced([*steady_events, *map(delete_event, deleted)], plan.rate):
                    producer.send(event)
                producer.flush()
                self._wait_caught_up(urls)
                after = self._freshness(urls)
                table.phase("verifying every Pin")
                result.freshness = {stage: after[stage].since(before.get(stage, Buckets())) for stage in after}
                verdict = verify(settings, self._artifact.fingerprint, self._artifact.bits, urls[WORKERS:])
                result.faults = verdict.faults
                table.phase("searching")
                now_shown = self._shown(updated, deleted)
                result.scores = run_searches(urls[-1], self._world, now_shown, plan.queries)
                table.phase("the same searches by an untrained network")
                result.untrained = untrained_p_at_1(
                    self._artifact, self._world, now_shown, self._folder / "images", plan.queries
                )
        figures = self._figures(result, verdict.living, verdict.deleted)
        for name, value in figures:
            console.print(f"  {name:<46}{value}")
        write_report(self._folder / "index.html", self._world, figures, result.freshness, result.scores, result.faults)
        return result

    def _settings(self, servers: LocalServers) -> Settings:
        return load_settings(
            kafka={"bootstrap_servers": servers.bootstrap_servers},
            redis={"url": servers.redis_url},
            topics={"partitions": 4},
            fetch={"allowed_folders": (str(self._folder / "images"),)},
            index={"snapshot_url": (self._folder / "snapshots").as_uri(), "snapshot_interval_s": 10},
        )

    def _start_workers(self, settings: Settings) -> list[WorkerProcess]:
        """Embed workers first, then index workers, each a process with a name and a log of its own."""
        workers = []
        for role in ("embed", "index"):
            for number in range(WORKERS):
                name = f"{role}-{number}"
                environment = settings.environment()
                environment[f"PINSTREAM_{role.upper()}__INSTANCE_ID"] = name
                environment["OMP_NUM_THREADS"] = "1"
                command = ["-m", "pinstream.cli.main", role, "--threads", "1"]
                worker = WorkerProcess(command, environment, self._folder / "logs" / f"{name}.log")
                workers.append(self._stack.enter_context(worker))
        return workers

    def _render(self, pool: ProcessPoolExecutor, pins: list[GeneratedPin]) -> Iterable[PinEvent]:
        """Events with their images under `images/`, in order, rendered by the pool's processes."""
        make = partial(generated_event, self._world, images_dir=self._folder / "images")
        return pool.map(make, pins, chunksize=16)

    def _wait_caught_up(self, urls: list[str]) -> None:
        """Until both groups are at the end of their topics: the index twice in a row, after the embed group."""
        deadline_s = time.monotonic() + CATCH_UP_S
        calm = 0
        with httpx.Client(timeout=5) as client:
            while calm < 3:
                if time.monotonic() > deadline_s:
                    raise FatalError(
                        f"the workers did not catch up in {CATCH_UP_S:g} s: see the logs in {self._folder}"
                    )
                time.sleep(0.5)
                reading = read_workers(urls, client)
                behind = reading.lag_records["embed"] + reading.lag_records["index"]
                calm = calm + 1 if behind == 0 and reading.totals["pinstream_in_flight_records"] == 0 else 0

    def _freshness(self, urls: list[str]) -> dict[str, Buckets]:
        with httpx.Client(timeout=5) as client:
            return read_workers(urls, client).freshness

    def _shown(self, updated: list[int], deleted: list[int]) -> dict[int, GeneratedPin]:
        """What each living Pin shows now."""
        shown = {i: generated_pin(i, PRODUCTS) for i in range(1, self._plan.pins + 1)}
        shown |= {i: shown[i].updated() for i in updated}
        return {i: pin for i, pin in shown.items() if i not in set(deleted)}

    def _figures(self, result: DemoResult, living: int, deleted: int) -> list[tuple[str, str]]:
        searchable = result.freshness.get("searchable", Buckets())
        figures = [
            ("Pins living / deleted", f"{living:,} / {deleted:,}"),
            ("lost, doubled or stale", str(len(result.faults))),
            ("events in the steady phase", f"{searchable.total:,.0f} at {self._plan.rate:g}/s"),
        ]
        for q, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
            value = searchable.quantile(q)
            shown = "–" if value is None else f"{1000 * value:.0f} ms"
            figures.append((f"event time → searchable, {name}", shown))
        for s in result.scores:
            untrained = result.untrained[s.application.name]
            figures.append(
                (f"{s.application.name} P@1 ({s.application.what})", f"{s.p_at_1:.3f}, untrained {untrained:.3f}")
            )
        figures.append(("model", f"{self._artifact.manifest.name}, {self._artifact.fingerprint.short}"))
        return figures
