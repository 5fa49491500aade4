"""A trained network → an artifact: program, weights, golden inputs and their codes.

Shapes: N golden images, S pixels, W = bits / 8.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import platform
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from embedder.model.artifact import (
    Architecture,
    Artifact,
    Exported,
    NewArtifact,
    Preprocessing,
    Tensors,
    compute_fingerprint,
    write_artifact,
)
from embedder.model.program import load_program, read_members, read_payload
from embedder.model.unified import UnifiedEmbedding
from pinstream.errors import FatalError

GOLDEN_IMAGES: Final = 16
MAX_EXPORT_BATCH: Final = 4096
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_ARCHIVE_TIME: Final = (1980, 1, 1, 0, 0, 0)


def stretch(input_size: int) -> Preprocessing:
    """The preprocessing of models trained here: the whole image or box, stretched to the input square."""
    return Preprocessing(
        resize="stretch", resize_size=input_size, crop_size=input_size, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def export_artifact(
    network: UnifiedEmbedding,
    path: Path,
    *,
    name: str,
    backbone: str,
    preprocessing: Preprocessing,
    training: dict[str, Any],
    metrics: dict[str, float],
    golden_images: npt.NDArray[np.uint8] | None = None,
) -> Artifact:
    """Write `network` as an artifact and read it back. Blocking (~10 s: `torch.export` traces the network).

    Args:
        golden_images: uint8 [N, S, S, 3]; None: drawn from a fixed seed.

    Raises:
        FatalError: the network can't be exported, or `path` is not an empty place.
    """
    network = copy.deepcopy(network).cpu().float().eval()
    network.fuse()
    program, tensors = trace(network, network.input_size)
    return _write(
        path,
        program=program,
        tensors=tensors,
        name=name,
        bits=network.bits,
        preprocessing=preprocessing,
        architecture=Architecture(backbone=backbone, feature_dims=network.feature_dims),
        training=training,
        metrics=metrics,
        golden_images=generated_golden(network.input_size) if golden_images is None else golden_images,
    )


def import_exported(file: Path, path: Path, *, name: str, preprocessing: Preprocessing) -> Artifact:
    """A `.pt2` from `torch.export.save` elsewhere → an artifact. Pickled members are neither read nor kept.

    The program takes float32 [B, 3, S, S], normalized as `preprocessing` says, with a dynamic B, and returns [B, D].

    Raises:
        FatalError: no such file, or its output has no length that codes can have.
        CorruptStateError: it is not a program of plain tensors and ATen operators.
    """
    if not file.is_file():
        raise FatalError(f"--exported is {str(file)!r}, expected a .pt2 file of torch.export.save")
    members = read_members(file.read_bytes())
    config = json.loads(members["data/weights/model_weights_config.json"])["config"]
    tensors = {key: read_payload(key, entry, "weights", members) for key, entry in config.items()}
    program = strip(members)
    network = load_program(program, tensors).eval()
    with torch.inference_mode():
        shape = network(torch.zeros(2, 3, preprocessing.crop_size, preprocessing.crop_size)).shape
    if len(shape) != 2:
        raise FatalError(f"{str(file)!r} returns shape {list(shape)}, expected [B, bits]")
    return _write(
        path,
        program=program,
        tensors=tensors,
        name=name,
        bits=shape[1],
        preprocessing=preprocessing,
        architecture=Architecture(backbone="exported", feature_dims=shape[1]),
        training={},
        metrics={},
        golden_images=generated_golden(preprocessing.crop_size),
    )


def trace(network: nn.Module, input_size: int) -> tuple[bytes, Tensors]:
    """A network in eval mode → the bytes of `program.pt2` and its weights by name.

    Raises:
        FatalError: `torch.export` can't trace it with a dynamic batch.
    """
    example = torch.zeros(2, 3, input_size, input_size)
    batch = torch.export.Dim("batch", min=1, max=MAX_EXPORT_BATCH)
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    buffer = io.BytesIO()
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
        torch.export.save(program, buffer)
    except Exception as error:  # tracing raises whatever the traced network raises
        raise FatalError(f"the network can't be exported with a dynamic batch: {error}") from error
    members = read_members(buffer.getvalue())
    config = json.loads(members["data/weights/model_weights_config.json"])["config"]
    tensors = {name: read_payload(name, entry, "weights", members) for name, entry in config.items()}
    return strip(members), tensors


def strip(members: dict[str, bytes]) -> bytes:
    """The archive again, with no weights, no sample inputs and no traces of the machine; the same bytes every time.

    `torch.export.load` still opens it: an empty weight reads as zeros there.
    """
    model = json.loads(members["models/model.json"])
    for node in model["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    contents = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        ".data/version": b"6\n",
        "models/model.json": json.dumps(model, separators=(",", ":")).encode(),
        "data/sample_inputs/model.pt": b"",
        "data/weights/model_weights_config.json": members["data/weights/model_weights_config.json"],
    }
    for name, content in sorted(members.items()):
        if name.startswith("data/constants/"):
            contents[name] = content
        elif name.startswith("data/weights/weight_"):
            contents[name] = b""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(f"program/{name}", _ARCHIVE_TIME), content)
    return buffer.getvalue()


def generated_golden(input_size: int) -> npt.NDArray[np.uint8]:
    """[N, S, S, 3] of smooth random colours and edges, the same for everyone."""
    random = np.random.default_rng(20_260_101)
    coarse = random.uniform(0, 255, (GOLDEN_IMAGES, 8, 8, 3))
    fine = np.repeat(np.repeat(coarse, -(-input_size // 8), 1), -(-input_size // 8), 2)[:, :input_size, :input_size]
    noise = random.normal(0, 12, fine.shape)
    return np.clip(fine + noise, 0, 255).astype(np.uint8)


def device_name() -> str:
    """The processor's architecture, as manifests name it."""
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _write(
    path: Path,
    *,
    program: bytes,
    tensors: Tensors,
    name: str,
    bits: int,
    preprocessing: Preprocessing,
    architecture: Architecture,
    training: dict[str, Any],
    metrics: dict[str, float],
    golden_images: npt.NDArray[np.uint8],
) -> Artifact:
    from embedder.torch_encoder import TorchEncoder  # noqa: PLC0415  # it reads artifacts, and here one is being made

    fingerprint = compute_fingerprint(bits, preprocessing, tensors, program)
    encoder = TorchEncoder.of_program(
        load_program(program, tensors),
        bits=bits,
        preprocessing=preprocessing,
        fingerprint=fingerprint,
        device="cpu",
        max_batch_size=len(golden_images),
    )
    new = NewArtifact(
        name=name,
        bits=bits,
        preprocessing=preprocessing,
        architecture=architecture,
        exported=Exported(device=device_name(), torch_version=torch.__version__),
        training=training,
        metrics=metrics,
        tensors=tensors,
        program=program,
        golden_images=golden_images,
        golden_codes=encoder.encode(golden_images),
    )
    return write_artifact(path, new)
