"""`pinstream rollout`: start, watch, flip, roll back and retire generations of models."""

from __future__ import annotations

import logging
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pinstream.cli.rollout_replay import add_replay_commands, refuse_too_slow
from pinstream.clock import SystemClock
from pinstream.errors import FatalError, RetryableError
from pinstream.kafka_clients import redis_url
from pinstream.logs import set_up_logs
from pinstream.settings import Settings, load_settings

if TYPE_CHECKING:
    from rollout.commands import Commands
    from rollout.generation import Application, Generation, Registry, Replay
    from rollout.redis_signal import FrontStatus, RedisSignal
    from rollout.store_registry import RegistryStore

log = logging.getLogger(__name__)

app = typer.Typer(help="Swap the model: replay, judge, flip, roll back, retire.", no_args_is_help=True)
add_replay_commands(app)

ModelOption = Annotated[
    Path | None, typer.Option("--model", help="Artifact folder. Default: settings, or the shipped.")
]
GenerationArgument = Annotated[str, typer.Argument(help="Fingerprint of the generation, 6 digits at least.")]
ApplicationOption = Annotated[
    list[str] | None, typer.Option(help="flashlight, lens or shop_the_look; again for another. Default: all.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Although a check advises against it.")]
SEEN_WITHIN_S = 2.0


@app.command()
def start(
    model: ModelOption = None,
    spawn: Annotated[int, typer.Option(min=0, help="Start as many embed and index workers on this machine.")] = 0,
    to_datetime: Annotated[str | None, typer.Option(help="Only history since then: RFC 3339 with a zone.")] = None,
    by_duration: Annotated[str | None, typer.Option(help="Only history this far back: P7D, PT36H.")] = None,
    partitions: Annotated[str | None, typer.Option(help="Only history of these: 0,3,8-11.")] = None,
    where: Annotated[str | None, typer.Option(help="Only history of domain=product or domain=pin,product.")] = None,
    max_records_per_s: Annotated[float | None, typer.Option(help="Of all its workers. Default: unlimited.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Although it outlasts the deletes on the topic.")] = False,
) -> None:
    """Register a generation, make its codes topic, and begin its replay. Safe to repeat."""
    from rollout.controller import prepare  # noqa: PLC0415 (rooms are imported when a command runs)
    from rollout.generation import State  # noqa: PLC0415
    from rollout.local_workers import LocalWorkers, by_hand  # noqa: PLC0415
    from rollout.replay_plan import replay_from_options  # noqa: PLC0415
    from rollout.retire import remove_all  # noqa: PLC0415

    settings = load_settings()
    _refuse_one_group(settings)
    fingerprint, bits, path = _artifact(settings, model)
    store, _, commands = _open(settings)
    held = store.read().generations.get(fingerprint)
    if held is not None and held.state is State.RETIRED:
        remove_all(settings, fingerprint)  # what a retire that was killed has left
    prepare(settings, fingerprint)
    asked = replay_from_options(
        now_ms=SystemClock().wall_ms(),
        to_datetime=to_datetime,
        by_duration=by_duration,
        partitions=partitions,
        where=where,
        max_records_per_s=max_records_per_s,
        force=force,
    )
    commands.start(fingerprint, bits, path, _replay(settings, held, asked))
    registry = commands.move(fingerprint, State.CREATED, State.REPLAYING)
    generation = registry.generations[fingerprint]
    typer.echo(f"generation {fingerprint[:12]} is {generation.state}, {bits} bits, model {generation.artifact}")
    if spawn:
        workers = LocalWorkers(settings, fingerprint, generation.artifact)
        started = workers.start(spawn)
        typer.echo(f"started {', '.join(started) or 'nothing: all run already'}; logs in {workers.folder}")
    else:
        typer.echo("run its workers, as many as you like of each:")
        for line in by_hand(generation.artifact):
            typer.echo(f"  {line}")


@app.command()
def adopt(model: ModelOption = None) -> None:
    """Make the model whose workers run already the first live generation, of all applications."""
    settings = load_settings()
    fingerprint, bits, path = _artifact(settings, model)
    _, signal_, commands = _open(settings)
    registry = commands.adopt(fingerprint, bits, path)
    typer.echo(f"generation {fingerprint[:12]} is live for all applications")
    _report_seen(commands, signal_, registry.number)


