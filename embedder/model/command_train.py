"""`pinstream model train`: progress on the terminal, curves and an artifact in the output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from embedder.model.curves import write_curves
from embedder.model.distributed import join_processes, leave_processes
from embedder.model.export_run import export_run
from embedder.model.runs import train
from embedder.model.train_config import TrainConfig, load_train_config
from embedder.torch_encoder import choose_device
from pinstream.errors import FatalError

ARTIFACT = "artifact"


def run(config: str, output: Path, *, device: str, threads: int, cache: Path | None, console: Console) -> None:
    """Train to the end, draw the curves, export to `output/artifact`. Blocking for the whole training.

    Raises:
        FatalError: a wrong configuration, missing data, or an artifact that is already there.
    """
    if threads:
        torch.set_num_threads(threads)
    if (output / ARTIFACT).exists():
        raise FatalError(
            f"{str(output / ARTIFACT)!r} exists, expected a run that is not finished: choose another output"
        )
    loaded = load_train_config(recipe_path(config), **({"cache": cache} if cache else {}))
    chosen = choose_device(device)
    processes = join_processes(chosen)
    with _bar(console, loaded, quiet=processes.rank != 0) as (bar, row):
        progress = train(
            loaded,
            output,
            processes=processes,
            device=chosen,
            report=lambda entry: _show(bar, row, entry, console),
        ).progress
    leave_processes(processes)
    if processes.rank != 0:
        return
    write_curves(progress.curves, output / "curves.png")
    artifact = export_run(output, output / ARTIFACT, best=progress.stopped)
    console.print(f"{artifact.manifest.name} {artifact.fingerprint.short} → {output / ARTIFACT}")


def recipe_path(config: str) -> Path:
    """A file, or the name of a recipe that ships."""
    recipe = Path(str(resources.files("embedder.model").joinpath("recipes", f"{config}.toml")))
    return recipe if recipe.is_file() else Path(config)


@contextmanager
def _bar(console: Console, config: TrainConfig, *, quiet: bool) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar with images/s and the time that is left."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]} images/s · {task.fields[shown]}"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
    )
    with bar:
        yield bar, bar.add_task(config.name, total=config.steps, speed="–", shown="starting")


def _show(bar: Progress, row: TaskID, entry: dict[str, Any], console: Console) -> None:
    if "metrics" in entry:
        metrics = {name: round(value, 4) for name, value in entry["metrics"].items()}
        console.print(f"step {entry['step']}: {metrics}")
        return
    losses = " ".join(f"{name} {loss:.2f}" for name, loss in entry["loss"].items())
    bar.update(row, completed=entry["step"], speed=entry["images_per_s"], shown=losses)
