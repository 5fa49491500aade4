"""A tiny data set and a configuration that trains on it in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embedder.model.train_config import TrainConfig


def write_shapes(root: Path, classes: int = 8, images: int = 5) -> Path:
    """An ImageFolder: each class has its own colours and stripes, each image its own noise."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        colours = rng.uniform(0, 255, (2, 3))
        period = int(rng.integers(3, 9))
        (root / f"class-{number}").mkdir(parents=True)
        for image in range(images):
            stripes = (np.arange(48) // period % 2)[:, None, None]
            pixels = np.where(stripes, colours[0], colours[1]) + rng.normal(0, 20, (48, 48, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / f"class-{number}" / f"{image}.png")
    return root


def tiny_config(data: Path, cache: Path, **changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "name": "tiny",
        "bits": 256,
        "input_size": 32,
        "picture_size": 40,
        "cache": cache,
        "seed": 3,
        "steps": 8,
        "images_per_task": 8,
        "per_class": 2,
        "warmup_steps": 2,
        "checkpoint_every": 2,
        "evaluate_every": 4,
        "tasks": [
            {"name": "one", "reader": "imagefolder", "path": data},
            {"name": "two", "reader": "imagefolder", "path": data},
        ],
        **changes,
    }
    return TrainConfig.model_validate(fields)
