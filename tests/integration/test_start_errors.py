"""What can't work says so at once: one clear sentence, exit code 1, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from pinstream.codes import Fingerprint, empty_records, encode_records
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.kafka_topics import codes_topic, ensure_topics
from pinstream.local.worker_process import WorkerProcess
from pinstream.settings import Settings
from tests.conftest import wait_for
from tests.light_worker import BITS


def last_words(role: str, settings: Settings, model: Fingerprint, folder: Path) -> str:
    """Run a worker that must stop by itself with exit code 1; what it said last."""
    command = ["-m", "tests.light_worker", role, model.hex]
    with WorkerProcess(command, settings.environment(), folder / f"{role}.log") as worker:
        wait_for(lambda: worker.exit_code is not None, "the worker stopped")
        assert worker.exit_code == 1
        assert "Traceback" not in worker.log_text()
        return worker.log_text().strip().splitlines()[-1]


def unreachable(settings: Settings) -> Settings:
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1", "request_timeout_s": 1.0})
    return settings.model_copy(update={"kafka": kafka})


@pytest.mark.parametrize("role", ["embed", "index"])
def test_an_unreachable_kafka(settings: Settings, model: Fingerprint, tmp_path: Path, role: str) -> None:
    said = last_words(role, unreachable(settings), model, tmp_path)
    assert "Kafka at 127.0.0.1:1 did not answer within 1 s" in said


@pytest.mark.parametrize("role", ["embed", "index"])
def test_another_partition_count(settings: Settings, model: Fingerprint, tmp_path: Path, role: str) -> None:
    ensure_topics(reachable_admin(settings), (codes_topic(settings.topics, model),), settings.topics)
    changed = settings.model_copy(update={"topics": settings.topics.model_copy(update={"partitions": 5})})
    said = last_words(role, changed, model, tmp_path)
    assert f"topic {model.codes_topic} has 3 partitions, expected 5" in said


def test_another_cleanup_policy(settings: Settings, model: Fingerprint, tmp_path: Path) -> None:
    admin = reachable_admin(settings)
    made = admin.create_topics([NewTopic(settings.topics.pins, 3, 1, config={"cleanup.policy": "delete"})])
    made[settings.topics.pins].result()
    said = last_words("embed", settings, model, tmp_path)
    assert f"topic {settings.topics.pins} has cleanup.policy=delete, expected compact" in said


def test_an_unreachable_snapshot_store(settings: Settings, model: Fingerprint, tmp_path: Path) -> None:
    index = settings.index.model_copy(update={"snapshot_url": "gopher://nowhere/snapshots"})
    said = last_words("index", settings.model_copy(update={"index": index}), model, tmp_path)
    assert "gopher" in said


def test_codes_of_another_model(settings: Settings, model: Fingerprint, tmp_path: Path) -> None:
    ensure_topics(reachable_admin(settings), (codes_topic(settings.topics, model),), settings.topics)
    foreign = empty_records(1, BITS, Fingerprint("ff" * 32), 1)
    foreign["pin_id"] = 7
    producer = Producer(client_config(settings))
    producer.produce(model.codes_topic, encode_records(foreign)[0], b"7", 0)
    assert producer.flush(10) == 0
    said = last_words("index", settings, model, tmp_path)
    assert f"{model.codes_topic} holds codes of another model" in said


def test_the_breaker_stops_the_worker_and_commits_nothing(
    settings: Settings, model: Fingerprint, tmp_path: Path
) -> None:
    strict = settings.model_copy(update={"embed": settings.embed.model_copy(update={"breaker_bad_in_a_row": 20})})
    from pinstream.kafka_topics import pins_topics  # noqa: PLC0415 (only here)

    ensure_topics(reachable_admin(settings), pins_topics(settings.topics), settings.topics)
    producer = Producer(client_config(settings))
    for i in range(100):
        producer.produce(settings.topics.pins, b"rubbish", b"%d" % (i + 1))
    assert producer.flush(10) == 0
    said = last_words("embed", strict, model, tmp_path)
    assert "20 records in a row could not be embedded" in said
    from consumers.topic_fold import read_topic  # noqa: PLC0415

    assert len(list(read_topic(settings, settings.topics.dead_letters, 3))) < 20


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["topics", "create"], "no Kafka is known"),
        (["produce", "folder", "/nonexistent-folder"], "no Kafka is known"),
        (["embed"], "no Kafka is known"),
    ],
)
def test_the_command_says_one_sentence(tmp_path: Path, arguments: list[str], named: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pinstream.cli.main", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("pinstream: ")
    assert named in done.stderr
    assert "Traceback" not in done.stderr