@app.command()
def run() -> None:
    """Run a controller: moves generations on as their replays catch up, until SIGTERM. Any number may run.

    Answers /metrics, /livez, /readyz and /info.
    """
    from pinstream.http_status import HttpServer, status_app  # noqa: PLC0415
    from rollout.commands import operator  # noqa: PLC0415
    from rollout.controller import Controller  # noqa: PLC0415
    from rollout.replay_commands import ReplayCommands  # noqa: PLC0415
    from rollout.replay_duty import ReplayDuty  # noqa: PLC0415

    settings = load_settings()
    set_up_logs(settings)
    store, signal_, _ = _open(settings)
    replays = ReplayDuty(settings, ReplayCommands(store, signal_, f"controller {operator()}"))
    controller = Controller(settings, beside=(replays,))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: controller.stop())
    http = HttpServer(status_app(controller.why_not_ready, controller.info, "pinstream controller"), settings.http)
    http.start()
    log.info("controller, status on %s", http.url)
    try:
        controller.run()
    finally:
        http.stop()
        replays.close()


@app.command(name="list")
def list_generations() -> None:
    """List all generations."""
    registry = _open(load_settings())[0].read()
    table = Table("generation", "state", "since", "by", "live for", "bits", "model", box=None, pad_edge=False)
    for one in sorted(registry.generations.values(), key=_since_ms):
        table.add_row(*_row(registry, one))
    _console().print(table)


@app.command()
def status() -> None:
    """Show what each application is served from, all generations, and whether every front door goes by it."""
    from rollout.generation import Application, utc  # noqa: PLC0415

    store, signal_, _ = _open(load_settings())
    registry = store.read()
    typer.echo(f"registry {registry.number}: {registry.by or 'nobody'} did {registry.action!r}, {utc(registry.at_ms)}")
    for application in Application:
        live = registry.live.get(application)
        typer.echo(f"{application}: {live[:12] if live else 'nothing is live'}{_split_text(registry, application)}")
    typer.echo("")
    list_generations()
    typer.echo("")
    try:
        fronts = signal_.fronts()
    except RetryableError as error:
        typer.echo(f"front doors are not known: {error}")
        return
    typer.echo(f"front doors: {len(fronts)}")
    for front in fronts:
        typer.echo(f"  {front.name} {front.url}: {_front_text(registry, front)}")


@app.command()
def flip(generation: GenerationArgument, application: ApplicationOption = None, force: ForceOption = False) -> None:
    """Serve from this generation, at once and everywhere; what was live stands by."""
    from rollout.generation import State  # noqa: PLC0415

    settings = load_settings()
    store, signal_, commands = _open(settings)
    registry = store.read()
    one = registry.generation(generation)
    applications = _applications(application)
    if one.state is not State.LIVE and not force:
        _refuse_unloaded(signal_, one)
    after = commands.flip(one.model, applications, expected=registry.number)
    _tell_live(after, applications)
    _report_seen(commands, signal_, after.number)


@app.command()
def rollback(
    application: Annotated[
        list[str] | None, typer.Option(help="One of the three; again for another. Default: those of the last flip.")
    ] = None,
) -> None:
    """Serve again from what was live before the last flip, at once and everywhere."""
    store, signal_, commands = _open(load_settings())
    registry = store.read()
    applications = _applications(application) if application else registry.last_changed()
    after = commands.rollback(applications, expected=registry.number)
    _tell_live(after, applications)
    _report_seen(commands, signal_, after.number)


@app.command()
def split(
    share: Annotated[str, typer.Argument(help="Share of the requesters, as 10%; `off` ends the test.")],
    generation: Annotated[str, typer.Option(help="The treatment. Default: the only validated one.")] = "",
    application: ApplicationOption = None,
    name: Annotated[str, typer.Option(help="Name of the test: another one deals requesters anew.")] = "",
) -> None:
    """Show another generation to a share of the requesters, always to the same ones."""
    store, signal_, commands = _open(load_settings())
    applications = _applications(application)
    if share == "off":
        after = commands.end_split(applications)
    else:
        registry = store.read()
        chosen = registry.generation(generation) if generation else _only_validated(registry)
        salt = name or f"to-{chosen.model[:12]}"
        after = commands.split(chosen.model, _share(share), applications, salt)
        _warn_of_changed_tests(registry, after)
    for one in sorted(applications):
        typer.echo(f"{one}: {(after.live.get(one) or 'nothing')[:12]}{_split_text(after, one)}")
    _report_seen(commands, signal_, after.number)


