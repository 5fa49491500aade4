"""Bad models, and workers that do not do what their model says, are stopped by a gate; a good one is let through."""

from __future__ import annotations

import html
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from embedder.image_input import ImageInput
from embedder.model.artifact import Artifact, default_artifact_path, load_artifact
from embedder.torch_encoder import TorchEncoder
from embedder.worker import EmbedWorker
from index_sync.search_protocol import SearchRequest
from index_sync.worker import IndexWorker
from pinstream.errors import FatalError
from pinstream.local import LocalServers
from pinstream.object_store import open_store
from pinstream.settings import Settings, load_settings
from producers.generated_pins import generated_events
from producers.kafka_pins import PinProducer
from producers.pin_source import delete_event
from producers.world import World
from rollout.commands import Commands
from rollout.gates import Gate, Verdict
from rollout.generation import Application, Replay, State
from rollout.golden import write_world_golden
from rollout.query_sample import QuerySample
from rollout.redis_replay import ReplayMirror
from rollout.redis_signal import RedisSignal
from rollout.store_registry import RegistryStore
from rollout.validate import Validation, conclude, validate
from rollout.validation_page import write_page
from tests.bad_models import (
    OtherBits,
    SwappedInput,
    as_good,
    derive,
    first_half,
    half_dead,
    other_bit_order,
    random_weights,
    swapped_channels,
)
from tests.conftest import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

PINS, PRODUCTS, QUERIES, DELETED = 160, 40, 20, 7
EVERYTHING = frozenset(Application)
LENS = frozenset({Application.LENS})


@dataclass(frozen=True)
class Place:
    """One world of Pins that is live with the model that ships."""

    settings: Settings
    folder: Path
    base: Artifact
    store: RegistryStore
    commands: Commands
    live_url: str

    def caught_up(self, artifact: Artifact) -> str:
        """Register a generation as the controller would."""
        model = artifact.fingerprint.hex
        self.commands.start(model, artifact.bits, str(artifact.path), Replay())
        self.commands.move(model, State.CREATED, State.REPLAYING)
        self.commands.move(model, State.REPLAYING, State.CAUGHT_UP)
        return model

    def judge(self, model: str, url: str | None, applications: frozenset[Application] = EVERYTHING) -> Validation:
        found = validate(self.settings, self.store.read(), model, [url, self.live_url] if url else [], applications)
        page = self.folder / "pages" / f"{model[:12]}.html"
        write_page(found, page, k=10, max_pixels=10**7)
        check_page(found, page.read_text(encoding="utf-8"))
        conclude(self.store, found, by="test", at_ms=1)
        return found

    def state(self, model: str) -> State:
        return self.store.read().generation(model).state


def settings_of(servers: LocalServers, folder: Path) -> Settings:
    name = uuid.uuid4().hex[:8]
    return load_settings(
        kafka={"bootstrap_servers": servers.bootstrap_servers},
        redis={"url": servers.redis_url},
        topics={"pins": f"pins.{name}", "partitions": 2},
        index={"snapshot_url": f"file://{folder / 'snapshots'}", "snapshot_interval_s": 60},
        rollout={"gates": {"queries": str(folder / "golden"), "max_latency_ratio": 100, "reembed_pins": 24}},
    )


def check_page(found: Validation, page: str) -> None:
    """It needs nothing else, names what stopped the generation, and shows what was found as pictures."""
    assert 'src="http' not in page and "<script" not in page
    for result in found.results:
        assert html.escape(result.figure) in page
    if not found.passed:
        assert "The flip is refused" in page
    if found.queries:
        assert page.count("data:image/jpeg;base64,") > 50
        assert "no picture" not in page


@contextmanager
def workers(
    settings: Settings, artifact: Artifact, encoder: Any = None, image_input: Any = None, *, bits: int = 0
) -> Iterator[str]:
    """An embed and an index worker of this model; gives the index worker's address."""
    encoder = encoder or TorchEncoder(artifact, device="cpu", max_batch_size=settings.embed.max_batch_size)
    image_input = image_input or ImageInput(artifact.manifest.preprocessing, settings.fetch.max_pixels)
    embed = EmbedWorker(settings, encoder, image_input, artifact.fingerprint)
    index = IndexWorker(settings, artifact.fingerprint, bits or artifact.bits, None)
    threads = [threading.Thread(target=worker.run) for worker in (embed, index)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(index._hosted) == settings.topics.partitions, "all shards are served")
        yield index.http.url
    finally:
        for worker in (embed, index):
            worker.stop()
        for thread in threads:
            thread.join(60)


