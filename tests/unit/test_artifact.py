"""A model artifact is taken whole and unchanged, or refused with the file that differs."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedder.model.artifact import (
    GOLDEN,
    MANIFEST,
    PROGRAM,
    WEIGHTS,
    canonical_json,
    compute_fingerprint,
    default_artifact_path,
    load_artifact,
)
from pinstream.errors import CorruptStateError, FatalError

FILES = (MANIFEST, WEIGHTS, PROGRAM, GOLDEN)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    shutil.copytree(default_artifact_path(), folder)
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    """Change the manifest as someone would who also mends its checksum."""
    fields = json.loads((folder / MANIFEST).read_text())
    fields.update(changes)
    del fields["checksum"]
    fields["checksum"] = hashlib.sha256(canonical_json(fields)).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(fields))


def test_the_default_is_small_and_whole() -> None:
    artifact = load_artifact(default_artifact_path())
    assert artifact.bits == 2048
    assert artifact.golden_codes.shape == (len(artifact.golden_images), 256)
    assert sum(file.stat().st_size for file in artifact.path.iterdir()) <= 10_000_000


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.001, 0.3, 0.97])
def test_a_flipped_bit_is_refused_and_its_file_named(copy: Path, name: str, place: float) -> None:
    raw = bytearray((copy / name).read_bytes())
    raw[int(place * len(raw))] ^= 1
    (copy / name).write_bytes(raw)
    with pytest.raises(CorruptStateError, match=name):
        load_artifact(copy)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_short_or_missing_file_is_named(copy: Path, name: str) -> None:
    raw = (copy / name).read_bytes()
    (copy / name).write_bytes(raw[:-1])
    with pytest.raises(CorruptStateError, match=name):
        load_artifact(copy)
    (copy / name).unlink()
    with pytest.raises(CorruptStateError, match=name):
        load_artifact(copy)


def test_no_artifact_says_what_to_correct(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"no manifest.json.*model_path"):
        load_artifact(tmp_path / "nowhere")


def test_a_file_that_is_a_link_is_refused(copy: Path) -> None:
    (copy / WEIGHTS).rename(copy / "elsewhere")
    (copy / WEIGHTS).symlink_to(copy / "elsewhere")
    with pytest.raises(CorruptStateError, match="not a plain file"):
        load_artifact(copy)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "model.bin"])
def test_a_manifest_can_name_no_other_file(copy: Path, path: str) -> None:
    fields = json.loads((copy / MANIFEST).read_text())
    rewrite(copy, files={**fields["files"], path: fields["files"][WEIGHTS]})
    with pytest.raises(CorruptStateError, match=MANIFEST):
        load_artifact(copy)


@pytest.mark.parametrize(
    "changes",
    [{"bits": 100}, {"input_size": 128}, {"unknown": 1}, {"name": "../x"}, {"files": {}}, {"bits": "2048; drop"}],
)
def test_a_manifest_that_makes_no_sense_is_refused(copy: Path, changes: dict[str, object]) -> None:
    rewrite(copy, **changes)
    with pytest.raises((CorruptStateError, FatalError)):
        load_artifact(copy)


def test_another_format_version_asks_for_an_update(copy: Path) -> None:
    rewrite(copy, format_version=2)
    with pytest.raises(FatalError, match="update pinstream"):
        load_artifact(copy)


def test_other_preprocessing_is_another_model(copy: Path) -> None:
    preprocessing = json.loads((copy / MANIFEST).read_text())["preprocessing"]
    rewrite(copy, preprocessing={**preprocessing, "mean": [0.5, 0.5, 0.5]})
    with pytest.raises(CorruptStateError, match="fingerprint"):
        load_artifact(copy)


def test_the_fingerprint_covers_names_shapes_and_values_but_not_order() -> None:
    preprocessing = load_artifact(default_artifact_path()).manifest.preprocessing
    one, two = np.arange(6, dtype=np.float32), np.ones(2, np.float32)

    def of(**tensors: np.ndarray) -> str:  # type: ignore[type-arg]  # any array
        return compute_fingerprint(256, preprocessing, tensors, b"program").hex

    base = of(a=one, b=two)
    assert base == of(b=two, a=one)
    others = [of(a=one, c=two), of(a=one.reshape(2, 3), b=two), of(a=one + 1, b=two), of(a=one.astype("f8"), b=two)]
    assert len({base, *others}) == 5