@app.command()
def release(generation: GenerationArgument) -> None:
    """Give up a standing-by generation as a target of rollbacks, so that it can be retired."""
    store, _, commands = _open(load_settings())
    one = store.read().generation(generation)
    state = commands.release(one.model).generations[one.model].state
    typer.echo(f"generation {one.model[:12]} is {state}: no rollback goes to it any more")


@app.command()
def retire(
    generation: GenerationArgument,
    yes: Annotated[str, typer.Option(help="The generation's 12 digits: confirms without asking.")] = "",
) -> None:
    """Remove a generation for good: its codes topic, groups, snapshots and keys in Redis. Safe to repeat."""
    from rollout.generation import State  # noqa: PLC0415
    from rollout.local_workers import LocalWorkers  # noqa: PLC0415
    from rollout.retire import remove_all, running_workers  # noqa: PLC0415

    settings = load_settings()
    store, _, commands = _open(settings)
    registry = store.read()
    one = registry.generation(generation)
    short = one.model[:12]
    if one.state is not State.RETIRED:
        if reasons := registry.uses(one.model):
            raise FatalError(f"generation {short} can't be retired: {'; '.join(reasons)}")
        typed = yes or typer.prompt(f"This deletes the codes and snapshots of {short}. Type its 12 digits to go on")
        if typed != short:
            raise FatalError(f"{typed!r} was typed, expected {short}: nothing was removed")
    workers = LocalWorkers(settings, one.model, one.artifact)
    if stopped := workers.stop():
        typer.echo(f"stopped {', '.join(stopped)}")
    if members := running_workers(settings, one.model):
        raise FatalError(f"workers of generation {short} still run ({', '.join(members)}): stop them first")
    commands.retire(one.model)
    removed = remove_all(settings, one.model)
    keys = "Redis is away" if removed.redis_keys is None else f"{removed.redis_keys} keys in Redis"
    typer.echo(
        f"generation {short} is retired; removed: {'its topic' if removed.topic else 'no topic'}, "
        f"{removed.groups} groups, {removed.files} files of snapshots and backfills, {keys}"
    )


def _replay(settings: Settings, held: Generation | None, asked: Replay) -> Replay:
    """The replay that is begun, with its offsets; that of a generation that has begun already stays as it is."""
    from rollout.generation import State  # noqa: PLC0415
    from rollout.kafka_replay import planned  # noqa: PLC0415

    if held is None or held.state is State.RETIRED:
        replay = planned(settings, asked)
        refuse_too_slow(settings, replay)
        return replay
    if (asked.partitions, asked.domains) != (held.replay.partitions, held.replay.domains):
        raise FatalError(
            f"generation {held.model[:12]} was started with another part of the history, and is {held.state}: "
            "retire it first, or repeat the command as it was"
        )
    return held.replay


def _artifact(settings: Settings, model: Path | None) -> tuple[str, int, str]:
    """Fingerprint, bits and path of the model, every byte of it checked."""
    from embedder.model.artifact import default_artifact_path, load_artifact  # noqa: PLC0415

    path = (model or settings.model_path or default_artifact_path()).resolve()
    artifact = load_artifact(path)
    return artifact.fingerprint.hex, artifact.bits, str(path)


def _open(settings: Settings) -> tuple[RegistryStore, RedisSignal, Commands]:
    from rollout.commands import Commands, operator  # noqa: PLC0415
    from rollout.front_door import registry_store  # noqa: PLC0415
    from rollout.redis_signal import RedisSignal  # noqa: PLC0415

    store = registry_store(settings)
    signal_ = RedisSignal(redis_url(settings), settings.topics.pins, settings.redis.timeout_s)
    return store, signal_, Commands(store, signal_, operator())


def _applications(names: list[str] | None) -> frozenset[Application]:
    from rollout.generation import Application  # noqa: PLC0415

    known = {application.value: application for application in Application}
    if unknown := [name for name in names or () if name not in known]:
        raise FatalError(f"--application is {unknown[0]!r}, expected one of {', '.join(known)}")
    return frozenset(known[name] for name in names or known)


