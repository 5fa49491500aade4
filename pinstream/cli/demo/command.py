"""The demo, step by step: servers, workers, Pins, a live table, a check of every Pin, searches, one page."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pinstream.errors import FatalError


def run(
    out: Annotated[Path, typer.Option(help="Folder for servers' data, images, logs and the page.")] = Path("demo-out"),
    pins: Annotated[int, typer.Option(min=500, help="Pins to create.")] = 5000,
    rate: Annotated[float, typer.Option(min=1, help="Events a second while freshness is measured.")] = 50,
    queries: Annotated[int, typer.Option(min=10, help="Searches of each application.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the generated world.")] = 2026,
) -> None:
    """Run Kafka, Redis, two embed and two index workers; send Pins through; verify every one; search; write a page."""
    from pinstream.cli.demo.scenario import Demo, Plan  # noqa: PLC0415 (rooms are imported when a command runs)

    started_s = time.monotonic()
    console = Console()
    if out.exists() and not (out / ".pinstream-demo").exists() and any(out.iterdir()):
        raise FatalError(f"folder {out} is not empty and not a demo's: name another one with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / ".pinstream-demo").touch()
    with ExitStack() as stack:
        result = Demo(out.resolve(), Plan(pins, rate, queries, seed), console, stack).run()
    took_s = time.monotonic() - started_s
    console.print(f"\nThe page: [bold]{out / 'index.html'}[/]   {took_s:.0f} s in all")
    if result.faults:
        raise FatalError(f"{len(result.faults)} Pins are lost, doubled or stale: {'; '.join(result.faults[:5])}")
