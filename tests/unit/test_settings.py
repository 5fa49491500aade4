"""Settings: where they come from, and that a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinstream.errors import FatalError
from pinstream.settings import load_settings


def test_environment_variables_nest_by_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINSTREAM_EMBED__MAX_BATCH_SIZE", "64")
    monkeypatch.setenv("PINSTREAM_KAFKA__LIBRDKAFKA", '{"security.protocol": "SASL_SSL"}')
    settings = load_settings()
    assert settings.embed.max_batch_size == 64
    assert settings.kafka.librdkafka == {"security.protocol": "SASL_SSL"}


def test_a_file_is_read_and_the_environment_is_stronger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "pinstream.toml"
    path.write_text("[topics]\npartitions = 16\nreplication_factor = 3\n")
    monkeypatch.setenv("PINSTREAM_CONFIG", str(path))
    monkeypatch.setenv("PINSTREAM_TOPICS__PARTITIONS", "8")
    settings = load_settings()
    assert (settings.topics.partitions, settings.topics.replication_factor) == (8, 3)


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("PINSTREAM_KAFKA__LIBRDKAFKA", '{"enable.auto.commit": "true"}', "enable.auto.commit is owned by pinstream"),
        ("PINSTREAM_KAFKA__LIBRDKAFKA", '{"group.id": "x"}', "set embed.group_id"),
        ("PINSTREAM_TOPICS__PARTITIONS", "0", "topics.partitions"),
        ("PINSTREAM_TOPICS__PARTITION", "4", "partition"),
        ("PINSTREAM_EMBD__DEVICE", "cpu", "PINSTREAM_EMBD__DEVICE"),
        ("PINSTREAM_CONFIG", "/nonexistent.toml", "expected a TOML file"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(FatalError, match=named):
        load_settings()


def test_a_broken_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[topics\n")
    monkeypatch.setenv("PINSTREAM_CONFIG", str(path))
    with pytest.raises(FatalError, match="can't be read"):
        load_settings()
