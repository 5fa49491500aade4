"""`pinstream rollout validate` and `golden`: judge a new generation beside the live one; make golden queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pinstream.errors import FatalError, RetryableError
from pinstream.logs import set_up_logs
from pinstream.settings import Settings, load_settings

if TYPE_CHECKING:
    from rollout.generation import Application, Registry
    from rollout.validate import Validation


def validate(
    generation: Annotated[
        str | None, typer.Argument(help="Fingerprint or its beginning. Default: the one that has caught up.")
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(help="HTTP address of an index worker of either generation; once for each. Default: by Redis."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Golden queries: folder or JSON lines. Default: rollout.gates.queries.")
    ] = None,
    application: Annotated[
        list[str] | None, typer.Option(help="flashlight, lens or shop_the_look; once for each. Default: all.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("validation.html"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON, one line a gate.")] = False,
) -> None:
    """Ask both generations the same queries and judge the new one; if all gates pass, it may be flipped to.

    Exit code 0: all passed. 1: a gate stopped it, or it could not be judged.
    """
    from pinstream.clock import SystemClock  # noqa: PLC0415 (rooms are imported when a command runs)
    from pinstream.object_store import open_store  # noqa: PLC0415
    from rollout.commands import operator  # noqa: PLC0415
    from rollout.store_registry import RegistryStore  # noqa: PLC0415
    from rollout.validate import conclude  # noqa: PLC0415
    from rollout.validate import validate as judge  # noqa: PLC0415
    from rollout.validation_page import write_page  # noqa: PLC0415

    settings = _with_queries(load_settings(), queries)
    set_up_logs(settings)
    store = RegistryStore(
        open_store(settings.snapshot_url, settings.fetch.store_options, setting="index.snapshot_url", retries=3)
    )
    found = judge(settings, store.read(), generation, url or [], _applications(application))
    write_page(found, output, k=settings.rollout.gates.overlap_k, max_pixels=settings.fetch.max_pixels)
    _say(found, output, as_json=as_json)
    registry = conclude(store, found, by=operator(), at_ms=SystemClock().wall_ms())
    _announce(settings, registry)
    if not found.passed:
        raise typer.Exit(1)


def golden(
    output: Annotated[Path, typer.Argument(help="New folder.")],
    count: Annotated[int, typer.Option(min=1, max=1000, help="Queries of each application.")] = 100,
    pins: Annotated[int, typer.Option(min=1, help="As many Pins as `pinstream produce generated` made.")] = 1000,
    products: Annotated[int, typer.Option(min=2, help="As there.")] = 300,
    seed: Annotated[int, typer.Option(help="As there.")] = 1,
) -> None:
    """Make golden queries of the generated world, with the Pins that are right for them."""
    from producers.world import World  # noqa: PLC0415
    from rollout.golden import write_world_golden  # noqa: PLC0415

    made = write_world_golden(output, World(seed, products), pins, count)
    typer.echo(f"{made} queries in {output}")


def _say(found: Validation, page: Path, *, as_json: bool) -> None:
    for result in found.results:
        if as_json:
            line = {
                "gate": result.gate,
                "application": result.application,
                "verdict": result.verdict,
                "blocks": result.blocks,
                "figure": result.figure,
                "bar": result.bar,
                "worst": result.worst,
            }
            typer.echo(json.dumps(line))
            continue
        typer.echo(("✗ " if result.blocks else "· " if result.verdict == "not judged" else "✓ ") + result.sentence())
        for example in result.worst:
            typer.echo(f"    {example}")
    if not as_json:
        stopped = [result.name for result in found.results if result.blocks]
        end = f"stopped by: {', '.join(stopped)}; the flip is refused" if stopped else "all gates passed"
        typer.echo(f"generation {found.generation.model[:12]}: {end}; see {page}")


def _announce(settings: Settings, registry: Registry) -> None:
    from pinstream.kafka_clients import redis_url  # noqa: PLC0415
    from rollout.redis_signal import RedisSignal  # noqa: PLC0415

    try:
        RedisSignal(redis_url(settings), settings.topics.pins, settings.redis.timeout_s).announce(registry)
    except RetryableError as error:
        typer.echo(f"front doors see this when they next look at the store: {error}", err=True)


def _with_queries(settings: Settings, queries: Path | None) -> Settings:
    if queries is None:
        return settings
    bars = settings.rollout.gates.model_copy(update={"queries": queries})
    return settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"gates": bars})})


def _applications(names: list[str] | None) -> frozenset[Application]:
    from rollout.generation import Application  # noqa: PLC0415

    known = {str(one): one for one in Application}
    for name in names or ():
        if name not in known:
            raise FatalError(f"application is {name!r}, expected one of {', '.join(known)}")
    return frozenset(known[name] for name in names) if names else frozenset(Application)
