"""`pinstream rollout backfill`: the history of the Pins topic embedded on many machines instead of by embed workers."""

from __future__ import annotations

from typing import Annotated

import typer

from pinstream.errors import FatalError
from pinstream.logs import set_up_logs
from pinstream.settings import load_settings


def backfill(
    generation: Annotated[str, typer.Argument(help="Fingerprint of the generation, 6 digits at least.")],
    engine: Annotated[str, typer.Option(help="What runs it: `ray`.")] = "ray",
    ray_address: Annotated[str, typer.Option(help="Of a running cluster. Default: a Ray of this machine's own.")] = "",
    actors: Annotated[int, typer.Option(min=1, help="At most so many embed at once: one a GPU.")] = 1,
    cpus_per_actor: Annotated[float, typer.Option(min=0.1, help="Cores to fetch and decode with.")] = 1.0,
    gpus_per_actor: Annotated[float, typer.Option(min=0, help="1 on machines with GPUs.")] = 0.0,
    anew: Annotated[bool, typer.Option(help="Forget what an earlier run has exported and embedded.")] = False,
) -> None:
    """Embed the Pins topic's history on Ray and publish its codes; workers do the rest. Repeat it after a failure."""
    from rollout.backfill.embedding import LoadArtifact  # noqa: PLC0415 (rooms are imported when a command runs)
    from rollout.backfill.ray_engine import RayEngine, RayOptions  # noqa: PLC0415
    from rollout.backfill.run import Backfill  # noqa: PLC0415
    from rollout.front_door import registry_store  # noqa: PLC0415
    from rollout.local_workers import by_hand  # noqa: PLC0415

    if engine != "ray":
        raise FatalError(f"--engine is {engine!r}, expected ray")
    settings = load_settings()
    set_up_logs(settings)
    one = registry_store(settings).read().generation(generation)
    work = Backfill(settings, one, LoadArtifact(one.artifact), step=typer.echo)
    options = RayOptions(ray_address, actors, cpus_per_actor, gpus_per_actor)
    with RayEngine(options) as running:
        done = work.run(running, anew=anew)
    typer.echo(
        f"embedded {done.embedded} Pins, {done.failed} could not be; published {done.published} records; "
        f"{done.snapshots} shards have a snapshot"
    )
    typer.echo(f"the rest, from offset {', '.join(map(str, done.ends))} on, is for its workers:")
    for line in by_hand(one.artifact):
        typer.echo(f"  {line}")
