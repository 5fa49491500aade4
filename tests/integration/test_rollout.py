"""A swap on a real Kafka and Redis: replayed, flipped under load, rolled back, and retired, with every part killed."""

from __future__ import annotations

import base64
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from typer.testing import CliRunner

from pinstream.cli.rollout import app
from pinstream.codes import Fingerprint
from pinstream.errors import FatalError
from pinstream.events import Domain, Flag, Image, Op, PinEvent
from pinstream.kafka_clients import reachable_admin, redis_url
from pinstream.local.redis_server import RedisServer
from pinstream.local.worker_process import WorkerProcess
from pinstream.object_store import open_store
from pinstream.settings import Settings
from producers.kafka_pins import PinProducer
from producers.pin_source import data_uri
from rollout.commands import Commands
from rollout.controller import Controller, prepare
from rollout.front_door import FrontDoor, registry_store
from rollout.generation import Application, Replay, State
from rollout.redis_signal import RedisSignal
from rollout.retire import remove_all
from tests.conftest import wait_for
from tests.light_generations import front_door, workers
from tests.light_worker import BITS
from tests.workload import jpeg

PINS = 40
FLIPS = int(os.environ.get("PINSTREAM_FAULT_ROUNDS", "20"))
LENS = Application.LENS
WHOLE = {"x": 0, "y": 0, "width": 1, "height": 1}
CLIENT = httpx.Client(timeout=10)
"""Of all threads: making one takes longer than many searches."""
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def quick(settings: Settings, tmp_path: Path) -> Settings:
    rollout = settings.rollout.model_copy(
        update={"caught_up_s": 0.5, "controller_interval_s": 0.1, "poll_store_s": 0.3}
    )
    return settings.model_copy(update={"rollout": rollout, "local_dir": tmp_path / "local"})


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own, to be killed; it comes back empty."""
    server = RedisServer("redis", tmp_path / "redis", lambda: None)
    server.choose_ports()
    server.make_folders()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def fingerprint() -> Fingerprint:
    return Fingerprint((uuid.uuid4().hex + uuid.uuid4().hex)[:64])


def commands(settings: Settings, by: str = "anna@here") -> Commands:
    signal = RedisSignal(redis_url(settings), settings.topics.pins, settings.redis.timeout_s)
    return Commands(registry_store(settings), signal, by)


def produce(settings: Settings) -> None:
    with PinProducer(settings) as pins:
        for number in range(1, PINS + 1):
            pins.send(
                PinEvent(
                    pin_id=number,
                    op=Op.UPSERT,
                    event_time=time.time_ns() // 1_000_000,
                    image=Image(uri=data_uri(jpeg(number))),
                    domain=Domain.PRODUCT if number % 2 else Domain.PIN,
                    flags=(Flag.SHOPPABLE,) if number % 4 == 1 else (),
                )
            )


def ask(front: FrontDoor | str, pin: int, **fields: Any) -> httpx.Response:
    url = front if isinstance(front, str) else front.http.url
    body = {"application": "lens", "image": base64.b64encode(jpeg(pin)).decode(), "k": 3, "allow_partial": False}
    return CLIENT.post(f"{url}/v1/search", json=body | fields)


def check(answer: httpx.Response, pin: int) -> str:
    """Embedded by the model whose index was searched, or the Pin of this image would not be at distance 0."""
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["hits"][0] == {**found["hits"][0], "pin_id": pin, "distance": 0}, found
    assert not found["partial"]
    return str(found["generation"])


@contextmanager
def two_generations(settings: Settings) -> Iterator[tuple[Fingerprint, Fingerprint]]:
    """An old generation, live, and a new one that was replayed and judged."""
    old, new = fingerprint(), fingerprint()
    prepare(settings, old.hex)
    produce(settings)
    with ExitStack() as stack:
        embed, _ = stack.enter_context(workers(settings, old))
        operator, controller = commands(settings), Controller(settings)
        operator.adopt(old.hex, BITS, "old")
        operator.start(new.hex, BITS, "new", Replay())
        controller.run_once()
        assert registry_store(settings).read().generations[new.hex].state is State.REPLAYING
        stack.enter_context(workers(settings, new))
        wait_for(lambda: controller.run_once().generations[new.hex].state is State.CAUGHT_UP, "the replay caught up")
        wait_for(lambda: all(lag.records == 0 for lag in embed.lag.lags().values()), "the old one too")
        operator.move(new.hex, State.CAUGHT_UP, State.VALIDATED, "by hand")
        yield old, new


def removable_files(settings: Settings, model: Fingerprint) -> int:
    """Files of its snapshots and of its backfill."""
    store = open_store(settings.snapshot_url, {}, setting="")
    paths = [one["path"] for page in obstore.list(store) for one in page]
    return sum(path.startswith((f"{model.codes_topic}/", f"backfill/{model.short}/")) for path in paths)


def ready(front: FrontDoor, *models: Fingerprint) -> None:
    wait_for(
        lambda: (
            CLIENT.get(f"{front.http.url}/readyz").status_code == 200
            and all(
                front.status().models.count(model.hex)
                and not CLIENT.get(f"{front.http.url}/info").json()["generations"][model.hex]["missing_shards"]
                for model in models
            )
        ),
        lambda: f"the front door is ready: {CLIENT.get(f'{front.http.url}/readyz').text} {front.status()}",
    )


def test_flips_under_load_are_seen_at_once_and_mix_nothing(quick: Settings) -> None:
    with two_generations(quick) as (old, new), front_door(quick, "a") as a, front_door(quick, "b") as b:
        fronts = (a, b)
        for front in fronts:
            ready(front, old, new)
        operator, stop, faults = commands(quick), threading.Event(), []
        latest: dict[str, str] = {}

        def load(front: FrontDoor, pin: int) -> None:
            while not stop.is_set():
                pin = pin % PINS + 1
                try:
                    latest[front.name] = check(ask(front, pin), pin)
                except Exception as error:  # noqa: BLE001 (every kind fails the test, by name)
                    faults.append(repr(error))

        def is_answering(model: Fingerprint) -> bool:
            return set(latest.values()) == {model.hex}

        clients = [threading.Thread(target=load, args=(front, 7 * i)) for i, front in enumerate(fronts)]
        for client in clients:
            client.start()
        try:
            for _ in range(FLIPS // 2):
                for model, change in ((new, partial(operator.flip, new.hex)), (old, operator.rollback)):
                    assert not operator.seen_by_all(change().number, 5)[1]
                    wait_for(partial(is_answering, model), "both clients are answered by it", 10)
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert not faults

        operator.flip(new.hex, frozenset({LENS}))
        wait_for(lambda: check(ask(a, 2), 2) == new.hex, "lens is flipped")
        assert check(ask(a, 1, application="shop_the_look", box=WHOLE), 1) == old.hex, "and shop_the_look is not"
        assert ask(a, 2, application="shop_the_look", box=WHOLE).json()["hits"][0]["pin_id"] != 2, "no product"
        assert ask(a, 2, application="flashlight").status_code == 400, "it needs a box"
        code = CLIENT.get(f"{a.http.url}/v1/pins/3?application=lens").json()
        assert code["generation"] == new.hex
        assert ask(a, 1, image=None, code=code["code"]).status_code == 400, "a code is of one generation"
        assert check(ask(a, 1, image=None, code=code["code"], generation=new.short), 3) == new.hex

        operator.split(old.hex, 0.5, frozenset({LENS}), "test")
        wait_for(lambda: ask(b, 1, requester="r").json()["test"] == "test", "the split is seen")
        arms = {requester: ask(b, 1, requester=requester).json() for requester in map(str, range(20))}
        assert {found["arm"] for found in arms.values()} == {"control", "treatment"}
        for requester, found in arms.items():
            assert found["generation"] == (old.hex if found["arm"] == "treatment" else new.hex)
            assert ask(a, 1, requester=requester).json()["arm"] == found["arm"], "sticky, at every front door"


@pytest.mark.parametrize("name", ["embed.group_id", "index.group_id"])
def test_one_group_for_all_generations_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"PINSTREAM_{name.upper().replace('.', '__')}", "ours")
    found = CliRunner().invoke(app, ["start"]).exception
    assert isinstance(found, FatalError)
    assert str(found).startswith(f"{name} is 'ours': workers of both generations")


def test_a_controller_can_be_watched(quick: Settings) -> None:
    command = ["-m", "pinstream.cli.main", "rollout", "run"]
    with WorkerProcess(command, quick.environment(), quick.local_dir / "controller.log") as controller:
        url = controller.wait_ready()
        assert httpx.get(f"{url}/info").json()["registry"] == 0
        assert "# HELP pinstream_replay_limit_records_per_second" in httpx.get(f"{url}/metrics").text


def test_redis_is_lost_with_its_data_and_parts_are_killed(quick: Settings, own_redis: RedisServer) -> None:
    """The live generation is served throughout; a flip without Redis is seen by way of the store."""
    quick = quick.model_copy(update={"redis": quick.redis.model_copy(update={"url": own_redis.url})})
    log = quick.local_dir
    with ExitStack() as stack:
        old, new = stack.enter_context(two_generations(quick))
        door, controller = (
            stack.enter_context(
                WorkerProcess(["-m", "tests.light_generations", role, role], quick.environment(), log / f"{role}.log")
            )
            for role in ("front", "controller")
        )
        url = door.wait_ready()
        assert check(ask(url, 1), 1) == old.hex
        own_redis.kill()
        assert check(ask(url, 2), 2) == old.hex
        commands(quick).flip(new.hex)
        wait_for(lambda: check(ask(url, 3), 3) == new.hex, "a flip without Redis is seen", 10)
        controller.kill()
        own_redis.start()
        for pin in range(1, PINS):
            assert check(ask(url, pin), pin) == new.hex, "an empty Redis has ended no leaf"
        signal = RedisSignal(own_redis.url, quick.topics.pins, 1)
        number = registry_store(quick).read().number
        wait_for(lambda: signal.is_mirrored(number), "the front door writes the mirror again", 10)
        door.kill()
        door.start()
        url = door.wait_ready()
        assert check(ask(url, 4), 4) == new.hex, "after a restart"
        commands(quick).rollback()
        wait_for(lambda: check(ask(url, 5), 5) == old.hex, "rolled back", 10)


def test_what_is_used_is_not_retired_and_what_is_retired_is_gone(quick: Settings) -> None:
    with two_generations(quick) as (old, new):
        operator = commands(quick)
        operator.flip(new.hex)
        for model, why in ((new, "is live"), (old, "stands by")):
            with pytest.raises(FatalError, match=why):
                operator.retire(model.hex)
        operator.release(old.hex)
        with pytest.raises(FatalError, match="stands by no more"):
            operator.rollback()
        operator.retire(old.hex)
        with pytest.raises(FatalError, match="still run"):
            remove_all(quick, old.hex)
        signal = RedisSignal(redis_url(quick), quick.topics.pins, 1)
        assert signal.newer_than(0) is not None
    obstore.put(open_store(quick.snapshot_url, {}, setting=""), f"backfill/{old.short}/plan.json", b"{}")
    before = removable_files(quick, old)
    removed = remove_all(quick, old.hex)
    assert removed.topic
    assert removed.groups == 2
    assert removed.files == before > 1
    assert removable_files(quick, old) == 0
    assert removed.redis_keys
    assert remove_all(quick, old.hex).files == 0, "again is harmless"
    topics = reachable_admin(quick).list_topics(timeout=10).topics
    assert old.codes_topic not in topics
    assert new.codes_topic in topics
    again = operator.start(old.hex, BITS, "old again", Replay()).generations[old.hex]
    assert again.state is State.CREATED
    assert Controller(quick).run_once().generations[old.hex].state is State.REPLAYING


def test_a_controller_that_is_killed_at_any_state_is_replaced_by_another(quick: Settings) -> None:
    """Each state has a controller of its own, which knows nothing but the registry and Kafka."""
    model = fingerprint()
    commands(quick).start(model.hex, BITS, "new", Replay())
    prepare(quick, model.hex)  # as far as a start comes that is killed before it says `replaying`

    def state(controller: Controller) -> State:
        return controller.run_once().generations[model.hex].state

    assert state(Controller(quick)) is State.REPLAYING
    produce(quick)
    second = Controller(quick)
    assert state(second) is State.REPLAYING, "nobody replays"
    with workers(quick, model):
        wait_for(lambda: state(second) is State.CAUGHT_UP, "the replay caught up")
        third = Controller(quick)
        assert [state(third) for _ in range(3)] == [State.CAUGHT_UP] * 3
    history = [step.state for step in registry_store(quick).read().generations[model.hex].history]
    assert history == [State.CREATED, State.REPLAYING, State.CAUGHT_UP]
