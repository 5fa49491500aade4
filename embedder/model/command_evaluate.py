"""`pinstream model evaluate`: a table on the terminal, `evaluation.json` and one HTML page."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from embedder.model.artifact import Artifact, load_artifact
from embedder.model.domains import Application, domain_pairs, folder_application, world_applications
from embedder.model.evaluate import BATCH, Evaluation, evaluate
from embedder.model.evaluation_page import write_page
from embedder.model.readers import load_pictures, read_files
from embedder.model.train_config import Reader, TrainConfig
from embedder.model.world_pictures import WorldPart, check_disjoint, render_world
from embedder.torch_encoder import TorchEncoder
from pinstream.errors import FatalError

PICTURE_SIZE = 192
EXAMPLES = 4
METRICS = ("P@1", "P@10", "R@1", "R@10", "R@100", "mAP@R")


def run(
    path: Path,
    output: Path,
    *,
    reader: str,
    data: Path | None,
    seed: int,
    products: int,
    device: str,
    cache: Path,
    console: Console,
) -> None:
    """Evaluate the artifact at `path` on held-out products or on a folder's test split. Blocking.

    Raises:
        FatalError: the model was trained on these products, or the data set is missing or incomplete.
    """
    artifact = load_artifact(path)
    if reader == "world":
        applications, pairs = _world(artifact, seed, products, cache)
    else:
        applications, pairs = [_folder(reader, data, cache)], []
    encoder = TorchEncoder(artifact, device=device, max_batch_size=BATCH)
    found = evaluate(encoder, artifact.manifest.preprocessing, applications, pairs, examples=EXAMPLES)
    output.mkdir(parents=True, exist_ok=True)
    about = {"model": artifact.manifest.name, "fingerprint": artifact.fingerprint.hex, "bits": artifact.bits}
    (output / "evaluation.json").write_text(json.dumps({**about, **found.as_json()}, indent=2) + "\n", encoding="utf-8")
    write_page(found, f"{artifact.manifest.name} {artifact.fingerprint.short}", output / "evaluation.html")
    console.print(_table(found))
    console.print(f"{output / 'evaluation.json'}, {output / 'evaluation.html'}")


def _world(artifact: Artifact, seed: int, products: int, cache: Path) -> tuple[list[Application], list[Application]]:
    part = WorldPart(
        seed=seed, last=products, camera_views=2, pin_views=4, product_views=2, scenes=max(20, products // 2)
    )
    trained = artifact.manifest.training.get("config")
    if trained is not None:
        config = TrainConfig.model_validate(trained)
        check_disjoint((*config.world, *config.held_out), [part])
    pictures = render_world([part], PICTURE_SIZE, cache)
    return world_applications(pictures), domain_pairs(pictures)


def _folder(reader: str, data: Path | None, cache: Path) -> Application:
    known = [each.value for each in Reader if each is not Reader.WEBDATASET]
    if reader not in known:
        raise FatalError(f"--reader is {reader!r}, expected one of {', '.join(known)}")
    if data is None:
        raise FatalError(f"--reader {reader} needs --data, the folder of the images")
    return folder_application(reader, load_pictures(read_files(Reader(reader), data, "test"), PICTURE_SIZE, cache))


def _table(found: Evaluation) -> Table:
    table = Table("application", "queries → indexed", "", *METRICS)
    for name, kinds in found.applications.items():
        asked, indexed = found.sizes[name]
        for kind, metrics in kinds.items():
            table.add_row(name, f"{asked} → {indexed}", kind, *(f"{metrics[metric]:.3f}" for metric in METRICS))
    return table
