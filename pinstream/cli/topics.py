"""`pinstream topics` and `pinstream schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pinstream.codes import avro_schema
from pinstream.kafka_clients import reachable_admin
from pinstream.kafka_topics import TopicSpec, codes_topic, ensure_topics, pins_topics
from pinstream.settings import load_settings

app = typer.Typer(help="Create the topics as the design says.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `create` a sub-command while it is the only one."""


@app.command()
def create(
    pins_only: Annotated[bool, typer.Option(help="Only the Pins topic and its dead letters.")] = False,
) -> None:
    """Create the Pins topic, its dead letters and the codes topic of the model; refuse what exists otherwise."""
    settings = load_settings()
    specs: tuple[TopicSpec, ...] = pins_topics(settings.topics)
    if not pins_only:
        from embedder.model.artifact import (  # noqa: PLC0415 (rooms are imported when a command runs)
            default_artifact_path,
            load_artifact,
        )

        fingerprint = load_artifact(settings.model_path or default_artifact_path()).fingerprint
        specs = (*specs, codes_topic(settings.topics, fingerprint))
    created = ensure_topics(reachable_admin(settings), specs, settings.topics)
    for spec in specs:
        typer.echo(f"{spec.name}: {spec.partitions} partitions, {'created' if spec.name in created else 'exists'}")


def schema(bits: Annotated[int, typer.Option(help="Bits of a code.")] = 2048) -> None:
    """Print the Avro schema of the records on a codes topic."""
    typer.echo(json.dumps(avro_schema(bits), indent=2))
