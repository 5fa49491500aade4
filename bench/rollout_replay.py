"""`rollout.replay_vs_unthrottled`: the rate of a replay under a controller's eyes ÷ that of an embed worker that is not
paced; both beside the same live generation with light traffic, in turn, over the same Pins with inline images.

Every run embeds all Pins with the default model under a fingerprint, and so a group, a codes topic and a code cache, of
its own. The two take turns in going first, so that a machine that slows down favours neither. The details hold the
largest error of the ETA from 20 % of the way on, as a share of the way; none is told before ten seconds have passed.

    python -m bench.rollout_replay
"""

from __future__ import annotations

import argparse
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import simplejpeg
import torch
from confluent_kafka import Consumer, TopicPartition

from bench.claims import record_claim
from bench.servers import bench_servers
from embedder.image_input import ImageInput
from embedder.model.artifact import Artifact, default_artifact_path, load_artifact
from embedder.torch_encoder import TorchEncoder
from embedder.worker import EmbedWorker
from pinstream.codes import Fingerprint
from pinstream.events import Domain, Image, Op, PinEvent
from pinstream.interpreter import calm_garbage_collector
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import ensure_topics, pins_topics
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Settings
from producers.kafka_pins import PinProducer
from producers.pin_source import data_uri, now_ms
from rollout.commands import Commands
from rollout.front_door import registry_store
from rollout.generation import Replay, State
from rollout.kafka_offsets import GroupOffsets, embed_group
from rollout.kafka_pins import log_ends
from rollout.kafka_replay import planned
from rollout.redis_replay import ReplayMirror
from rollout.redis_signal import RedisSignal
from rollout.start_plan import plan_at_start

SIDE = 128
"""Pixels: a thumbnail of about 4 kB, no two alike."""


@dataclass(frozen=True, slots=True)
class Bench:
    settings: Settings
    artifact: Artifact
    encoder: TorchEncoder
    commands: Commands


@dataclass(slots=True)
class Run:
    """One replay, watched once a second."""

    paced: bool
    rate_per_s: float = 0.0
    told: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the first commit, ETA in seconds)."""
    limits: list[float] = field(default_factory=list)
    """What it was held to, whenever it was."""
    freshness_s: list[float] = field(default_factory=list)
    worst_eta_error: float | None = None

    def judge_etas(self, seconds: float) -> None:
        errors = [abs(at_s + eta_s - seconds) / seconds for at_s, eta_s in self.told if at_s >= 0.2 * seconds]
        self.worst_eta_error = max(errors, default=None)


def fill(settings: Settings, pins: int, seed: int) -> None:
    """That many Pins, each with an image of its own: smooth colours with noise, as a photo has."""
    random = np.random.default_rng(seed)
    with PinProducer(settings) as producer:
        for pin_id in range(1, pins + 1):
            producer.send(event(pin_id, random))


def event(pin_id: int, random: np.random.Generator) -> PinEvent:
    corners = random.integers(0, 256, (4, 4, 3)).repeat(SIDE // 4, 0).repeat(SIDE // 4, 1)
    pixels = np.clip(corners + random.integers(-12, 13, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    image = Image(uri=data_uri(simplejpeg.encode_jpeg(pixels, quality=80)))
    return PinEvent(pin_id=pin_id, op=Op.UPSERT, event_time=now_ms(), image=image, domain=Domain.PIN)


@contextmanager
def live_generation(settings: Settings, artifact: Artifact, pins_per_s: float) -> Iterator[None]:
    """The default model's own workers, at the end of the topic, and light traffic for them."""
    topic = settings.topics.pins
    ends = log_ends(settings, topic)
    consumer = Consumer(client_config(settings, group_id=embed_group(artifact.fingerprint.hex)))
    consumer.commit(offsets=[TopicPartition(topic, p, end) for p, end in ends.items()], asynchronous=False)
    consumer.close()
    stop = threading.Event()

    def traffic() -> None:
        random = np.random.default_rng(7)
        with PinProducer(settings) as producer:
            while not stop.wait(1 / pins_per_s):
                producer.send(event(10_000_000 + int(random.integers(1000)), random))

    thread = threading.Thread(target=traffic)
    with ExitStack() as stack:
        for command in (["embed", "--threads", "1"], ["index", "--no-images"]):
            full = ["-m", "pinstream.cli.main", *command]
            worker = WorkerProcess(full, settings.environment(), settings.local_dir / f"{command[0]}.log")
            stack.enter_context(worker).wait_ready(120)
        controller = ["-m", "pinstream.cli.main", "rollout", "run"]
        stack.enter_context(WorkerProcess(controller, settings.environment(), settings.local_dir / "controller.log"))
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        yield


