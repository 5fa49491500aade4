"""`pinstream model`: train, evaluate, export, verify, list and import models. Torch is imported by what needs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pinstream.errors import FatalError

app = typer.Typer(help="Train, evaluate and ship embedding models.", no_args_is_help=True)
_console = Console()

ArtifactArgument = Annotated[Path | None, typer.Argument(help="Artifact folder. Default: the one that ships.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="TOML file, or `default`: the recipe of the model that ships")],
    output: Annotated[Path, typer.Option(help="Folder for checkpoints, curves and the artifact")],
    device: DeviceOption = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of torch; 0: its own choice")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where decoded pictures are kept")] = None,
) -> None:
    """Train a model, or continue the run that OUTPUT holds; then export it. Under torchrun: data-parallel."""
    from embedder.model import command_train  # noqa: PLC0415  # imports torch

    command_train.run(config, output, device=device, threads=threads, cache=cache, console=_console)


@app.command()
def evaluate(
    artifact: ArtifactArgument = None,
    output: Annotated[Path, typer.Option(help="Folder for evaluation.json and evaluation.html")] = Path("evaluation"),
    reader: Annotated[
        str, typer.Option(help="world, or a layout: imagefolder, sop, inshop, cub200, cars196")
    ] = "world",
    data: Annotated[Path | None, typer.Option(help="Folder of the images, for every reader but world")] = None,
    seed: Annotated[int, typer.Option(help="Of the world; none that the model was trained on")] = 7,
    products: Annotated[int, typer.Option(min=20, help="Held-out products of the world")] = 240,
    device: DeviceOption = "auto",
    cache: Annotated[Path, typer.Option(help="Where decoded pictures are kept")] = Path(".pinstream/pictures"),
) -> None:
    """Measure what a model finds, float and binary, per application and across domains."""
    from embedder.model import command_evaluate  # noqa: PLC0415  # imports torch

    command_evaluate.run(
        _path(artifact),
        output,
        reader=reader,
        data=data,
        seed=seed,
        products=products,
        device=device,
        cache=cache,
        console=_console,
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run")],
    output: Annotated[Path, typer.Argument(help="New artifact folder")],
    checkpoint: Annotated[str, typer.Option(help="`best` (of the evaluations) or `last`")] = "last",
) -> None:
    """Write the artifact of a training run."""
    from embedder.model.export_run import export_run  # noqa: PLC0415  # imports torch

    artifact = export_run(run, output, best=_choice(checkpoint, "checkpoint", ("best", "last")) == "best")
    _console.print(f"{artifact.manifest.name} {artifact.fingerprint.short} → {output}")


@app.command()
def verify(
    artifact: ArtifactArgument = None,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
) -> None:
    """Check every byte of an artifact and re-run its golden inputs here; exit code 1 if too many bits differ."""
    from embedder.model.verify import verify_artifact  # noqa: PLC0415  # imports torch

    chosen = "bf16" if _choice(precision, "precision", ("fp32", "bf16")) == "bf16" else "fp32"
    result = verify_artifact(_path(artifact), device=device, precision=chosen)  # type: ignore[arg-type]  # narrowed above
    _console.print(result.sentence())
    if not result.holds:
        raise typer.Exit(1)


@app.command(name="list")
def list_models(
    folders: Annotated[list[Path] | None, typer.Argument(help="Artifacts, or folders of artifacts")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, one line per model")] = False,
) -> None:
    """List the model that ships and those under FOLDERS."""
    from embedder.model.artifact import MANIFEST, default_artifact_path, load_artifact  # noqa: PLC0415  # a lazy room

    found = [default_artifact_path()]
    for folder in folders or []:
        found += (
            [folder] if (folder / MANIFEST).exists() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
        )
    rows: list[dict[str, Any]] = []
    for path in found:
        artifact = load_artifact(path)
        manifest = artifact.manifest
        rows.append(
            {
                "name": manifest.name,
                "fingerprint": artifact.fingerprint.short,
                "bits": manifest.bits,
                "input_size": manifest.input_size,
                "backbone": manifest.architecture.backbone,
                "path": str(path),
            }
        )
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    _console.print(table)


@app.command(name="import")
def import_model(
    output: Annotated[Path, typer.Argument(help="New artifact folder")],
    timm: Annotated[str | None, typer.Option(help="A timm model's name")] = None,
    torchvision: Annotated[str | None, typer.Option(help="A torchvision model's name")] = None,
    exported: Annotated[Path | None, typer.Option(help="A .pt2 of torch.export.save: [B, 3, S, S] → [B, bits]")] = None,
    input_size: Annotated[int, typer.Option(min=32, max=1024)] = 224,
    bits: Annotated[int, typer.Option(help="Code length; 0: the backbone's own width")] = 0,
    pretrained: Annotated[bool, typer.Option(help="Fetch the library's weights")] = True,
    weights: Annotated[Path | None, typer.Option(help="Weights as .safetensors, instead of fetching them")] = None,
) -> None:
    """Make an artifact of a model from elsewhere, without training it here."""
    from embedder.model.import_model import import_backbone, import_program  # noqa: PLC0415  # imports torch

    given = [
        name for name, value in (("--timm", timm), ("--torchvision", torchvision), ("--exported", exported)) if value
    ]
    if len(given) != 1:
        raise FatalError(f"got {' and '.join(given) or 'no source'}, expected one of --timm, --torchvision, --exported")
    if exported is not None:
        artifact = import_program(exported, output, input_size=input_size)
    else:
        backbone = f"timm:{timm}" if timm else f"torchvision:{torchvision}"
        artifact = import_backbone(
            backbone,
            output,
            input_size=input_size,
            bits=bits,
            pretrained=pretrained and weights is None,
            weights=weights,
        )
    _console.print(f"{artifact.manifest.name} {artifact.fingerprint.short} ({artifact.bits} bits) → {output}")


def _path(artifact: Path | None) -> Path:
    from embedder.model.artifact import default_artifact_path  # noqa: PLC0415  # a lazy room

    return artifact or default_artifact_path()


def _choice(value: str, name: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise FatalError(f"--{name} is {value!r}, expected {' or '.join(allowed)}")
    return value
