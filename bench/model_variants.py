"""Code lengths of 512 to 4096 bits, and bf16 against fp32 training: quality and speed of the same recipe.

python -m bench.model_variants --steps 600
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.claims import record_claim
from embedder.model.command_train import recipe_path
from embedder.model.distributed import Processes
from embedder.model.domains import world_applications
from embedder.model.evaluate import encoder_of, evaluate
from embedder.model.export import stretch
from embedder.model.runs import make_trainer
from embedder.model.train_config import TrainConfig, load_train_config
from embedder.model.world_pictures import WorldPart, check_disjoint, render_world

HELD_OUT = WorldPart(seed=7, last=240, camera_views=2, pin_views=4, product_views=2, scenes=160)
BITS = (512, 1024, 2048, 4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path(".pinstream/pictures"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = load_train_config(recipe_path("default"), cache=options.cache)
    check_disjoint((*base.world, *base.held_out), [HELD_OUT])
    changes: dict[str, dict[str, Any]] = {f"{bits} bits": {"bits": bits} for bits in BITS}
    changes["2048 bits, bf16"] = {"precision": "bf16"}
    found = {
        name: _train(base.model_copy(update={"steps": options.steps, "held_out": (), **change}))
        for name, change in changes.items()
    }
    drops = [arm["float"] - arm["binary"] for arm in found.values()]
    record_claim(
        "model.variants",
        [arm["binary"] for arm in found.values()],
        value=found["2048 bits"]["binary"],
        bar=None,
        better="higher",
        unit="Lens P@1, binary, 2048 bits, after a short training",
        details={"steps": options.steps, "arms": found, "largest_drop": max(drops)},
    )


def _train(config: TrainConfig) -> dict[str, float]:
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(config, Processes(), torch.device("cpu"))
        started_s = time.monotonic()
        trainer.run(Path(folder), validate=None, report=lambda _: None)
    images = config.steps * config.images_per_task * len(config.tasks)
    images_per_s = images / (time.monotonic() - started_s)
    pictures = render_world([HELD_OUT], config.picture_size, config.cache)
    judged = evaluate(encoder_of(trainer.network), stretch(config.input_size), world_applications(pictures))
    lens = judged.applications["lens"]
    return {"float": lens["float"]["P@1"], "binary": lens["binary"]["P@1"], "images_per_s": images_per_s}


if __name__ == "__main__":
    main()
