"""Artifacts of models that were not trained here."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from embedder.model.artifact import Artifact, Preprocessing
from embedder.model.backbone import create_backbone
from embedder.model.export import IMAGENET_MEAN, IMAGENET_STD, export_artifact, import_exported
from embedder.model.unified import UnifiedEmbedding, create_unified
from pinstream.codes import MAX_BITS, MIN_BITS
from pinstream.errors import FatalError


def import_backbone(
    backbone: str, path: Path, *, input_size: int, bits: int, pretrained: bool, weights: Path | None = None
) -> Artifact:
    """`timm:NAME` or `torchvision:NAME` → an artifact. Blocking; fetches weights if `pretrained`.

    Args:
        bits: 0 for the backbone's own width; else a linear layer of fixed random weights makes so many bits (random
            hyperplanes keep angles: more bits, closer to the float ranking).
        weights: the backbone's weights as safetensors; nothing is fetched then.

    Raises:
        FatalError: unknown model, weights that don't fit or can't be fetched, or a width that no code can have.
    """
    torch.manual_seed(0)
    if bits == 0:
        body = create_backbone(backbone, pretrained=pretrained, input_size=input_size)
        bits = _width(body, input_size)
        if not MIN_BITS <= bits <= MAX_BITS or bits % 64:
            raise FatalError(f"{backbone} has {bits} features, which no code has: give --bits {_nearest(bits)}")
        network = UnifiedEmbedding(body, bits, input_size)
    else:
        network = create_unified(backbone, bits=bits, input_size=input_size, pretrained=pretrained)
    if weights is not None:
        _load_weights(network, weights)
    return export_artifact(
        network,
        path,
        name=artifact_name(backbone.partition(":")[2]),
        backbone=backbone,
        preprocessing=centre_crop(input_size),
        training={},
        metrics={},
    )


def import_program(file: Path, path: Path, *, input_size: int) -> Artifact:
    """A `.pt2` of `torch.export.save` → an artifact named after the file. Raises FatalError, CorruptStateError."""
    return import_exported(file, path, name=artifact_name(file.stem), preprocessing=centre_crop(input_size))


def centre_crop(input_size: int) -> Preprocessing:
    """As most image models are evaluated: shorter side to 8/7 of the input, then its centre."""
    return Preprocessing(
        resize="shorter_side",
        resize_size=round(input_size * 8 / 7),
        crop_size=input_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def artifact_name(text: str) -> str:
    """Any text → a name that a manifest may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "model"


def _load_weights(network: UnifiedEmbedding, weights: Path) -> None:
    try:
        missing, _ = network.backbone.load_state_dict(load_file(weights), strict=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise FatalError(f"weights {str(weights)!r} can't be loaded: {error}") from error
    if missing:
        raise FatalError(f"weights {str(weights)!r} lack {len(missing)} tensors, the first is {missing[0]!r}")


def _width(backbone: torch.nn.Module, input_size: int) -> int:
    backbone.eval()
    with torch.no_grad():
        return int(backbone(torch.zeros(1, 3, input_size, input_size)).shape[1])


def _nearest(width: int) -> int:
    return min(MAX_BITS, max(MIN_BITS, -(-width // 64) * 64))
