"""`rollout.swap_under_load`: p99 of live freshness during a replay ÷ before it, in a whole swap under load.

Real Kafka and Redis; embed workers, index workers, a front door and a controller as processes; Pins created, updated
and deleted, and searches of the three applications, all the time: start → replay → caught up → judged → flip → rollback
→ flip. The models are hashes of the pixels (an image costs decoding and a SHA-256), so that two cores carry it, and so
that this process knows every code. Judged is by the gates that need no artifact: coverage and the codes of the shards.

The claim does not hold if one search failed or mixed two models, or one Pin is missing, stale or extra in either
generation in the end, by a fold of the Pins topic made here.

    python -m bench.rollout_swap --pins 100000 --rate 200 --queries 50
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx

from bench.claims import record_claim
from bench.servers import bench_servers
from bench.swap_world import LivePins, Searches, World
from consumers.topic_fold import fold_topic
from pinstream.codes import Fingerprint
from pinstream.events import Op, parse_event
from pinstream.kafka_clients import redis_url
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Settings
from pinstream.worker_metrics import Buckets
from producers.kafka_pins import PinProducer
from rollout.commands import Commands
from rollout.controller import prepare
from rollout.front_door import registry_store
from rollout.gates import coverage_gate
from rollout.generation import Replay, State
from rollout.http_nodes import GenerationNodes, ask_nodes
from rollout.kafka_pins import embedded_up_to, log_ends
from rollout.kafka_replay import planned
from rollout.redis_replay import ReplayMirror
from rollout.redis_signal import RedisSignal
from rollout.shard_rows import read_shadow
from tests.light_worker import BITS

BAR = 2.0
CLIENTS = 4
CALM_S = 5.0
"""Before the first measurement, and between flips."""
OBJECTIVE = 1.75
"""Freshness at which the replay yields, of what it was before: a little above what live traffic alone reaches."""


@dataclass(frozen=True)
class Swap:
    """The parts that run, and who looks at them."""

    settings: Settings
    world: World
    old: Fingerprint
    new: Fingerprint
    operator: Commands
    stack: ExitStack

    def process(self, command: list[str], settings: Settings | None = None) -> WorkerProcess:
        log = self.settings.local_dir / f"{'-'.join(command[2:])[:40]}.log"
        return self.stack.enter_context(WorkerProcess(command, (settings or self.settings).environment(), log))

    def generation(self, model: Fingerprint) -> GenerationNodes:
        """Its embed and index worker, started; and its index worker, to be asked."""
        self.process(["-m", "tests.light_generations", "embed", model.hex])
        index = self.process(["-m", "tests.light_generations", "index", model.hex])
        nodes = GenerationNodes(ask_nodes([index.wait_ready()]), model.hex, BITS)
        self.stack.callback(nodes.close)
        return nodes

    def wait_done(self, model: Fingerprint, nodes: GenerationNodes) -> None:
        """Until everything that is on the Pins topic now is in the generation's shards."""
        ends = log_ends(self.settings, self.settings.topics.pins)
        while any(done < ends[partition] for partition, done in embedded_up_to(self.settings, model).items()):
            time.sleep(0.2)
        while not nodes.has_applied(log_ends(self.settings, model.codes_topic)):
            time.sleep(0.2)

    def flip(self, to: Fingerprint, *, back: bool = False) -> float:
        """Seconds until the front door goes by it."""
        began_s = time.monotonic()
        registry = self.operator.rollback() if back else self.operator.flip(to.hex)
        _, late = self.operator.seen_by_all(registry.number, timeout_s=10)
        if late or set(registry.live.values()) != {to.hex}:
            raise SystemExit(f"registry {registry.number} was not seen within 10 s, or is not {to.short}")
        return time.monotonic() - began_s

    def faults(self, model: Fingerprint, nodes: GenerationNodes) -> dict[str, int]:
        """All of its rows, byte by byte, against what the Pins topic says."""
        settings, found = self.settings, {"missing": 0, "stale": 0, "extra": 0}
        expected: dict[int, tuple[int, bytes]] = {}
        for message in fold_topic(settings, settings.topics.pins, settings.topics.partitions).values():
            event = parse_event(message.key(), message.value() or b"")
            if event.op is Op.UPSERT:
                assert event.image is not None
                image = self.world.number[event.image.uri]
                expected[event.pin_id] = (message.offset() or 0, self.world.codes[model.hex][image])
        for partition in range(settings.topics.partitions):
            for rows in nodes.rows(partition):
                for pin_id, offset, code in zip(
                    rows.pin_id.tolist(), rows.source_offset.tolist(), rows.code_NW, strict=True
                ):
                    wanted = expected.pop(pin_id, None)
                    found["extra"] += wanted is None
                    found["stale"] += wanted is not None and wanted != (offset, code.tobytes())
        return found | {"missing": len(expected)}


