"""A hosted shard's snapshots: which are trusted, and who may write them. A real topic, a clock of the test's own."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from index_sync.checkpoint import ShardIdentity
from index_sync.code_batch import CodeBatch
from index_sync.kafka_facts import delete_retention_ms, owner_of
from index_sync.upkeep import TAKE_OVER_INTERVALS, HostedShard
from pinstream.codes import Fingerprint
from pinstream.kafka_clients import reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics
from pinstream.settings import Settings
from tests.conftest import wait_for
from tests.light_worker import BITS
from tests.pipeline import running

HOUR_MS = 3_600_000
INTERVAL_S = 10.0


class HandClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return 1_800_000_000_000 + int(self.now_s * 1000)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def shard(settings: Settings, model: Fingerprint) -> ShardIdentity:
    """Of a topic whose tombstones stay for an hour, whatever the settings of a worker say."""
    topics = settings.topics.model_copy(update={"delete_retention_ms": HOUR_MS})
    ensure_topics(reachable_admin(settings), (codes_topic(topics, model),), topics)
    return ShardIdentity(topic=model.codes_topic, partition=0, partitions=3, bits=BITS, model=model.hex)


@pytest.fixture
def calm(settings: Settings) -> Settings:
    index = settings.index.model_copy(update={"snapshot_interval_s": INTERVAL_S})
    return settings.model_copy(update={"index": index})


def grow(hosted: HostedShard, rows: int = 10) -> None:
    start = hosted.shard.checkpoint
    numbers = np.arange(start, start + rows, dtype=np.int64)
    hosted.shard.apply(
        CodeBatch(
            pin_id=numbers + 1,
            source_offset=numbers,
            event_time_ms=numbers,
            domain=np.zeros(rows, dtype=np.uint8),
            flags=np.zeros(rows, dtype=np.uint32),
            is_delete=np.zeros(rows, dtype=bool),
            code_NW=np.zeros((rows, BITS // 8), dtype=np.uint8),
            next_offset=start + rows,
        )
    )


@pytest.mark.kafka
def test_a_snapshot_is_trusted_for_as_long_as_the_topic_keeps_tombstones(
    calm: Settings, shard: ShardIdentity, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert delete_retention_ms(calm, shard.topic) == HOUR_MS < calm.topics.delete_retention_ms
    hosted = HostedShard(calm, shard, clock)
    grow(hosted)
    assert hosted.snapshot()
    clock.now_s += 3599
    assert HostedShard(calm, shard, clock).shard.checkpoint == 10
    assert not caplog.records
    clock.now_s += 2
    again = HostedShard(calm, shard, clock)
    assert (again.shard.checkpoint, again.shard.view().live_rows) == (0, 0)
    assert "snapshot 1 of" in caplog.text
    assert "is 1.0 h old, and tombstones stay on the topic for 1.0 h (delete.retention.ms)" in caplog.text
    assert "rebuilt from offset 0" in caplog.text
    grow(again)
    assert again.snapshot()  # it publishes after the old one
    assert HostedShard(calm, shard, clock).shard.checkpoint == 10


@pytest.mark.kafka
def test_a_young_snapshot_of_a_shard_that_lags_is_as_old_as_its_lag(
    calm: Settings, shard: ShardIdentity, clock: HandClock
) -> None:
    hosted = HostedShard(calm, shard, clock)
    hosted.held_all(clock.wall_ms())
    for _ in range(5):
        clock.now_s += 700
        grow(hosted)
        assert hosted.snapshot()
    assert HostedShard(calm, shard, clock).shard.checkpoint == 50
    clock.now_s += 101  # the newest is 101 s old, and 3,601 s have passed since the shard stood at the end
    assert HostedShard(calm, shard, clock).shard.checkpoint == 0


@pytest.mark.kafka
def test_an_idle_shard_renews_its_snapshot(calm: Settings, shard: ShardIdentity, clock: HandClock) -> None:
    hosted = HostedShard(calm, shard, clock)
    grow(hosted)
    for _ in range(8):
        hosted.held_all(clock.wall_ms())
        assert hosted.snapshot()
        clock.now_s += 1800
    assert HostedShard(calm, shard, clock).shard.checkpoint == 10


@pytest.mark.kafka
def test_a_shard_that_was_behind_for_longer_than_tombstones_stay_is_rebuilt_by_a_restart(
    calm: Settings, shard: ShardIdentity, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    hosted = HostedShard(calm, shard, clock)
    clock.now_s += 3601
    grow(hosted)
    hosted.held_all(clock.wall_ms())
    assert "was behind its topic for 1.0 h" in caplog.text
    assert hosted.snapshot()
    assert HostedShard(calm, shard, clock).shard.checkpoint == 0


@pytest.mark.kafka
def test_without_a_broker_the_setting_stands_in(
    calm: Settings, shard: ShardIdentity, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    hosted = HostedShard(calm, shard, clock)
    grow(hosted)
    assert hosted.snapshot()
    kafka = calm.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:9", "request_timeout_s": 0.5})
    topics = calm.topics.model_copy(update={"delete_retention_ms": 5000})
    away = calm.model_copy(update={"kafka": kafka, "topics": topics})
    assert HostedShard(away, shard, clock).shard.checkpoint == 10
    assert "taking topics.delete_retention_ms, 5000, for that of the topic" in caplog.text
    clock.now_s += 6
    assert HostedShard(away, shard, clock).shard.checkpoint == 0


@pytest.mark.kafka
def test_a_fenced_writer_takes_over_when_the_other_falls_silent(
    calm: Settings, shard: ShardIdentity, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    first, second = HostedShard(calm, shard, clock), HostedShard(calm, shard, clock)
    grow(first, 5)
    assert first.snapshot()
    grow(second, 10)
    assert not second.snapshot()
    assert "another writer is at it" in caplog.text
    for _ in range(2 * TAKE_OVER_INTERVALS):  # the other one goes on: it is left alone
        clock.now_s += INTERVAL_S
        grow(first, 1)
        assert first.snapshot()
        grow(second, 2)
        assert not second.snapshot()
    taken_over = []
    for _ in range(TAKE_OVER_INTERVALS):
        clock.now_s += INTERVAL_S
        taken_over.append(second.snapshot())
    assert taken_over == [False] * (TAKE_OVER_INTERVALS - 1) + [True]
    assert "the other writer is silent" in caplog.text
    grow(first, 1)
    assert not first.snapshot()
    assert HostedShard(calm, shard, clock).shard.checkpoint == second.shard.checkpoint


@pytest.mark.kafka
def test_a_fenced_writer_that_is_behind_never_takes_over(
    calm: Settings, shard: ShardIdentity, clock: HandClock
) -> None:
    ahead, behind = HostedShard(calm, shard, clock), HostedShard(calm, shard, clock)
    grow(ahead, 50)
    assert ahead.snapshot()
    grow(behind, 5)
    for _ in range(3 * TAKE_OVER_INTERVALS):
        clock.now_s += INTERVAL_S
        assert not behind.snapshot()
    assert HostedShard(calm, shard, clock).shard.checkpoint == 50


@pytest.mark.kafka
def test_the_broker_knows_who_owns_a_partition(settings: Settings, model: Fingerprint) -> None:
    group_id = f"pinstream-index-{model.short}"
    assert owner_of(settings, group_id, model.codes_topic, 0) is None
    with running(settings, model):
        wait_for(lambda: owner_of(settings, group_id, model.codes_topic, 0), "an owner")
        owner = owner_of(settings, group_id, model.codes_topic, 0)
        assert owner is not None
        assert settings.index.instance_id in owner
        assert owner_of(settings, group_id, "another-topic", 0) is None
    wait_for(lambda: owner_of(settings, group_id, model.codes_topic, 0) is None, "nobody owns it")
