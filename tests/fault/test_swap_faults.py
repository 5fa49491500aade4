"""A swap of models in whose every state something is killed: it goes on, and users are answered throughout.

Each round walks one generation through its whole life, with another victim in each state; five rounds have every
victim in every state. Answers are checked all the time, by the distance that only the right model and index give.
"""

from __future__ import annotations

import base64
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from pinstream.codes import Fingerprint
from pinstream.errors import FatalError, RetryableError
from pinstream.events import Domain, Image, Op, PinEvent
from pinstream.kafka_clients import reachable_admin, redis_url
from pinstream.local import LocalServers
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Settings
from producers.kafka_pins import PinProducer
from producers.pin_source import data_uri, delete_event, now_ms
from rollout.commands import Commands
from rollout.controller import prepare
from rollout.front_door import registry_store
from rollout.generation import Replay, State
from rollout.http_nodes import GenerationNodes, ask_nodes
from rollout.kafka_offsets import GroupOffsets, embed_group
from rollout.kafka_replay import planned
from rollout.redis_signal import RedisSignal
from rollout.retire import remove_all
from rollout.shard_rows import read_shadow
from tests.conftest import asked_for, wait_for
from tests.fault.test_outages import on, own_servers  # noqa: F401 (a fixture)
from tests.light_worker import BITS
from tests.workload import jpeg

ROUNDS = max(1, asked_for("PINSTREAM_FAULT_ROUNDS", 20) // 20)
VICTIMS = ("index", "embed", "broker", "controller", "redis")
STABLE, CHANGING, HISTORY, PACE_PER_S = 30, 300, 450, 120
"""Pins that are asked for and stay as they are; Pins that change all the time; events before the swap; its pace."""
PATIENCE_S = 90.0

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]


class Searches(threading.Thread):
    """A user who searches without a pause."""

    def __init__(self, url: str, fingerprints: set[str]) -> None:
        super().__init__()
        self.answered, self.faults = 0, list[str]()
        self._url, self._fingerprints = f"{url}/v1/search", fingerprints
        self._halt = threading.Event()

    def run(self) -> None:
        pin = 0
        with httpx.Client(timeout=20) as client:
            while not self._halt.wait(0.03):
                pin = pin % STABLE + 1
                image = base64.b64encode(jpeg(pin)).decode()
                body = {"application": "lens", "image": image, "k": 3, "allow_partial": False}
                try:
                    answer = client.post(self._url, json=body)
                    found = answer.json()
                    hit = found["hits"][0]
                    right = (hit["pin_id"], hit["distance"]) == (pin, 0) and found["generation"] in self._fingerprints
                except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
                    self.faults.append(repr(error))
                    continue
                if not right or found["partial"]:
                    self.faults.append(answer.text[:300])
                self.answered += 1

    def has_answered(self, searches: int) -> bool:
        return self.answered >= searches

    def stop(self) -> None:
        self._halt.set()
        self.join()


