"""Code lengths of 512 to 4096 bits, and bf16 against fp32 training: quality and speed of the same recipe.

python -m bench.model_variants --steps 600
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from bench.claims import record_claim
from bench.short_training import HELD_OUT, train_and_judge
from embedder.model.command_train import recipe_path
from embedder.model.train_config import TrainConfig, load_train_config
from embedder.model.world_pictures import check_disjoint

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
    found = {}
    for name, change in changes.items():
        config = base.model_copy(update={"steps": options.steps, "held_out": (), **change})
        found[name] = _train(config, options.cache)
        print(name, found[name], flush=True)
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


def _train(config: TrainConfig, cache: Path) -> dict[str, float]:
    found = train_and_judge(config, cache)
    lens = found.evaluation.applications["lens"]
    return {"float": lens["float"]["P@1"], "binary": lens["binary"]["P@1"], "images_per_s": found.images_per_s}


if __name__ == "__main__":
    main()
