"""A model on disk: a folder of four files, checked byte by byte before anything of it is used.

    manifest.json               what the model is, and the size and SHA-256 of the other files
    model.safetensors           every parameter and buffer
    program.pt2                 the network as a `torch.export` program without its weights (see `program.py`)
    golden_inputs.safetensors   `images` uint8 [N, S, S, 3] and the `codes` uint8 [N, W] that they must give

Reading an artifact needs neither torch nor pickle. Shapes: S = input size, W = bits / 8.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from pinstream.codes import Fingerprint, check_bits
from pinstream.errors import CorruptStateError, FatalError

MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "model.safetensors"
PROGRAM: Final = "program.pt2"
GOLDEN: Final = "golden_inputs.safetensors"
MAX_BYTES: Final = {MANIFEST: 1 << 20, WEIGHTS: 4 << 30, PROGRAM: 64 << 20, GOLDEN: 64 << 20}
"""Largest size of each file; a larger one is refused before it is read."""
MAX_INPUT_SIZE: Final = 1024

Tensors = dict[str, npt.NDArray[Any]]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Preprocessing(_Part):
    """From an RGB image of any size to the network's input; `preprocess.prepare` does the first half, on uint8.

    The second half is `(x / 255 − mean) / std` per channel.
    """

    resize: Literal["stretch", "shorter_side"]
    """`stretch`: to `resize_size` × `resize_size`. `shorter_side`: keep the aspect, then crop the centre."""
    resize_size: int = Field(ge=16, le=MAX_INPUT_SIZE)
    crop_size: int = Field(ge=16, le=MAX_INPUT_SIZE)
    """Side of the centre crop; equal to `resize_size` when nothing is cut off."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="after")
    def _possible(self) -> Preprocessing:
        if self.crop_size > self.resize_size:
            raise ValueError(f"crop_size is {self.crop_size}, expected at most resize_size, {self.resize_size}")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}, expected positive numbers")
        return self


class Architecture(_Part):
    """For people, and to continue training; what runs is the program."""

    backbone: str = Field(max_length=200)
    """A name of ours, `timm:NAME`, `torchvision:NAME`, or `exported` for a program brought from outside."""
    feature_dims: int = Field(ge=1, le=65_536)
    """Width of the pooled features; a linear layer follows where it differs from `bits`."""


class StoredFile(_Part):
    size: int = Field(ge=1)
    sha256: _Digest


class Exported(_Part):
    """Where the golden codes were computed: there, fp32 must reproduce every bit."""

    device: str = Field(max_length=200)
    torch_version: str = Field(max_length=100)


class Manifest(_Part):
    format_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    bits: int
    input_size: int = Field(ge=16, le=MAX_INPUT_SIZE)
    preprocessing: Preprocessing
    architecture: Architecture
    exported: Exported
    training: dict[str, Any]
    """Provenance: configuration, data seed, step count; empty for an imported model."""
    metrics: dict[str, float]
    """On held-out data, by `application.metric`."""
    files: dict[Literal["model.safetensors", "program.pt2", "golden_inputs.safetensors"], StoredFile]
    fingerprint: _Digest
    checksum: _Digest
    """SHA-256 of this manifest's canonical JSON without this field."""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        check_bits(self.bits)
        if self.preprocessing.crop_size != self.input_size:
            raise ValueError(
                f"preprocessing gives {self.preprocessing.crop_size} pixels, expected input_size, {self.input_size}"
            )
        if missing := {WEIGHTS, PROGRAM, GOLDEN} - set(self.files):
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")
        return self


@dataclass(frozen=True, eq=False)
class Artifact:
    """A model whose every byte has been checked. Immutable by agreement: nobody writes to the arrays."""

    path: Path
    manifest: Manifest
    fingerprint: Fingerprint
    tensors: Tensors
    """The weights, by parameter and buffer name."""
    program: bytes
    """The bytes of `program.pt2`; only `program.load_program` may open them."""
    golden_images: npt.NDArray[np.uint8]
    """[N, S, S, 3]"""
    golden_codes: npt.NDArray[np.uint8]
    """[N, W]"""

    @property
    def bits(self) -> int:
        return self.manifest.bits

    @property
    def input_size(self) -> int:
        return self.manifest.input_size


@dataclass(frozen=True, eq=False)
class NewArtifact:
    """What `write_artifact` needs beside the golden codes' consistency, which its caller vouches for."""

    name: str
    bits: int
    preprocessing: Preprocessing
    architecture: Architecture
    exported: Exported
    training: dict[str, Any]
    metrics: dict[str, float]
    tensors: Tensors
    program: bytes
    golden_images: npt.NDArray[np.uint8]
    golden_codes: npt.NDArray[np.uint8]


def default_artifact_path() -> Path:
    """Folder of the artifact that ships with pinstream."""
    return Path(str(resources.files("embedder.model").joinpath("default")))


def load_artifact(path: Path) -> Artifact:
    """Read and check a model. Blocking: reads and hashes every byte (~0.05 s for the default); thread-safe.

    Raises:
        FatalError: there is no artifact at `path`, or its format is of another version.
        CorruptStateError: a file is missing, differs from its checksum, is too large or malformed. It is named.
    """
    if not (path / MANIFEST).exists():
        raise FatalError(f"model path {str(path)!r} has no {MANIFEST}, expected an artifact folder: correct model_path")
    manifest = _read_manifest(path)
    raw = {name: _read_checked(path, name, entry) for name, entry in manifest.files.items()}
    tensors = _tensors(path / WEIGHTS, raw[WEIGHTS])
    golden = _tensors(path / GOLDEN, raw[GOLDEN])
    found = compute_fingerprint(manifest.bits, manifest.preprocessing, tensors, raw[PROGRAM])
    if found.hex != manifest.fingerprint:
        raise CorruptStateError(
            f"{path / MANIFEST} says fingerprint {manifest.fingerprint[:12]} and the model's is {found.short}: "
            "fetch the artifact again"
        )
    images, codes = _golden(path, manifest, golden)
    return Artifact(path, manifest, found, tensors, raw[PROGRAM], images, codes)