class Swap:
    """Everything that runs, each index with a replica, and the steps of one generation's life."""

    def __init__(self, servers: LocalServers, settings: Settings, folder: Path, stack: ExitStack) -> None:
        self.servers, self.settings = servers, settings
        self.old, self.new = (Fingerprint((uuid.uuid4().hex + uuid.uuid4().hex)[:64]) for _ in range(2))
        signal = RedisSignal(redis_url(settings), settings.topics.pins, 1)
        self.store = registry_store(settings)
        self.commands = Commands(self.store, signal, "a test")
        self._folder, self._stack = folder, stack
        self.controller = self._process(["-m", "pinstream.cli.main", "rollout", "run"], "controller", settings)
        self.front = self._process(["-m", "tests.light_generations", "front", "front"], "front", settings)
        self.workers = {model: self._workers(model) for model in (self.old, self.new)}
        self.searches: Searches

    def begin(self) -> None:
        """The old generation is live, and users search."""
        prepare(self.settings, self.old.hex)
        chance = random.Random(1)
        with PinProducer(self.settings) as pins:
            for pin_id in range(1, STABLE + 1):
                pins.send(upsert(pin_id, pin_id))
            for _ in range(HISTORY):
                pins.send(change(chance))
        for worker in self.workers[self.old].values():
            worker.start()
        self.front.start()
        self.commands.adopt(self.old.hex, BITS, "old")
        wait_for(lambda: self.done(self.old) == self.ends(), "the old generation has embedded all", PATIENCE_S)
        nodes = self.nodes(self.old)
        wait_for(lambda: has_all(nodes), "its index has them", PATIENCE_S)
        self.searches = Searches(self.front.wait_ready(PATIENCE_S), {self.old.hex, self.new.hex})
        self._stack.callback(self.searches.stop)
        self.searches.start()
        self._stack.enter_context(changing(self.settings))

    def steps(self) -> list[tuple[State, Callable[[], None]]]:
        """The states of a life, and how to get into each."""
        return [
            (State.CREATED, self.create),
            (State.REPLAYING, self.replay),
            (State.CAUGHT_UP, lambda: self.wait_state(State.CAUGHT_UP)),
            (State.VALIDATED, self.validate),
            (State.LIVE, partial(self.flip, self.new)),
            (State.STANDBY, partial(self.flip, self.old)),
            (State.RETIRED, self.retire_old),
        ]

    def create(self) -> None:
        prepare(self.settings, self.new.hex)
        replay = planned(self.settings, Replay(max_records_per_s=PACE_PER_S))
        self.commands.start(self.new.hex, BITS, "new", replay)
        for worker in self.workers[self.new].values():
            worker.start()

    def replay(self) -> None:
        if self.controller.exit_code is not None or self.controller.pid is None:
            self.controller.start()
        self.wait_state(State.REPLAYING)
        wait_for(lambda: self.done(self.new) > 0, "something is replayed", PATIENCE_S)

    def validate(self) -> None:
        self.commands.move(self.new.hex, State.CAUGHT_UP, State.VALIDATED, "by hand")

    def flip(self, to: Fingerprint) -> None:
        wait_for(lambda: self.is_loaded(to), "the front door sees all shards of it", PATIENCE_S)
        registry = self.commands.rollback() if to == self.old else self.commands.flip(to.hex)
        assert set(registry.live.values()) == {to.hex}

    def retire_old(self) -> None:
        self.flip(self.new)
        wait_for(lambda: self.front_info()["live"]["lens"] == self.new.hex, "the flip is seen", PATIENCE_S)
        self.commands.release(self.old.hex)
        for worker in self.workers[self.old].values():
            worker.stop()
        self.commands.retire(self.old.hex)

    def kill(self, victim: str) -> None:
        """SIGKILL, and start again what was killed; of each generation the one embed worker, one of two index."""
        if victim == "broker":
            (broker,) = self.servers.brokers
            broker.kill()
            broker.start()
            self.servers.wait_ready()
        elif victim == "redis":
            assert self.servers.redis is not None
            self.servers.redis.kill()
            time.sleep(0.5)  # that long nobody has a Redis
            self.servers.redis.start()
        else:
            name = {"embed": "embed", "index": "index-0"}.get(victim)
            chosen = [workers[name] for workers in self.workers.values()] if name else [self.controller]
            chosen = [one for one in chosen if one.pid is not None and one.exit_code is None]
            for one in chosen:
                one.kill()
            for one in chosen:
                one.start()

    def wait_state(self, state: State) -> None:
        wait_for(lambda: self.state() is state, lambda: f"{state}, not {self.state()}: {self.logs()}", PATIENCE_S)

    def state(self) -> State:
        return self.store.read().generations[self.new.hex].state

    def is_loaded(self, model: Fingerprint) -> bool:
        one = self.front_info()["generations"].get(model.hex)
        return one is not None and not one["missing_shards"]

    def front_info(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.front.url()}/info").json()
        return found

    def done(self, model: Fingerprint) -> int:
        """Records of the Pins topic that this generation has embedded."""
        return self._offsets(model)[0]

    def ends(self) -> int:
        return self._offsets(self.old)[1]

    def nodes(self, model: Fingerprint) -> GenerationNodes:
        """The generation as its second replica, which is never killed, sees it."""
        nodes = GenerationNodes(ask_nodes([self.workers[model]["index-1"].wait_ready(PATIENCE_S)]), model.hex, BITS)
        self._stack.callback(nodes.close)
        return nodes

    def logs(self) -> str:
        return self.controller.log_text()[-1500:] if self.controller.pid else "no controller"

    def _offsets(self, model: Fingerprint) -> tuple[int, int]:
        offsets = GroupOffsets(self.settings)
        try:
            seen = offsets.see(embed_group(model.hex), self.settings.topics.pins)
        except RetryableError:
            return -1, 0
        finally:
            offsets.close()
        return sum(seen.committed.values()), sum(seen.ends.values())

    def _workers(self, model: Fingerprint) -> dict[str, WorkerProcess]:
        found = {"embed": self._process(["-m", "tests.light_generations", "embed", model.hex], "embed", self.settings)}
        for replica in range(2):
            index = self.settings.index.model_copy(update={"replica": replica})
            command = ["-m", "tests.light_generations", "index", model.hex]
            own = self.settings.model_copy(update={"index": index})
            found[f"index-{replica}"] = self._process(command, f"index-{replica}", own)
        return found

    def _process(self, command: list[str], name: str, settings: Settings) -> WorkerProcess:
        process = WorkerProcess(command, settings.environment(), self._folder / f"{name}-{command[-1][:6]}.log")
        self._stack.callback(process.kill)
        return process