@contextmanager
def under_load(swap: Swap, url: str, given: argparse.Namespace) -> Iterator[tuple[LivePins, list[Searches]]]:
    """Live Pins and searches until the block ends."""
    stop = threading.Event()
    live = LivePins(swap.settings, swap.world, given.pins, given.rate)
    searches = [Searches(url, swap.world, given.queries / CLIENTS, seed) for seed in range(CLIENTS)]
    runs = [live.run, *(one.run for one in searches)]
    threads = [threading.Thread(target=run, args=(stop,)) for run in runs]
    for thread in threads:
        thread.start()
    try:
        yield live, searches
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def judge(swap: Swap, nodes: GenerationNodes) -> None:
    """Coverage, and the codes of some thousand rows embedded again; validated, or the bench ends here."""
    shadow = read_shadow(swap.settings, swap.new, nodes)
    result = coverage_gate(shadow.coverage, swap.settings.rollout.gates)
    known = set(swap.world.codes[swap.new.hex])
    foreign = sum(code.tobytes() not in known for code in shadow.sample.code_NW)
    if result.blocks or foreign:
        raise SystemExit(f"{result.sentence()}; {foreign} codes of no image: {result.worst}")
    swap.operator.move(swap.new.hex, State.CAUGHT_UP, State.VALIDATED, result.figure)


def p99_s(before: Buckets, after: Buckets) -> float:
    found = after.since(before).quantile(0.99)
    if found is None:
        raise SystemExit("no live Pin became searchable")
    return found


def fill(swap: Swap, pins: int) -> None:
    """The history: every Pin once."""
    with PinProducer(swap.settings) as producer:
        for pin_id in range(1, pins + 1):
            producer.send(swap.world.event(pin_id, pin_id % len(swap.world.jpegs)))


def with_objective(settings: Settings, objective_s: float) -> Settings:
    return settings.model_copy(
        update={"rollout": settings.rollout.model_copy(update={"freshness_objective_s": objective_s})}
    )


def front_of(swap: Swap, name: str) -> str:
    """A front door that answers."""
    return swap.process(["-m", "tests.light_generations", "front", name]).wait_ready()


def both_loaded(url: str) -> bool:
    served = httpx.get(f"{url}/info").json()["generations"].values()
    return len(served) == 2 and not any(one["missing_shards"] for one in served)


def say(began_s: float, what: str) -> None:
    print(f"{time.monotonic() - began_s:6.1f} s  {what}", flush=True)


