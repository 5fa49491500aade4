"""`pinstream snapshot` on a real topic: what an operator types, and what is said when it can't be done."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from embedder.model.artifact import Artifact, default_artifact_path, load_artifact
from index_sync.checkpoint import ShardIdentity
from index_sync.code_batch import build_code_batch
from index_sync.offline_shard import build_snapshot, compare_with_topic
from index_sync.upkeep import HostedShard
from pinstream.cli.main import main
from pinstream.clock import SystemClock
from pinstream.codes import Fingerprint
from pinstream.settings import Settings
from tests.code_topic import CodeTopic
from tests.conftest import wait_for
from tests.light_worker import BITS
from tests.pipeline import running

pytestmark = pytest.mark.kafka


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def one(settings: Settings) -> Settings:
    """A topic of one partition."""
    return settings.model_copy(update={"topics": settings.topics.model_copy(update={"partitions": 1})})


@pytest.fixture
def pinstream(
    one: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Runs `pinstream snapshot …` with the test's settings."""
    for name, value in one.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["pinstream", "snapshot", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return run


@pytest.fixture
def topic(one: Settings, model: Fingerprint) -> CodeTopic:
    made = CodeTopic(one, model, BITS)
    made.send(400)
    return made


@pytest.fixture
def shard(model: Fingerprint) -> ShardIdentity:
    return ShardIdentity(topic=model.codes_topic, partition=0, partitions=1, bits=BITS, model=model.hex)


@pytest.fixture
def artifact(model: Fingerprint, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """The one that ships, under the test's own fingerprint and so with a topic of its own."""
    found = replace(load_artifact(default_artifact_path()), fingerprint=model)
    monkeypatch.setattr("embedder.model.artifact.load_artifact", lambda _: found)
    return found


def folder(tmp_path: Path, shard: ShardIdentity) -> Path:
    return tmp_path / "snapshots" / shard.topic / "00000"


def living(settings: Settings, shard: ShardIdentity) -> list[int]:
    ids: list[int] = HostedShard(settings, shard, SystemClock()).shard.view().ids().tolist()
    return ids


def test_create_folds_the_topic_to_its_end(
    one: Settings, pinstream: Callable[..., Said], model: Fingerprint, artifact: Artifact
) -> None:
    topic = CodeTopic(one, model, artifact.bits)
    topic.send(300)
    said = pinstream("create", "--partition", "0")
    assert said.code == 0, said.err
    assert f"snapshot 1 of {topic.topic}/0: {len(topic.living)} Pins, checkpoint 300" in said.out
    topic.send(50)
    assert "snapshot 2" in pinstream("create").out
    assert "whole, equal to the topic" in pinstream("verify", "--deep").out
    said = pinstream("create", "--partition", "1")
    assert said.code == 1
    assert said.err == "pinstream: --partition is 1, expected 0 to 0 (topics.partitions is 1)\n"


def test_list_shows_what_is_there_and_what_is_missing(
    one: Settings, pinstream: Callable[..., Said], topic: CodeTopic, shard: ShardIdentity, tmp_path: Path
) -> None:
    said = pinstream("list")
    assert said.code == 1
    assert "there are no snapshots in file://" in said.err
    for _ in range(2):
        topic.send(40)
        manifest = build_snapshot(one, shard, SystemClock())
    said = pinstream("list")
    assert said.code == 0
    heads, newest, older = (line.split() for line in said.out.splitlines())
    assert heads == ["model", "partition", "snapshot", "checkpoint", "age", "Pins", "segments", "size", "whole"]
    assert newest[:4] == [shard.topic.rpartition(".")[2], "0", "2", "480"]
    assert (newest[5], newest[-1], older[2]) == (str(len(topic.living)), "yes", "1")
    (folder(tmp_path, shard) / f"{manifest.state.sha256}.state").unlink()
    said = pinstream("list", "--topic", shard.topic, "--partition", "0")
    assert f"no: {manifest.state.sha256[:12]}….state is missing" in said.out
    assert pinstream("list", "--partition", "3").code == 1


def test_verify_reads_every_byte_and_compares_with_the_topic(
    one: Settings, pinstream: Callable[..., Said], topic: CodeTopic, shard: ShardIdentity, tmp_path: Path
) -> None:
    build_snapshot(one, shard, SystemClock())
    topic.send(100)
    newest = build_snapshot(one, shard, SystemClock())
    topic.send(100)
    said = pinstream("verify", "--deep")
    assert said.code == 0, said.err
    assert said.out.count("whole, equal to the topic") == 2
    path = folder(tmp_path, shard) / f"{newest.state.sha256}.state"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    said = pinstream("verify")
    assert said.code == 1
    assert f"snapshot 2 of {shard.name}: snapshot file {newest.state.sha256}.state has SHA-256" in said.out
    assert f"snapshot 1 of {shard.name}: whole\n" in said.out
    assert said.err.startswith("pinstream: 1 of 2 snapshots can't be trusted")
    assert pinstream("verify", "--number", "1").code == 0
    assert "there is no snapshot 9; found 2, 1" in pinstream("verify", "--number", "9").err


def test_verify_deep_finds_what_no_checksum_can(
    one: Settings, pinstream: Callable[..., Said], topic: CodeTopic, shard: ShardIdentity
) -> None:
    """A shard that slept through some records was saved with every checksum right."""
    build_snapshot(one, shard, SystemClock())
    wrong = HostedShard(one, shard, SystemClock())
    held = {
        int(i): int(offset) for rows in wrong.shard.view().items() for i, offset in zip(*rows.columns[:2], strict=True)
    }
    topic.send(60)
    nothing, _ = build_code_batch([], shard.bits, Fingerprint(shard.model), next_offset=topic.end)
    wrong.shard.apply(nothing)
    wrong.publish()
    assert pinstream("verify").code == 0
    said = pinstream("verify", "--deep", "--number", "2")
    assert said.code == 1
    true = {pin_id: offset for pin_id, (offset, _, _) in topic.living.items()}
    ghosts = held.keys() - true.keys()
    missing = true.keys() - held.keys()
    stale = {pin_id for pin_id in held.keys() & true.keys() if held[pin_id] != true[pin_id]}
    assert ghosts and missing and stale
    assert f"{len(ghosts | missing | stale)} differences in {len(true)} Pins" in said.out
    _, found = compare_with_topic(one, shard, wrong.shard.capture().state())
    expected = [f"Pin {i} is held at source offset {held[i]}, expected none: a ghost" for i in ghosts]
    expected += [f"Pin {i} is held at source offset {held[i]}, expected {true[i]}: stale" for i in stale]
    expected += [f"Pin {i} is missing, expected at source offset {true[i]}" for i in missing]
    assert sorted(found) == sorted(expected)


def test_restore_makes_an_older_snapshot_the_newest(
    one: Settings, pinstream: Callable[..., Said], topic: CodeTopic, shard: ShardIdentity
) -> None:
    old = build_snapshot(one, shard, SystemClock())
    held = living(one, shard)
    topic.send(200)
    build_snapshot(one, shard, SystemClock())
    assert living(one, shard) != held
    said = pinstream("restore", "--partition", "0", "--number", "1")
    assert said.code == 0, said.err
    assert said.out == f"snapshot 1 of {shard.name} is snapshot 3 now the newest, checkpoint {old.checkpoint}\n"
    assert living(one, shard) == held
    assert "whole, equal to the topic" in pinstream("verify", "--deep", "--number", "3").out
    said = pinstream("restore", "--number", "7")
    assert (said.code, said.err) == (1, "pinstream: there is no snapshot 7; found 3, 2, 1\n")


def test_restore_copies_to_another_folder_and_back(
    one: Settings, pinstream: Callable[..., Said], topic: CodeTopic, shard: ShardIdentity, tmp_path: Path
) -> None:
    build_snapshot(one, shard, SystemClock())
    held = living(one, shard)
    backup = (tmp_path / "backup").as_uri()
    assert f"is snapshot 1 in {backup}" in pinstream("restore", "--to", backup).out
    for path in folder(tmp_path, shard).iterdir():
        path.unlink()
    assert living(one, shard) == []
    assert "whole, equal to the topic" in pinstream("verify", "--url", backup, "--deep").out
    assert pinstream("restore", "--url", backup, "--to", one.snapshot_url).code == 0
    assert living(one, shard) == held


def test_a_damaged_snapshot_is_not_restored(
    one: Settings, pinstream: Callable[..., Said], topic: CodeTopic, shard: ShardIdentity, tmp_path: Path
) -> None:
    manifest = build_snapshot(one, shard, SystemClock())
    path = folder(tmp_path, shard) / f"{manifest.state.sha256}.state"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    said = pinstream("restore")
    assert said.code == 1
    assert f"snapshot 1 of {shard.name} can't be restored: snapshot file" in said.err
    os.truncate(path, 10)
    assert "there is no whole snapshot; found 1" in pinstream("restore").err
    assert len(list(folder(tmp_path, shard).glob("manifest-*"))) == 1


def test_a_running_worker_is_left_alone(
    settings: Settings, pinstream: Callable[..., Said], model: Fingerprint, artifact: Artifact
) -> None:
    group = json.loads(settings.environment()["PINSTREAM_INDEX"])["instance_id"]
    with running(settings, model) as pipeline:
        shard = ShardIdentity(topic=model.codes_topic, partition=0, partitions=3, bits=BITS, model=model.hex)
        pipeline.settle()
        build_snapshot(settings, shard, SystemClock())
        for arguments in (("create", "--partition", "0"), ("restore", "--partition", "0")):
            said = pinstream(*arguments)
            assert said.code == 1
            assert f"partition 0 of {model.codes_topic} belongs to a running index worker" in said.err
            assert group in said.err
            assert "stop it first" in said.err
    wait_for(lambda: pinstream("restore", "--partition", "0").code == 0, "restored without the worker")
