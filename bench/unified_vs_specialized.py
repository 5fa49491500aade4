"""The paper's claim as an experiment: one unified embedding against three specialized ones of the same backbone.

A specialized model sees N images of its application. The unified one sees 3N in all (the same cost as the three
together), and, as a second arm, N. All are judged on the same held-out products, several seeds each.

    python -m bench.unified_vs_specialized --steps 300 --seeds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bench.claims import record_claim
from bench.short_training import HELD_OUT, train_and_judge
from embedder.model.command_train import recipe_path
from embedder.model.evaluate import Evaluation
from embedder.model.train_config import TrainConfig, load_train_config
from embedder.model.world_pictures import check_disjoint

APPLICATIONS = ("flashlight", "lens", "shop_the_look")
BATCH = 96
INPUT_SIZE = 80


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    base = load_train_config(recipe_path("default"), cache=options.cache)
    check_disjoint(base.world, [HELD_OUT])
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for arm, config in arms(base, options.steps, seed):
            started_s = time.monotonic()
            p1 = p_at_1(train_and_judge(config, options.cache).evaluation)
            found.setdefault(arm, []).append(p1)
            print(f"seed {seed} {arm}: {json.dumps(p1)} in {time.monotonic() - started_s:.0f} s", flush=True)
    summarize(found, options.steps)


def arms(base: TrainConfig, steps: int, seed: int) -> list[tuple[str, TrainConfig]]:
    """Name and configuration of every model of a seed; N = steps × BATCH images."""

    def config(names: tuple[str, ...], count: int) -> TrainConfig:
        tasks = tuple(task for task in base.tasks if task.name in names)
        changes: dict[str, Any] = {"steps": count, "seed": seed, "tasks": tasks, "held_out": ()}
        changes |= {"input_size": INPUT_SIZE, "early_input_size": None, "proxies_per_step": 384}
        return base.model_copy(update={**changes, "images_per_task": BATCH // len(tasks)})

    specialized = [(f"specialized {name}", config((name,), steps)) for name in APPLICATIONS]
    return [*specialized, ("unified 3N", config(APPLICATIONS, 3 * steps)), ("unified N", config(APPLICATIONS, steps))]


def p_at_1(judged: Evaluation) -> dict[str, float]:
    """Binary and float P@1 of each application."""
    return {
        f"{name}.{kind}": round(metrics["P@1"], 4)
        for name, kinds in judged.applications.items()
        for kind, metrics in kinds.items()
    }


def summarize(found: dict[str, list[dict[str, float]]], steps: int) -> None:
    """The claim: the smallest, over applications, of the mean difference over seeds (binary P@1)."""
    differences = {
        name: [
            unified[f"{name}.binary"] - own[f"{name}.binary"]
            for unified, own in zip(found["unified 3N"], found[f"specialized {name}"], strict=True)
        ]
        for name in APPLICATIONS
    }
    means = {name: statistics.mean(values) for name, values in differences.items()}
    worst = min(means, key=lambda name: means[name])
    record_claim(
        "model.unified_minus_specialized",
        differences[worst],
        value=means[worst],
        bar=0.0,
        better="higher",
        unit="P@1, binary, smallest of three applications",
        details={
            "images_per_specialized_model": steps * BATCH,
            "difference_by_application": {
                name: {"mean": means[name], "seeds": values, "spread": max(values) - min(values)}
                for name, values in differences.items()
            },
            "P@1": found,
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="of a specialized model, 96 images each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(".pinstream/pictures"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
