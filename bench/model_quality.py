"""What the model that ships finds among held-out products, float and binary, and an untrained one of its shape.

Means over several worlds of 240 products each, asked one by one: a single world's Lens has 480 queries, of which two
percent more or fewer are found by chance.

python -m bench.model_quality
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from bench.claims import record_claim
from embedder.model.artifact import default_artifact_path, load_artifact
from embedder.model.domains import domain_pairs, world_applications
from embedder.model.evaluate import BATCH, Evaluation, encoder_of, evaluate
from embedder.model.train_config import TrainConfig
from embedder.model.unified import create_unified
from embedder.model.world_pictures import WorldPart, check_disjoint, render_world
from embedder.torch_encoder import TorchEncoder

HELD_OUT = tuple(
    WorldPart(seed=seed, last=240, camera_views=2, pin_views=4, product_views=2, scenes=160) for seed in (7, 8, 9)
)
PICTURE_SIZE = 192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".pinstream/pictures"))
    parser.add_argument("--model", type=Path, default=default_artifact_path())
    options = parser.parse_args()
    artifact = load_artifact(options.model)
    if trained := artifact.manifest.training.get("config"):
        config = TrainConfig.model_validate(trained)
        check_disjoint((*config.world, *config.held_out), HELD_OUT)
    preprocessing = artifact.manifest.preprocessing
    encoder = TorchEncoder(artifact, device="cpu", max_batch_size=BATCH)
    torch.manual_seed(0)
    blank = create_unified(artifact.manifest.architecture.backbone, bits=artifact.bits, input_size=artifact.input_size)
    found: list[Evaluation] = []
    untrained: list[Evaluation] = []
    for part in HELD_OUT:
        pictures = render_world([part], PICTURE_SIZE, options.cache)
        applications = world_applications(pictures)
        found.append(evaluate(encoder, preprocessing, applications, domain_pairs(pictures)))
        untrained.append(evaluate(encoder_of(blank), preprocessing, applications))
        print(f"world {part.seed}: Lens P@1 {found[-1].applications['lens']['binary']['P@1']:.3f}", flush=True)
    names = list(found[0].applications)
    drops = {name: 100 * (mean(found, name, "float", "R@1") - mean(found, name, "binary", "R@1")) for name in names}
    about = {
        "model": artifact.fingerprint.hex,
        "worlds": len(HELD_OUT),
        "held_out_products_each": HELD_OUT[0].last,
        "P@1": {name: round(mean(found, name, "binary", "P@1"), 4) for name in names},
        "untrained_P@1": {name: round(mean(untrained, name, "binary", "P@1"), 4) for name in names},
        "by_world": [each.as_json() for each in found],
    }
    record_claim(
        "model.binary_drop_points",
        list(drops.values()),
        value=max(drops.values()),
        bar=1.7,
        better="lower",
        unit="points of R@1, largest of three applications",
        details={"by_application": drops, **about},
    )
    record_claim(
        "model.lens_p1_offline",
        [each.applications["lens"]["binary"]["P@1"] for each in found],
        value=mean(found, "lens", "binary", "P@1"),
        bar=0.8,
        better="higher",
        unit="P@1, binary, camera photo → Pins and products",
        details=about,
    )


def mean(found: list[Evaluation], application: str, kind: str, metric: str) -> float:
    """Over the worlds."""
    return statistics.mean(each.applications[application][kind][metric] for each in found)


if __name__ == "__main__":
    main()