def swap_models(swap: Swap, given: argparse.Namespace) -> None:
    began_s = time.monotonic()
    prepare(swap.settings, swap.old.hex)
    fill(swap, given.pins)
    old_nodes = swap.generation(swap.old)
    swap.wait_done(swap.old, old_nodes)
    swap.operator.adopt(swap.old.hex, BITS, "old")
    url = front_of(swap, "front")
    say(began_s, f"{given.pins} Pins are live")
    flips_s: list[float] = []
    with under_load(swap, url, given) as (live, searches):
        time.sleep(CALM_S)
        marks = [old_nodes.freshness()]
        time.sleep(given.before_s)
        marks.append(old_nodes.freshness())
        before_s = p99_s(*marks)
        say(began_s, f"live freshness p99 {1000 * before_s:.0f} ms")
        objective_s = max(0.05, OBJECTIVE * before_s)
        swap.process(["-m", "pinstream.cli.main", "rollout", "run"], with_objective(swap.settings, objective_s))
        replay = planned(swap.settings, Replay(max_records_per_s=given.replay_rate))
        swap.operator.start(swap.new.hex, BITS, "new", replay)
        marks.append(old_nodes.freshness())
        replay_s = time.monotonic()
        new_nodes = swap.generation(swap.new)
        least_per_s = follow(swap)
        replay_s = time.monotonic() - replay_s
        marks.append(old_nodes.freshness())
        during_s = p99_s(*marks[2:4])
        say(began_s, f"caught up after {replay_s:.1f} s, live freshness p99 {1000 * during_s:.0f} ms")
        judge(swap, new_nodes)
        while not both_loaded(url):
            time.sleep(0.1)
        for to, back in ((swap.new, False), (swap.old, True), (swap.new, False)):
            flips_s.append(swap.flip(to, back=back))
            time.sleep(CALM_S)
        say(began_s, "judged, flipped, rolled back and flipped")
    faults = {}
    for model, nodes in ((swap.old, old_nodes), (swap.new, new_nodes)):
        swap.wait_done(model, nodes)
        faults["old" if model == swap.old else "new"] = swap.faults(model, nodes)
    failed = [fault for one in searches for fault in one.failed]
    mixed = [fault for one in searches for fault in one.mixed()]
    say(began_s, f"Pins {faults}; {len(failed)} failed {failed[:1]}, {len(mixed)} mixed {mixed[:1]}")
    answers = [answer for one in searches for answer in one.answers]
    record_claim(
        "rollout.swap_under_load",
        [during_s / before_s],
        bar=BAR,
        better="lower",
        unit="p99 ratio",
        faults=len(failed) + len(mixed) + sum(sum(counts.values()) for counts in faults.values()),
        details={
            "failed_searches": len(failed),
            "searches_of_a_mixture_of_models": len(mixed),
            "pins_of_old_generation": faults["old"],
            "pins_of_new_generation": faults["new"],
            "live_freshness_p99_ms_before": 1000 * before_s,
            "live_freshness_p99_ms_during": 1000 * during_s,
            "replay_s": round(replay_s, 1),
            "replay_max_records_per_s": given.replay_rate,
            "replay_least_limit_per_s": least_per_s,
            "flip_rollback_flip_ms": [round(1000 * seconds, 1) for seconds in flips_s],
            "searches": len(answers),
            "searches_answered_by_new": sum(answer.generation == swap.new.hex for answer in answers),
            "searches_per_s": round(len(answers) / live.seconds, 1),
            "live_events": live.sent,
            "live_events_per_s": round(live.sent / live.seconds, 1),
            "pins": given.pins,
            "encoder": "a hash of the decoded pixels, 256 bits",
            "seconds": round(time.monotonic() - began_s, 1),
        },
    )


def follow(swap: Swap) -> float | None:
    """Wait until the controller says caught up; the least that the replay was held to."""
    store, mirror = registry_store(swap.settings), ReplayMirror(redis_url(swap.settings), 1.0)
    least: float | None = None
    while store.read().generations[swap.new.hex].state is not State.CAUGHT_UP:
        report = mirror.reported(swap.new.hex)
        if report is not None and report.limit_per_s is not None:
            least = report.limit_per_s if least is None else min(least, report.limit_per_s)
        time.sleep(0.5)
    mirror.close()
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pins", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=200.0, help="live events/s")
    parser.add_argument("--queries", type=float, default=50.0, help="searches/s")
    parser.add_argument("--replay-rate", type=float, default=1500.0, help="as `rollout start --max-records-per-s`")
    parser.add_argument("--before-s", type=float, default=40.0, help="how long live freshness alone is measured")
    given = parser.parse_args()
    old, new = (Fingerprint((uuid4().hex + uuid4().hex)[:64]) for _ in range(2))
    world = World(min(given.pins, 20_000), [old.hex, new.hex])
    with ExitStack() as stack:
        settings = stack.enter_context(bench_servers())
        signal = RedisSignal(redis_url(settings), settings.topics.pins, 1.0)
        operator = Commands(registry_store(settings), signal, "bench")
        swap_models(Swap(settings, world, old, new, operator, stack), given)


if __name__ == "__main__":
    main()
