"""`pinstream local`: the embedded Kafka and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pinstream.errors import FatalError
from pinstream.local import Health, LocalServers, ServerStatus
from pinstream.settings import load_settings

app = typer.Typer(help="Run a real Kafka and a real Redis on this machine, as a user.", no_args_is_help=True)

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the servers' data and logs. Default: the setting local_dir.")
]
_STYLES = {Health.OK: "green", Health.STALL: "yellow", Health.STOP: "red"}


@app.command()
def up(
    data_dir: DataDir = None,
    brokers: Annotated[int | None, typer.Option(help="1 or 3. Default: as many as the folder has, else 1.")] = None,
) -> None:
    """Start the servers that don't run yet, and wait until they serve. Ctrl-C afterwards does not reach them."""
    servers = _servers(data_dir, brokers)
    errors = Console(stderr=True)
    with _notes_on(errors), errors.status("starting Kafka and Redis (the first start fetches 45 MB)"):
        started = servers.up()
    _print(servers.status())
    typer.echo(f"bootstrap servers  {servers.bootstrap_servers}\nRedis              {servers.redis_url}")
    if not started:
        typer.echo("all of it was up already")


@app.command()
def status(data_dir: DataDir = None) -> None:
    """Show how each server is: OK, STALL (runs, does not answer) or STOP. Exit code 0 only if all are OK."""
    servers = _servers(data_dir)
    found = servers.status()
    if not found:
        raise FatalError(f"there are no servers in {servers.data_dir}: start them with 'pinstream local up'")
    _print(found)
    if any(server.health is not Health.OK for server in found):
        raise typer.Exit(1)


@app.command()
def down(
    data_dir: DataDir = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove their data and logs as well.")] = False,
) -> None:
    """Stop the servers; their data stays for the next `up`, unless --delete is given."""
    servers = _servers(data_dir)
    stopped = servers.down(delete=delete)
    typer.echo(f"stopped {', '.join(stopped)}" if stopped else f"nothing runs in {servers.data_dir}")
    if delete:
        typer.echo("data and logs removed")


def _servers(data_dir: Path | None, brokers: int | None = None) -> LocalServers:
    return LocalServers(data_dir or load_settings().local_dir, brokers=brokers)


@contextmanager
def _notes_on(console: Console) -> Iterator[None]:
    """Show an error's notes (the last lines of a server's log), which the one-line message leaves out."""
    try:
        yield
    except FatalError as error:
        for note in getattr(error, "__notes__", ()):
            console.print(note, style="dim", markup=False, highlight=False, soft_wrap=True)
        raise


def _print(found: list[ServerStatus]) -> None:
    table = Table("server", "state", "endpoint", "pid", "uptime", "log", box=None, pad_edge=False)
    for server in found:
        table.add_row(
            server.name,
            f"[{_STYLES[server.health]}]{server.health}[/]",
            server.endpoint,
            str(server.pid or "-"),
            "-" if server.uptime_s is None else _duration(server.uptime_s),
            str(server.log),
        )
    longest = max(len(str(server.log)) for server in found)
    Console(width=80 + longest).print(table)  # never folded: a path must stay one that can be copied


def _duration(seconds: float) -> str:
    minutes, whole_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{whole_s:02d}s" if minutes else f"{whole_s}s"
