"""`pinstream rollout pause | resume | rate | progress`: a replay in the operator's hands."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pinstream.errors import FatalError, RetryableError
from pinstream.kafka_clients import reachable_admin, redis_url
from pinstream.settings import Settings, load_settings

if TYPE_CHECKING:
    from rollout.generation import Generation, Registry, Replay
    from rollout.redis_replay import ReplayReport
    from rollout.replay_commands import ReplayCommands

GenerationArgument = Annotated[str, typer.Argument(help="Fingerprint of the generation, 6 digits at least.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Although it takes longer than the topic keeps deletes.")]
WATCHED_S: Final = 12.0
"""Without a controller, this long is looked to tell a rate."""


def add_replay_commands(app: typer.Typer) -> None:
    """Add them to `pinstream rollout`."""
    for command in (pause, resume, rate, progress):
        app.command()(command)


def pause(generation: GenerationArgument) -> None:
    """Hold a replay: its workers stay in their group and embed nothing until `resume`."""
    settings = load_settings()
    registry = _commands(settings).pause(generation)
    one = _tell(settings, registry, generation)
    typer.echo(f"replay of {one.model[:12]} is paused since registry {registry.number}")


def resume(generation: GenerationArgument, force: ForceOption = False) -> None:
    """Go on with a paused replay where it stands."""
    settings = load_settings()
    registry = _commands(settings).resume(generation, force=force)
    one = _tell(settings, registry, generation)
    typer.echo(f"replay of {one.model[:12]} goes on since registry {registry.number}")


def rate(
    generation: GenerationArgument,
    records_per_s: Annotated[
        str, typer.Argument(help="Records/s of all its workers together, or `unlimited`: as live freshness allows.")
    ],
    force: ForceOption = False,
) -> None:
    """Set how fast a replay may go. It yields to live freshness below that by itself."""
    limit = _limit(records_per_s)
    settings = load_settings()
    if limit is not None and not force:
        _refuse_too_slow(settings, generation, limit)
    one = _tell(settings, _commands(settings).rate(generation, limit, force=force), generation)
    told = "unlimited" if limit is None else f"at most {limit:g} records/s"
    typer.echo(f"replay of {one.model[:12]} is {told}")


def progress(
    generation: GenerationArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C or the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, one line.")] = False,
) -> None:
    """Show how far a replay is, how fast, and when it will have caught up, per partition."""
    from pydantic import TypeAdapter  # noqa: PLC0415 (what a command needs is imported when it runs)

    from rollout.redis_replay import ReplayReport  # noqa: PLC0415

    settings = load_settings()
    one = _registry(settings).generation(generation)
    report = _report(settings, one)
    if as_json:
        typer.echo(TypeAdapter(ReplayReport).dump_json(report).decode())
        return
    if not watch:
        Console(width=120).print(_table(one, report))
        return
    with Live(_table(one, report), console=Console(width=120), refresh_per_second=2) as live:
        while report.progress.eta_s != 0:
            time.sleep(1)
            report = _report(settings, one)
            live.update(_table(one, report))


def refuse_too_slow(settings: Settings, replay: Replay) -> None:
    """Raises FatalError: at its own rate this replay, not begun yet, outlasts the deletes on the topic. Blocks."""
    if replay.max_records_per_s is None or replay.force:
        return
    starts = replay.starts or (0,) * len(replay.ends)
    records = sum(end - start for start, end in zip(starts, replay.ends, strict=True))
    _check_needed(settings, records / replay.max_records_per_s)


def _refuse_too_slow(settings: Settings, generation: str, limit: float) -> None:
    """Judged by the offsets that are left: compaction's gaps make the truth shorter, never longer."""
    from rollout.kafka_offsets import GroupOffsets, embed_group  # noqa: PLC0415
    from rollout.replay_progress import elapsed_s  # noqa: PLC0415

    one = _registry(settings).generation(generation)
    offsets = GroupOffsets(settings)
    try:
        seen = offsets.see(embed_group(one.model), settings.topics.pins)
    finally:
        offsets.close()
    starts = dict(enumerate(one.replay.starts))
    left = sum(max(0, end - seen.committed.get(p, starts.get(p, 0))) for p, end in seen.ends.items())
    _check_needed(settings, elapsed_s(one.history, time.time_ns() // 1_000_000) + left / limit)


def _check_needed(settings: Settings, needed_s: float) -> None:
    from rollout.kafka_replay import delete_retention_ms  # noqa: PLC0415
    from rollout.replay_control import retention_sentence  # noqa: PLC0415

    topic = settings.topics.pins
    retention_ms = delete_retention_ms(reachable_admin(settings), topic)
    if needed_s * 1000 > retention_ms:
        raise FatalError(retention_sentence(topic, needed_s, retention_ms))


def _tell(settings: Settings, registry: Registry, generation: str) -> Generation:
    """Tell the workers at once, if Redis answers; a controller tells them too."""
    from rollout.redis_replay import ReplayMirror  # noqa: PLC0415
    from rollout.replay_plan import plan_of  # noqa: PLC0415

    one = registry.generation(generation)
    mirror = ReplayMirror(redis_url(settings), settings.redis.timeout_s)
    try:
        report = mirror.reported(one.model)
        mirror.tell(one.model, plan_of(one, None if report is None else report.limit_per_s))
    except RetryableError as error:
        typer.echo(f"{error}: workers hear of it when Redis is back and a controller runs, or when they start again")
    return one


def _report(settings: Settings, one: Generation) -> ReplayReport:
    """The controller's, or one's own look for a moment."""
    from rollout.redis_replay import ReplayMirror, ReplayReport  # noqa: PLC0415

    with suppress(RetryableError):
        report = ReplayMirror(redis_url(settings), settings.redis.timeout_s).reported(one.model)
        if report is not None:
            return report
    now_ms = time.time_ns() // 1_000_000
    seen = _look(settings, one)
    return ReplayReport(now_ms, one.state.value, one.replay.paused, None, None, "no controller runs", seen)


def _look(settings: Settings, one: Generation) -> Any:
    from rollout.kafka_offsets import GroupOffsets, embed_group  # noqa: PLC0415
    from rollout.replay_progress import ReplayEstimator  # noqa: PLC0415

    starts = dict(enumerate(one.replay.starts or (0,) * settings.topics.partitions))
    estimator = ReplayEstimator(starts)
    offsets = GroupOffsets(settings)
    try:
        until_s = time.monotonic() + WATCHED_S
        while True:
            seen = offsets.see(embed_group(one.model), settings.topics.pins)
            estimator.observe(time.monotonic(), seen.committed, seen.ends)
            found = estimator.progress()
            if time.monotonic() >= until_s or found.eta_s == 0:
                return found
            time.sleep(1)
    finally:
        offsets.close()


def _table(one: Generation, report: ReplayReport) -> Table:
    found = report.progress
    held = "paused" if report.paused else "unlimited" if report.limit_per_s is None else f"≤ {report.limit_per_s:.0f}/s"
    fresh = "" if report.live_freshness_s is None else f"; live freshness {report.live_freshness_s:.2f} s"
    title = f"{one.model[:12]} {report.state}, {held}{fresh}"
    table = Table("partition", "records", "of", "done", "records/s", "ETA", title=title, caption=report.warning)
    for part in found.partitions:
        table.add_row(
            str(part.partition),
            f"{part.done:,.0f}",
            f"{part.total:,.0f}",
            f"{part.fraction:.1%}",
            _number(part.rate_per_s),
            _duration(part.eta_s),
        )
    table.add_section()
    done, total = sum(part.done for part in found.partitions), sum(part.total for part in found.partitions)
    whole = (f"{done:,.0f}", f"{total:,.0f}", f"{found.fraction:.1%}")
    table.add_row("all", *whole, _number(found.rate_per_s), _duration(found.eta_s))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _limit(text: str) -> float | None:
    if text == "unlimited":
        return None
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise FatalError(f"rate is {text!r}, expected records/s above 0, or `unlimited`; `pause` holds a replay")


def _registry(settings: Settings) -> Registry:
    from rollout.front_door import registry_store  # noqa: PLC0415

    return registry_store(settings).read()


def _commands(settings: Settings) -> ReplayCommands:
    from rollout.commands import operator  # noqa: PLC0415
    from rollout.front_door import registry_store  # noqa: PLC0415
    from rollout.redis_signal import RedisSignal  # noqa: PLC0415
    from rollout.replay_commands import ReplayCommands  # noqa: PLC0415

    signal = RedisSignal(redis_url(settings), settings.topics.pins, settings.redis.timeout_s)
    return ReplayCommands(registry_store(settings), signal, operator())