def write_artifact(path: Path, new: NewArtifact) -> Artifact:
    """Write the folder, the manifest last, and read it back. Blocking.

    Raises:
        FatalError: `path` exists and is not empty.
    """
    if path.exists() and any(path.iterdir()):
        raise FatalError(f"output folder {str(path)!r} is not empty, expected a new one: remove it or choose another")
    path.mkdir(parents=True, exist_ok=True)
    contents = {
        WEIGHTS: save_safetensors({name: np.asarray(array, order="C") for name, array in new.tensors.items()}),
        PROGRAM: new.program,
        GOLDEN: save_safetensors({"images": new.golden_images, "codes": new.golden_codes}),
    }
    for name, content in contents.items():
        (path / name).write_bytes(content)
    fields: dict[str, Any] = {
        "format_version": 1,
        "name": new.name,
        "bits": new.bits,
        "input_size": new.preprocessing.crop_size,
        "preprocessing": new.preprocessing.model_dump(mode="json"),
        "architecture": new.architecture.model_dump(mode="json"),
        "exported": new.exported.model_dump(mode="json"),
        "training": new.training,
        "metrics": new.metrics,
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
        "fingerprint": compute_fingerprint(new.bits, new.preprocessing, new.tensors, new.program).hex,
    }
    fields["checksum"] = hashlib.sha256(canonical_json(fields)).hexdigest()
    (path / MANIFEST).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    return load_artifact(path)


def compute_fingerprint(
    bits: int, preprocessing: Preprocessing, tensors: Mapping[str, npt.NDArray[Any]], program: bytes
) -> Fingerprint:
    """SHA-256 over everything that decides a code, and nothing else (name, metrics and golden inputs are left out).

    Hashed: the canonical JSON of bits, preprocessing and the SHA-256 of the program, then for each tensor in the
    order of names the canonical JSON of [name, dtype, shape] and its bytes (C order, little endian); a line feed
    after each JSON.
    """
    head = {
        "bits": bits,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "program": hashlib.sha256(program).hexdigest(),
    }
    digest = hashlib.sha256(canonical_json(head) + b"\n")
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(canonical_json([name, array.dtype.newbyteorder("<").str, list(array.shape)]) + b"\n")
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return Fingerprint(digest.hexdigest())


def canonical_json(value: Any) -> bytes:
    """The one way to write a JSON value as bytes here: sorted keys, no blanks, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _read_manifest(path: Path) -> Manifest:
    raw = _read_limited(path, MANIFEST)
    try:
        fields = json.loads(raw)
        if isinstance(fields, dict) and fields.get("format_version") not in (None, 1):
            raise FatalError(
                f"{path / MANIFEST} has format_version {fields['format_version']!r}, expected 1: update pinstream"
            )
        manifest = Manifest.model_validate(fields)
    except (ValueError, RecursionError, ValidationError) as error:
        reason = str(error).splitlines()[0:3]
        raise CorruptStateError(f"{path / MANIFEST} is not a model manifest: {' '.join(reason)}") from error
    del fields["checksum"]
    if hashlib.sha256(canonical_json(fields)).hexdigest() != manifest.checksum:
        raise CorruptStateError(f"{path / MANIFEST} differs from its own checksum: fetch the artifact again")
    return manifest


def _read_checked(path: Path, name: str, entry: StoredFile) -> bytes:
    raw = _read_limited(path, name)
    if len(raw) != entry.size:
        raise CorruptStateError(f"{path / name} has {len(raw)} bytes, expected {entry.size}: fetch the artifact again")
    found = hashlib.sha256(raw).hexdigest()
    if found != entry.sha256:
        raise CorruptStateError(
            f"{path / name} has SHA-256 {found[:12]}…, expected {entry.sha256[:12]}…: fetch the artifact again"
        )
    return raw


def _read_limited(path: Path, name: str) -> bytes:
    """The whole file, if it is a plain one and not larger than the format allows."""
    file = path / name
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise CorruptStateError(f"{file} is not a plain file: fetch the artifact again")
        if status.st_size > MAX_BYTES[name]:
            raise CorruptStateError(f"{file} has {status.st_size} bytes, expected at most {MAX_BYTES[name]}")
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES[name] + 1)
    except OSError as error:
        raise CorruptStateError(f"{file} can't be read: {error.strerror}") from error


def _tensors(file: Path, raw: bytes) -> Tensors:
    try:
        tensors: Tensors = load_safetensors(raw)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CorruptStateError(f"{file} is not a safetensors file of plain types: {error}") from error
    return tensors


def _golden(path: Path, manifest: Manifest, golden: Tensors) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    size = manifest.input_size
    images, codes = golden.get("images"), golden.get("codes")
    if images is None or codes is None or images.dtype != np.uint8 or codes.dtype != np.uint8 or not len(images):
        raise CorruptStateError(f"{path / GOLDEN} lacks uint8 images and codes: fetch the artifact again")
    if images.shape[1:] != (size, size, 3) or codes.shape != (len(images), manifest.bits // 8):
        raise CorruptStateError(
            f"{path / GOLDEN} has images {images.shape} and codes {codes.shape}, expected [N, {size}, {size}, 3] "
            f"and [N, {manifest.bits // 8}]"
        )
    return images, codes