def has_all(nodes: GenerationNodes) -> bool:
    try:
        return all(nodes.pin(pin) for pin in range(1, STABLE + 1))
    except RetryableError:
        return False  # a shard is not there yet


def upsert(pin_id: int, image: int) -> PinEvent:
    uri = data_uri(jpeg(image))
    return PinEvent(pin_id=pin_id, op=Op.UPSERT, event_time=now_ms(), image=Image(uri=uri), domain=Domain.PIN)


def change(chance: random.Random) -> PinEvent:
    pin_id = 1000 + chance.randrange(CHANGING)
    return delete_event(pin_id) if chance.random() < 0.2 else upsert(pin_id, 1000 + chance.randrange(100))


@contextmanager
def changing(settings: Settings) -> Iterator[None]:
    """Pins that come, change and go, twenty a second."""
    stop, chance = threading.Event(), random.Random(2)

    def run() -> None:
        with PinProducer(settings) as pins:
            while not stop.wait(0.05):
                pins.send(change(chance))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_swap_goes_on_whatever_is_killed_in_which_state(
    own_servers: LocalServers,  # noqa: F811 (pytest's way)
    settings: Settings,
    tmp_path: Path,
    number: int,
) -> None:
    rollout = settings.rollout.model_copy(
        update={"caught_up_s": 1.0, "controller_interval_s": 0.2, "freshness_objective_s": 60.0}
    )
    own = on(own_servers, settings).model_copy(update={"rollout": rollout, "local_dir": tmp_path / "local"})
    with ExitStack() as stack:
        swap = Swap(own_servers, own, tmp_path, stack)
        swap.begin()
        for step, (state, enter) in enumerate(swap.steps()):
            victim = VICTIMS[(step + number) % len(VICTIMS)]
            enter()
            enough = swap.searches.answered + 20
            swap.kill(victim)
            wait_for(partial(swap.searches.has_answered, enough), "users are answered on", PATIENCE_S)
            assert not swap.searches.faults, f"{victim} killed, {state}: {swap.searches.faults[0]}"
            assert swap.state() in ALLOWED_AFTER[state], f"{victim} was killed"
        wait_for(lambda: is_removed(swap), "what the old generation had is gone", PATIENCE_S)
        found = read_shadow(own, swap.new, swap.nodes(swap.new)).coverage
        assert found.living > STABLE
        assert not found.faults, (found.missing, found.stale, found.extra)
        assert not swap.searches.faults, swap.searches.faults[0]


ALLOWED_AFTER = {
    State.CREATED: {State.CREATED, State.REPLAYING},
    State.REPLAYING: {State.REPLAYING, State.CAUGHT_UP},
    State.CAUGHT_UP: {State.CAUGHT_UP},
    State.VALIDATED: {State.VALIDATED},
    State.LIVE: {State.LIVE},
    State.STANDBY: {State.STANDBY},
    State.RETIRED: {State.LIVE},
}
"""Of the new generation, when something was killed in this state; it is the old one that is retired in the end."""


def is_removed(swap: Swap) -> bool:
    """Repeated until Kafka and the store answer, and a worker that was killed has left its group."""
    try:
        remove_all(swap.settings, swap.old.hex)
    except (RetryableError, FatalError):
        return False
    return swap.old.codes_topic not in reachable_admin(swap.settings).list_topics(timeout=10).topics
