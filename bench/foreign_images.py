"""`model.foreign_gain`: the default recipe on images that it has never met: P@1 trained − P@1 untrained.

Any ImageFolder does; every fourth class is held out from training and is what is judged, each image asking for the
others of its class. The recorded figures are of 1,843 emoji as four vendors draw them: the npm packages
emoji-datasource-{apple,facebook,google,twitter} 15.1.2, `img/*/64/CODEPOINT.png` → `CODEPOINT/VENDOR.png`, without
skin tones. A class is a codepoint, and no two of its images look alike.

    python -m bench.foreign_images --data FOLDER
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
from embedder.model.domains import folder_application
from embedder.model.evaluate import encoder_of, evaluate
from embedder.model.export import stretch
from embedder.model.readers import load_pictures, read_files
from embedder.model.runs import make_trainer
from embedder.model.train_config import Reader, TaskConfig, TrainConfig, load_train_config


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    task = TaskConfig(name="foreign", reader=Reader.IMAGE_FOLDER, path=options.data)
    base = load_train_config(recipe_path("default"), cache=options.cache)
    config = base.model_copy(
        update={
            "steps": options.steps,
            "tasks": (task,),
            "world": (),
            "held_out": (),
            "images_per_task": options.batch,
            "input_size": options.input_size,
            "early_input_size": None,
            "seed": options.seed,
        }
    )
    trainer = make_trainer(config, Processes(), torch.device("cpu"))
    judged = {"untrained": judge(trainer.network, config, options.data)}
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trainer.run(Path(folder), validate=None, report=lambda _: None)
    judged["trained"] = judge(trainer.network, config, options.data)
    record_claim(
        "model.foreign_gain",
        [judged["trained"]["binary"]["P@1"], judged["untrained"]["binary"]["P@1"]],
        value=judged["trained"]["binary"]["P@1"] - judged["untrained"]["binary"]["P@1"],
        bar=0.0,
        better="higher",
        unit="P@1 of held-out classes, binary, trained − untrained",
        details={
            **judged,
            "steps": options.steps,
            "images_per_step": options.batch,
            "input_size": options.input_size,
            "classes_trained": trainer.tasks[0].classes,
            "training_s": round(time.monotonic() - started_s),
        },
    )


def judge(network: Any, config: TrainConfig, data: Path) -> dict[str, dict[str, float]]:
    """kind → metric → value, on the classes that are held out."""
    pictures = load_pictures(read_files(Reader.IMAGE_FOLDER, data, "test"), config.picture_size, config.cache)
    found = evaluate(encoder_of(network), stretch(config.input_size), [folder_application("foreign", pictures)])
    return {
        kind: {name: round(value, 4) for name, value in metrics.items()}
        for kind, metrics in found.applications["foreign"].items()
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an ImageFolder")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--input-size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(".pinstream/pictures"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
