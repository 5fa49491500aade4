"""A replay whose workers are killed and whose Redis forgets everything, paused or not, ends as its topic's fold."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer
from redis import Redis

from pinstream.codes import Fingerprint
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import ensure_topics, pins_topics
from pinstream.settings import Settings
from rollout.commands import Commands
from rollout.controller import prepare
from rollout.front_door import registry_store
from rollout.generation import Replay, State
from rollout.kafka_offsets import GroupOffsets, embed_group
from rollout.kafka_replay import planned
from rollout.redis_replay import ReplayMirror
from rollout.redis_signal import RedisSignal
from rollout.replay_commands import ReplayCommands
from rollout.replay_plan import plan_of
from tests.conftest import asked_for, wait_for
from tests.fault.test_sigkill import producing, worker
from tests.light_worker import BITS
from tests.oracle import check_codes, fold_pins
from tests.workload import Workload

KILLS = asked_for("PINSTREAM_FAULT_ROUNDS", 20) // 4

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


def test_a_killed_replay_goes_on_as_it_was(settings: Settings, model: Fingerprint, tmp_path: Path) -> None:
    ensure_topics(reachable_admin(settings), pins_topics(settings.topics), settings.topics)
    send_history(settings, 3000)
    prepare(settings, model.hex)
    redis = Redis.from_url(settings.redis.url)
    signal = RedisSignal(settings.redis.url, settings.topics.pins, 1)
    commands = Commands(registry_store(settings), signal, "a test")
    commands.start(model.hex, BITS, "light", planned(settings, Replay(max_records_per_s=300)))
    commands.move(model.hex, State.CREATED, State.REPLAYING)
    offsets = GroupOffsets(settings)

    def done() -> int:
        return sum(offsets.see(embed_group(model.hex), settings.topics.pins).committed.values())

    chance = random.Random(3)
    with ExitStack() as stack:
        stack.callback(offsets.close)
        workers = [stack.enter_context(worker("embed", number, settings, model, tmp_path)) for number in range(2)]
        for one in workers:
            one.url()
        with producing(settings, seed=4):
            for _ in range(KILLS):
                time.sleep(chance.uniform(0.1, 0.8))  # the random moment; nothing is awaited
                redis.flushdb()
                victim = chance.choice(workers)
                victim.kill()
                victim.start()
        replays = ReplayCommands(registry_store(settings), signal, "a test")
        replays.pause(model.hex)
        for one in workers:  # Redis knows nothing of the pause: the registry does
            one.kill()
        before = done()
        for one in workers:
            one.start()
        for one in workers:
            one.url()
        wait_for(lambda: all("assigned partitions" in one.log_text() for one in workers), "both are in the group", 60)
        assert done() == before, "a pause survives a kill"
        replays.rate(model.hex, None, force=False)
        registry = replays.resume(model.hex, force=False)
        mirror = ReplayMirror(settings.redis.url, 1)
        mirror.tell(model.hex, plan_of(registry.generations[model.hex], None))
        wait_for(lambda: caught_up(offsets, settings, model), "the replay has caught up", 90)
        check_codes(settings, model, fold_pins(settings)[0], exactly_once=True)
        assert [one.exit_code for one in workers] == [None, None], "a worker ended by itself"


def send_history(settings: Settings, events: int) -> None:
    producer = Producer(client_config(settings))
    workload = Workload(9, 400)
    for _ in range(events):
        key, value = workload.next()
        producer.produce(settings.topics.pins, value, key)
    assert producer.flush(30) == 0


def caught_up(offsets: GroupOffsets, settings: Settings, model: Fingerprint) -> bool:
    seen = offsets.see(embed_group(model.hex), settings.topics.pins)
    return all(seen.committed.get(partition, 0) == end for partition, end in seen.ends.items())