def replay(bench: Bench, *, paced: bool) -> Run:
    """Embed the whole topic with a worker of a new fingerprint; its rate is that of the commits after the first.

    Paced: it is a generation of the registry, which the controller looks after; else nobody knows of it.
    """
    settings, artifact, encoder = bench.settings, bench.artifact, bench.encoder
    model, run = Fingerprint(uuid.uuid4().hex * 2), Run(paced)
    if paced:
        bench.commands.start(model.hex, encoder.bits, "bench", planned(settings, Replay()))
        bench.commands.move(model.hex, State.CREATED, State.REPLAYING)
    embed = settings.embed.model_copy(update={"instance_id": f"bench-{model.short}"})
    image_input = ImageInput(artifact.manifest.preprocessing, settings.fetch.max_pixels)
    own = settings.model_copy(update={"embed": embed})
    worker = EmbedWorker(own, encoder, image_input, model, plan=plan_at_start(settings, model))
    thread = threading.Thread(target=worker.run)
    offsets, mirror = GroupOffsets(settings), ReplayMirror(settings.redis.url, 1)
    thread.start()
    first: tuple[float, int] | None = None
    next_look_s = time.monotonic()
    while True:
        seen = offsets.see(embed_group(model.hex), settings.topics.pins)
        now_s, done = time.monotonic(), sum(seen.committed.values())
        if first is None and done:
            first = (now_s, done)
        if first and sum(seen.ends.values()) - done <= 20:
            break
        if paced and first and now_s >= next_look_s:
            next_look_s = now_s + settings.rollout.controller_interval_s
            watch(run, mirror, model, now_s - first[0])
        time.sleep(0.1)
    seconds = now_s - first[0]
    run.rate_per_s = (done - first[1]) / seconds
    worker.stop()
    thread.join()
    if paced:
        bench.commands.retire(model.hex)
    mirror.close()
    offsets.close()
    run.judge_etas(seconds)
    print(f"paced={paced} {run.rate_per_s:.1f}/s in {seconds:.1f} s, ETA error {run.worst_eta_error}", flush=True)
    return run


def watch(run: Run, mirror: ReplayMirror, model: Fingerprint, at_s: float) -> None:
    report = mirror.reported(model.hex)
    if report is None:
        return  # the controller has not looked yet
    if report.progress.eta_s is not None:
        run.told.append((at_s, report.progress.eta_s))
    if report.limit_per_s is not None:
        run.limits.append(report.limit_per_s)
    if report.live_freshness_s is not None:
        run.freshness_s.append(report.live_freshness_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pins", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--live-per-s", type=float, default=2.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    artifact = load_artifact(default_artifact_path())
    encoder = TorchEncoder(artifact, device="cpu", precision="fp32", max_batch_size=32)
    calm_garbage_collector()
    with bench_servers() as settings:
        ensure_topics(reachable_admin(settings), pins_topics(settings.topics), settings.topics)
        fill(settings, given.pins, seed=1)
        signal = RedisSignal(settings.redis.url, settings.topics.pins, 1)
        commands = Commands(registry_store(settings), signal, "bench")
        commands.adopt(artifact.fingerprint.hex, artifact.bits, "bench")
        bench = Bench(settings, artifact, encoder, commands)
        with live_generation(settings, artifact, given.live_per_s):
            orders = ((False, True), (True, False))
            runs = [replay(bench, paced=paced) for number in range(given.rounds) for paced in orders[number % 2]]
    free, paced = ([run for run in runs if run.paced is kind] for kind in (False, True))
    record_claim(
        "rollout.replay_vs_unthrottled",
        [ours.rate_per_s / bare.rate_per_s for ours, bare in zip(paced, free, strict=True)],
        bar=0.9,
        better="higher",
        unit="ratio",
        details={
            "unthrottled_per_s": [round(run.rate_per_s, 1) for run in free],
            "replay_per_s": [round(run.rate_per_s, 1) for run in paced],
            "eta_worst_error_from_20_percent": [run.worst_eta_error for run in paced],
            "rounds_with_a_limit": sum(bool(run.limits) for run in paced),
            "live_freshness_p99_s": [round(max(run.freshness_s), 3) for run in paced if run.freshness_s],
            "pins": given.pins,
            "live_pins_per_s": given.live_per_s,
            "model": artifact.fingerprint.hex[:12],
        },
    )


if __name__ == "__main__":
    main()
