"""The artifact of a training run, from its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from embedder.model.artifact import Artifact
from embedder.model.export import GOLDEN_IMAGES, export_artifact, stretch
from embedder.model.preprocess import prepare
from embedder.model.train import BEST, CHECKPOINT
from embedder.model.train_config import TrainConfig
from embedder.model.unified import UnifiedEmbedding, create_unified
from pinstream.errors import CorruptStateError, FatalError
from pinstream.events import Domain
from producers.world import World
from producers.world.world import MIN_IMAGE_SIZE


def export_run(run: Path, output: Path, *, best: bool = False, metrics: dict[str, float] | None = None) -> Artifact:
    """Write the artifact of the run in `run`. Blocking.

    Args:
        best: the weights of the best evaluation, not the last.
        metrics: for the manifest; None: the run's last evaluation.

    Raises:
        FatalError: the folder holds no run, or `output` is not an empty place.
        CorruptStateError: the checkpoint can't be read.
    """
    state = _load(run / CHECKPOINT)
    config = TrainConfig.model_validate_json(state["config"])
    progress = json.loads(state["progress"])
    weights = _load(run / BEST) if best else state
    network = rebuild(config, weights["network"])
    evaluations = [entry["metrics"] for entry in progress["curves"] if "metrics" in entry]
    found = metrics if metrics is not None else (evaluations[-1] if evaluations else {})
    return export_artifact(
        network,
        output,
        name=config.name,
        backbone=config.backbone,
        preprocessing=stretch(config.input_size),
        training={
            "config": json.loads(state["config"]),
            "steps": weights["step"] if best else progress["step"],
            "torch_version": torch.__version__,
        },
        metrics=found,
        golden_images=_held_out_images(config),
    )


def _held_out_images(config: TrainConfig) -> npt.NDArray[np.uint8] | None:
    """[N, S, S, 3]: held-out products in every domain, as golden inputs; None if the run knows no world."""
    if not config.held_out:
        return None
    part = config.held_out[0]
    world = World(part.seed, part.last, max(config.input_size, MIN_IMAGE_SIZE))
    domains = list(Domain)
    images = [
        world.render_rgb(part.first + i % (part.last - part.first), domains[i % len(domains)], part.first_view).rgb
        for i in range(GOLDEN_IMAGES)
    ]
    return np.stack([prepare(image, stretch(config.input_size)) for image in images])


def rebuild(config: TrainConfig, weights: dict[str, torch.Tensor]) -> UnifiedEmbedding:
    """The network of a configuration with these weights."""
    network = create_unified(config.backbone, bits=config.bits, input_size=config.input_size)
    network.load_state_dict(weights)
    return network


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FatalError(f"{str(file)!r} is missing, expected the folder of a training run")
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CorruptStateError(f"{str(file)!r} can't be read: {error}") from error
    return state
