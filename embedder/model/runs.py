"""A training run from its configuration: data, trainer, validation."""

from __future__ import annotations

from pathlib import Path

import torch

from embedder.model.distributed import Processes
from embedder.model.domains import Application, folder_application, world_applications
from embedder.model.evaluate import encoder_of, evaluate, score
from embedder.model.export import stretch
from embedder.model.pictures import Pictures, Source
from embedder.model.readers import load_pictures, read_files
from embedder.model.task_source import PictureSource, ShardSource, TaskSource
from embedder.model.train import CHECKPOINT, Report, Trainer, Validate
from embedder.model.train_config import Reader, TaskConfig, TrainConfig
from embedder.model.unified import UnifiedEmbedding
from embedder.model.world_pictures import check_disjoint, render_world
from pinstream.errors import FatalError


def make_trainer(config: TrainConfig, processes: Processes, device: torch.device) -> Trainer:
    """Read or render the data, build the network. Blocking: rendering takes ~10 ms a picture, once.

    Raises:
        FatalError: data is missing, or held-out products are trained on.
    """
    check_disjoint(config.world, config.held_out)
    world: Pictures | None = None
    if any(task.reader is Reader.WORLD for task in config.tasks):
        if not config.world:
            raise FatalError("a task reads the world and no [[world]] says which products: add one")
        world = render_world(config.world, config.picture_size, config.cache)
    sources = [_source(config, number, task, world) for number, task in enumerate(config.tasks)]
    return Trainer(config, sources, processes, device)


def make_validation(config: TrainConfig, device: str) -> Validate | None:
    """The applications of the held-out products and the test splits of folders; None if there are neither."""
    applications: list[Application] = []
    if config.held_out:
        applications += world_applications(render_world(config.held_out, config.picture_size, config.cache))
    for task in config.tasks:
        if task.path is not None and task.reader is not Reader.WEBDATASET:
            files = read_files(task.reader, task.path, "test")
            pictures = load_pictures(files, config.picture_size, config.cache)
            applications.append(folder_application(task.name, pictures))
    if not applications:
        return None

    def validate(network: UnifiedEmbedding) -> dict[str, float]:
        found = evaluate(encoder_of(network, device), stretch(config.input_size), applications)
        shown = {name: value for name, value in found.flat().items() if name.endswith("P@1")}
        return {"score": score(found), **shown}

    return validate


def train(config: TrainConfig, folder: Path, *, processes: Processes, device: torch.device, report: Report) -> Trainer:
    """Train, or continue the run that `folder` holds, to the end. Blocking for the whole training."""
    trainer = make_trainer(config, processes, device)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CHECKPOINT).exists():
        trainer.resume(folder / CHECKPOINT)
    validate = make_validation(config, str(device)) if processes.rank == 0 or processes.count > 1 else None
    trainer.run(folder, validate=validate, report=report)
    return trainer


def _source(config: TrainConfig, number: int, task: TaskConfig, world: Pictures | None) -> TaskSource:
    if task.reader is Reader.WEBDATASET and task.classes is not None:
        return ShardSource(
            task.name,
            str(task.path),
            task.classes,
            batch_size=config.images_per_task,
            side=config.picture_size,
            seed=config.seed,
        )
    if task.reader is Reader.WORLD and world is not None:
        pictures = world.only(*(Source[name.upper()] for name in task.sources))
    elif task.path is not None:
        pictures = load_pictures(read_files(task.reader, task.path, "train"), config.picture_size, config.cache)
    else:
        raise FatalError(f"task {task.name!r} names no data")
    return PictureSource(
        task.name,
        pictures,
        batch_size=config.images_per_task,
        per_class=config.per_class,
        seed=config.seed,
        number=number,
    )
