"""What the model that ships finds among held-out products, float and binary, and an untrained one of its shape.

python -m bench.model_quality
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.claims import record_claim
from embedder.model.artifact import default_artifact_path, load_artifact
from embedder.model.domains import domain_pairs, world_applications
from embedder.model.evaluate import BATCH, encoder_of, evaluate
from embedder.model.train_config import TrainConfig
from embedder.model.unified import create_unified
from embedder.model.world_pictures import WorldPart, check_disjoint, render_world
from embedder.torch_encoder import TorchEncoder

HELD_OUT = WorldPart(seed=7, last=240, camera_views=2, pin_views=4, product_views=2, scenes=160)
PICTURE_SIZE = 192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".pinstream/pictures"))
    parser.add_argument("--model", type=Path, default=default_artifact_path())
    options = parser.parse_args()
    artifact = load_artifact(options.model)
    if trained := artifact.manifest.training.get("config"):
        config = TrainConfig.model_validate(trained)
        check_disjoint((*config.world, *config.held_out), [HELD_OUT])
    pictures = render_world([HELD_OUT], PICTURE_SIZE, options.cache)
    applications = world_applications(pictures)
    preprocessing = artifact.manifest.preprocessing
    encoder = TorchEncoder(artifact, device="cpu", max_batch_size=BATCH)
    found = evaluate(encoder, preprocessing, applications, domain_pairs(pictures))
    torch.manual_seed(0)
    blank = create_unified(artifact.manifest.architecture.backbone, bits=artifact.bits, input_size=artifact.input_size)
    untrained = evaluate(encoder_of(blank), preprocessing, applications)
    drops = {name: 100 * (kinds["float"]["R@1"] - kinds["binary"]["R@1"]) for name, kinds in found.applications.items()}
    about = {
        "model": artifact.fingerprint.hex,
        "held_out_products": HELD_OUT.last,
        "trained": found.as_json(),
        "untrained": untrained.as_json()["applications"],
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
        [found.applications["lens"]["binary"]["P@1"]],
        bar=0.8,
        better="higher",
        unit="P@1, binary, camera photo → Pins and products",
        details={"untrained": untrained.applications["lens"]["binary"]["P@1"], **about},
    )


if __name__ == "__main__":
    main()
