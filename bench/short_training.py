"""A training that lasts minutes and is judged on products that no training sees."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from embedder.model.distributed import Processes
from embedder.model.domains import world_applications
from embedder.model.evaluate import Evaluation, encoder_of, evaluate
from embedder.model.export import stretch
from embedder.model.runs import make_trainer
from embedder.model.train_config import TrainConfig
from embedder.model.world_pictures import WorldPart, render_world

HELD_OUT: Final = WorldPart(seed=7, last=240, camera_views=2, pin_views=4, product_views=2, scenes=160)


@dataclass(frozen=True, slots=True)
class Judged:
    evaluation: Evaluation
    """On `HELD_OUT`."""
    images_per_s: float
    """Of the training, all of it."""


def train_and_judge(config: TrainConfig, cache: Path) -> Judged:
    """Train on the CPU as configured, keep nothing on disk. Blocks for all of it."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, Processes(), torch.device("cpu"))
        started_s = time.monotonic()
        trainer.run(Path(folder), validate=None, report=lambda _: None)
        seconds = time.monotonic() - started_s
    pictures = render_world([HELD_OUT], config.picture_size, cache)
    judged = evaluate(encoder_of(trainer.network), stretch(config.input_size), world_applications(pictures))
    return Judged(judged, config.steps * config.images_per_task * len(config.tasks) / seconds)