@pytest.fixture(scope="module")
def place(servers: LocalServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("validate")
    settings = settings_of(servers, folder)
    world = World(7, PRODUCTS, 96)
    write_world_golden(folder / "golden", world, PINS, QUERIES)
    shutil.copytree(default_artifact_path(), folder / "live")
    base = load_artifact(folder / "live")
    store = RegistryStore(open_store(settings.snapshot_url, {}, setting="index.snapshot_url"))
    commands = Commands(store, RedisSignal(settings.redis.url, settings.topics.pins, 1), "test")
    commands.adopt(base.fingerprint.hex, base.bits, str(base.path))
    with workers(settings, base) as live_url:
        with PinProducer(settings) as producer:
            for event in generated_events(world, count=PINS):
                producer.send(event)
            for pin_id in range(1, DELETED + 1):
                producer.send(delete_event(pin_id))
            producer.flush()
        wait_for(lambda: rows_of(live_url) == PINS - DELETED, "the live generation holds all Pins")
        yield Place(settings, folder, base, store, commands, live_url)
    torch.set_num_threads(threads)


def worker_urls(place: Place, model: str) -> list[str]:
    mirror = ReplayMirror(place.settings.redis.url, 1.0)
    try:
        return [lease.url for lease in mirror.leases(model) if lease.url]
    finally:
        mirror.close()


def rows_of(url: str) -> int:
    return sum(httpx.get(f"{url}/info").json()["shards"].values())


def blocking(found: Validation) -> list[str]:
    return [result.sentence() for result in found.results if result.blocks]


def stopped_by(found: Validation) -> set[Gate]:
    return {result.gate for result in found.results if result.verdict is Verdict.FAILED}


def test_a_good_model_is_validated_and_may_be_flipped_to(place: Place) -> None:
    artifact = derive(place.base, place.folder / "good", lambda tensors: as_good(tensors, 1))
    model = place.caught_up(artifact)
    with pytest.raises(FatalError, match="caught_up, expected validated"):
        place.commands.flip(model)
    sample = QuerySample(place.settings.redis.url, place.settings.topics.pins, timeout_s=1, max_per_s=1e6)
    for pin_id in range(1, 31):
        sample.offer(SearchRequest(pin_id=pin_id, k=20), Application.LENS)
    sample.close()
    with workers(place.settings, artifact) as url:
        found = place.judge(model, url, LENS)
        assert not blocking(found)
        live = [query for query in found.queries if query.pin_id is not None]
        assert len(live) == 30 - DELETED, "deleted Pins ask nothing any more"
        judged = {result.gate for result in found.results if result.verdict is Verdict.PASSED}
        assert judged >= set(Gate) - {Gate.FRESHNESS}
        assert place.state(model) is State.VALIDATED
        with pytest.raises(FatalError, match="judged for lens only"):
            place.commands.flip(model)
        wait_for(lambda: worker_urls(place, model), "its lease is in Redis")
        assert not blocking(place.judge(model, None))
    assert place.store.read().flipped(model, EVERYTHING, at_ms=2, by="test").live[Application.FLASHLIGHT] == model


@pytest.mark.parametrize(
    ("change", "gate"),
    [(random_weights, Gate.P_AT_1), (swapped_channels, Gate.GOLDEN_INPUTS), (half_dead, Gate.CODE_HEALTH)],
)
def test_a_bad_model_is_stopped(place: Place, change: Any, gate: Gate) -> None:
    golden_of_base = gate is Gate.GOLDEN_INPUTS
    artifact = derive(place.base, place.folder / change.__name__, change, golden_of_base=golden_of_base)
    model = place.caught_up(artifact)
    with workers(place.settings, artifact) as url:
        found = place.judge(model, url, LENS)
    assert gate in stopped_by(found)
    assert next(result for result in found.results if result.gate is gate and result.blocks).worst
    assert place.state(model) is State.CAUGHT_UP
    with pytest.raises(FatalError, match="caught_up, expected validated"):
        place.commands.flip(model)


@pytest.mark.parametrize(("number", "fault"), [(2, "bit-order"), (4, "bgr")])
def test_workers_whose_codes_are_not_their_models_are_stopped(place: Place, number: int, fault: str) -> None:
    artifact = derive(place.base, place.folder / fault, lambda tensors: as_good(tensors, number))
    encoder: Any = TorchEncoder(artifact, device="cpu", max_batch_size=32)
    image_input: Any = ImageInput(artifact.manifest.preprocessing, place.settings.fetch.max_pixels)
    if fault == "bgr":
        image_input = SwappedInput(image_input)
    else:
        encoder = OtherBits(encoder, artifact.bits, other_bit_order)
    model = place.caught_up(artifact)
    with workers(place.settings, artifact, encoder, image_input) as url:
        found = place.judge(model, url, LENS)
    assert Gate.CODES in stopped_by(found)
    assert Gate.GOLDEN_INPUTS not in stopped_by(found)
    assert Gate.CODE_HEALTH not in stopped_by(found)
    assert place.state(model) is State.CAUGHT_UP


def test_an_index_with_codes_of_another_length_is_stopped(place: Place) -> None:
    artifact = derive(place.base, place.folder / "length", lambda tensors: as_good(tensors, 3))
    half = artifact.bits // 2
    encoder = OtherBits(TorchEncoder(artifact, device="cpu", max_batch_size=32), half, first_half)
    model = place.caught_up(artifact)
    with workers(place.settings, artifact, encoder, bits=half) as url:
        found = place.judge(model, url, LENS)
    assert stopped_by(found) == {Gate.MODEL}
    (result,) = [result for result in found.results if result.gate is Gate.MODEL]
    assert f"holds codes of {half} bits" in result.worst[0]
    assert place.state(model) is State.CAUGHT_UP
