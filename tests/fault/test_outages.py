"""Kafka or Redis goes away under running workers and comes back: nothing is lost, doubled or stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pinstream.codes import Fingerprint
from pinstream.local import LocalServers
from pinstream.settings import Settings
from tests.conftest import wait_for
from tests.oracle import check_codes, check_dead_letters, check_index, fold_pins
from tests.pipeline import Pipeline, running
from tests.workload import Workload

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[LocalServers]:
    """Servers of this test's own, to be killed."""
    with LocalServers(tmp_path / "servers") as servers:
        yield servers


def on(servers: LocalServers, settings: Settings) -> Settings:
    """The settings on other servers."""
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": servers.bootstrap_servers})
    redis = settings.redis.model_copy(update={"url": servers.redis_url})
    return settings.model_copy(update={"kafka": kafka, "redis": redis})


def check_everything(pipeline: Pipeline, model: Fingerprint) -> None:
    expected, bad = fold_pins(pipeline.settings)
    check_codes(pipeline.settings, model, expected, exactly_once=True)
    check_dead_letters(pipeline.settings, bad, exactly_once=True)
    check_index([pipeline.index.http.url], expected)


def test_a_broker_that_is_killed_and_comes_back(
    own_servers: LocalServers, settings: Settings, model: Fingerprint
) -> None:
    workload = Workload(seed=11, pins=200)
    with running(on(own_servers, settings), model) as pipeline:
        for _ in range(2):
            pipeline.send([workload.next() for _ in range(500)])
            (broker,) = own_servers.brokers
            broker.kill()
            broker.start()
            own_servers.wait_ready()
        pipeline.send([workload.next() for _ in range(200)])
        pipeline.settle(45)
        check_everything(pipeline, model)


def test_a_redis_that_is_killed_and_comes_back_empty(
    own_servers: LocalServers, settings: Settings, model: Fingerprint
) -> None:
    workload = Workload(seed=12, pins=200)
    with running(on(own_servers, settings), model) as pipeline:
        assert own_servers.redis is not None
        pipeline.send([workload.next() for _ in range(300)])
        own_servers.redis.kill()
        pipeline.send([workload.next() for _ in range(300)])
        pipeline.settle()
        assert "pinstream_redis_up 0.0" in httpx.get(f"{pipeline.embed.http.url}/metrics").text
        own_servers.redis.start()
        wait_for(
            lambda: "pinstream_redis_up 1.0" in httpx.get(f"{pipeline.index.http.url}/metrics").text, "Redis is back"
        )
        pipeline.send([workload.next() for _ in range(300)])
        pipeline.settle()
        check_everything(pipeline, model)


def test_a_kafka_that_pauses_longer_than_a_transaction(
    own_servers: LocalServers, settings: Settings, model: Fingerprint
) -> None:
    """SIGSTOP and SIGCONT: the producer's transaction may have been aborted behind its back."""
    short = settings.model_copy(update={"embed": settings.embed.model_copy(update={"transaction_timeout_ms": 2000})})
    workload = Workload(seed=13, pins=200)
    with running(on(own_servers, short), model) as pipeline:
        pipeline.send([workload.next() for _ in range(400)])
        (broker,) = own_servers.brokers
        broker.pause()
        wait_for(lambda: not broker_answers(own_servers), "the broker is silent")
        broker.resume()
        own_servers.wait_ready()
        pipeline.send([workload.next() for _ in range(200)])
        pipeline.settle(45)
        check_everything(pipeline, model)


def broker_answers(servers: LocalServers) -> bool:
    """Whether the broker answers within four seconds: twice the transaction's time-out."""
    from confluent_kafka import KafkaException  # noqa: PLC0415 (only here)
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    try:
        AdminClient({"bootstrap.servers": servers.bootstrap_servers}).list_topics(timeout=4)
    except KafkaException:
        return False
    return True