def _warn_of_changed_tests(before: Registry, after: Registry) -> None:
    """A test that was changed while it runs can't be judged: its requesters were dealt by two rules."""
    from rollout.generation import utc  # noqa: PLC0415

    for held in before.splits:
        now = next((one for one in after.splits if (one.application, one.salt) == (held.application, held.salt)), None)
        if now is not None and now != held:
            typer.echo(
                f"warning: test {held.salt!r} of {held.application} runs since {utc(held.started_ms)} with "
                f"{held.share:.3%} to {held.model[:12]}: changed, it can't be judged; begin another with --name",
                err=True,
            )


def _share(text: str) -> float:
    with suppress(ValueError):
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if 0 < share < 1:
            return share
    raise FatalError(f"share is {text!r}, expected more than 0% and less than 100%, or `off`")


def _only_validated(registry: Registry) -> Generation:
    from rollout.generation import State  # noqa: PLC0415

    found = [one for one in registry.generations.values() if one.state is State.VALIDATED]
    if len(found) != 1:
        raise FatalError(f"{len(found)} generations are validated: name the treatment with --generation")
    return found[0]


def _refuse_one_group(settings: Settings) -> None:
    """Raises FatalError: the settings name one consumer group for the workers of all generations."""
    for name, group in (("embed.group_id", settings.embed.group_id), ("index.group_id", settings.index.group_id)):
        if group:
            raise FatalError(
                f"{name} is {group!r}: workers of both generations would share that group, and each get a part of the "
                "partitions; leave it empty, so that each generation has its own"
            )


def _refuse_unloaded(signal_: RedisSignal, one: Generation) -> None:
    """Raises FatalError: a front door can't answer from this generation yet, and would refuse what comes after."""
    try:
        fronts = signal_.fronts()
    except RetryableError:
        return  # Redis is away: nobody can be asked, and a flip must be possible
    lacking = [front for front in fronts if one.model not in front.models]
    if lacking:
        why = "; ".join(f"{front.name}: {front.faults.get(one.model, 'still loading')}" for front in lacking)
        raise FatalError(f"{len(lacking)} front doors can't answer from {one.model[:12]} ({why}); --force flips anyway")


def _tell_live(registry: Registry, applications: frozenset[Application]) -> None:
    for application in sorted(applications):
        model = registry.live[application]
        typer.echo(f"{application}: {model[:12]} is live since registry {registry.number}")


def _report_seen(commands: Commands, signal_: RedisSignal, number: int) -> None:
    try:
        seconds, late = commands.seen_by_all(number, SEEN_WITHIN_S)
        count = len(signal_.fronts())
    except RetryableError as error:
        typer.echo(f"{error}: front doors see it when they next look at the store")
        return
    if not count:
        typer.echo("no front door says anything: whoever starts one sees it")
    elif late:
        typer.echo(f"not seen yet by {', '.join(front.name for front in late)}: `pinstream rollout status` shows them")
    else:
        typer.echo(
            f"seen by {'all ' * (count > 1)}{count} front door{'s' * (count > 1)}, {1000 * seconds:.0f} ms later"
        )


def _since_ms(one: Generation) -> int:
    return one.history[-1].at_ms if one.history else 0


def _row(registry: Registry, one: Generation) -> tuple[str, ...]:
    from rollout.generation import utc  # noqa: PLC0415

    live = [application.value for application, model in registry.live.items() if model == one.model]
    step = one.history[-1] if one.history else None
    by, since = (step.by, utc(step.at_ms)) if step else ("", "")
    return one.model[:12], one.state.value, since, by, ", ".join(sorted(live)) or "-", str(one.bits), one.artifact


def _split_text(registry: Registry, application: Application) -> str:
    split_ = next((one for one in registry.splits if one.application is application), None)
    return "" if split_ is None else f"; {split_.share:.3%} see {split_.model[:12]} (test {split_.salt})"


def _front_text(registry: Registry, front: FrontStatus) -> str:
    models = ", ".join(model[:12] for model in front.models) or "nothing"
    faults = "".join(f"; {model[:12]}: {why}" for model, why in front.faults.items())
    behind = "" if front.number >= registry.number else f" (NOT registry {registry.number})"
    return f"registry {front.number}{behind}, answers from {models}{faults}"


def _console() -> Console:
    return Console(width=200, soft_wrap=True)
