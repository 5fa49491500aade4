"""`pinstream produce`: put Pin events on the Pins topic."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pinstream.errors import FatalError
from pinstream.events import Domain, PinEvent
from pinstream.kafka_clients import reachable_admin
from pinstream.kafka_topics import check_topics, pins_topics
from pinstream.settings import Settings, load_settings

app = typer.Typer(help="Put Pin events on the Pins topic.", no_args_is_help=True)

Rate = Annotated[float, typer.Option(min=0, help="Events a second; 0 is as fast as Kafka takes them.")]


@app.command()
def folder(
    path: Annotated[Path, typer.Argument(help="Folder of images, searched through all its sub-folders.")],
    domain: Annotated[Domain, typer.Option(help="Which world the images are from.")] = Domain.PIN,
    inline: Annotated[bool, typer.Option(help="Send the bytes in the event instead of a file:// URI.")] = False,
    rate: Rate = 0,
) -> None:
    """Upsert every image of a folder; the Pin id follows from the path, so a second run updates."""
    from producers.pin_source import folder_events  # noqa: PLC0415 (rooms are imported when a command runs)

    _send(folder_events(path, domain, inline=inline), None, rate)


@app.command()
def jsonl(
    path: Annotated[Path, typer.Argument(help="File of one Pin event a line; - is standard input.")],
    rate: Rate = 0,
) -> None:
    """Send events as they are written, one JSON object a line: upserts and deletes."""
    from producers.pin_source import jsonl_events  # noqa: PLC0415

    if str(path) == "-":
        _send(jsonl_events(sys.stdin, "standard input"), None, rate)
        return
    try:
        with path.open(encoding="utf-8") as lines:
            _send(jsonl_events(lines, str(path)), None, rate)
    except (OSError, UnicodeDecodeError) as error:
        raise FatalError(f"{path} can't be read: {error}") from error


@app.command()
def delete(
    pin_ids: Annotated[list[int], typer.Argument(help="Pins to delete.")],
) -> None:
    """Delete Pins by their ids."""
    from pydantic import ValidationError  # noqa: PLC0415

    from producers.pin_source import delete_event  # noqa: PLC0415

    try:
        events = [delete_event(pin_id) for pin_id in pin_ids]
    except ValidationError as error:
        raise FatalError(f"a Pin id is wrong: {error.errors()[0]['input']}, expected 1 to 2^63-1") from error
    _send(events, len(events), 0)


@app.command()
def generated(
    count: Annotated[int, typer.Option(min=1, help="Pins to create.")] = 1000,
    products: Annotated[int, typer.Option(min=1, help="Products in the generated world.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the world: the same seed gives the same images.")] = 1,
    update_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the Pins that get a second image.")] = 0,
    delete_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the Pins that are deleted.")] = 0,
    images_dir: Annotated[Path | None, typer.Option(help="Write images here and send file:// URIs.")] = None,
    rate: Rate = 0,
) -> None:
    """Create Pins of the generated world, then update and delete some of them."""
    from producers.generated_pins import generated_events  # noqa: PLC0415
    from producers.world import World  # noqa: PLC0415

    total = count + int(count * update_share) + int(count * delete_share)
    events = generated_events(
        World(seed, products),
        count=count,
        updates=int(count * update_share),
        deletes=int(count * delete_share),
        images_dir=images_dir,
    )
    _send(events, total, rate)


def _send(events: Iterable[PinEvent], total: int | None, rate: float) -> None:
    from producers.kafka_pins import PinProducer  # noqa: PLC0415

    settings: Settings = load_settings()
    check_topics(reachable_admin(settings), pins_topics(settings.topics)[:1])
    started_s = time.monotonic()
    sent = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[per_s]:.0f}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with PinProducer(settings) as pins, Progress(*columns) as progress:
        task = progress.add_task(f"to {settings.topics.pins}", total=total, per_s=0.0)
        for event in paced(events, rate):
            pins.send(event)
            sent += 1
            if sent % 64 == 0 or rate:
                progress.update(task, completed=sent, per_s=sent / max(1e-9, time.monotonic() - started_s))
        pins.flush()
        progress.update(task, completed=sent, total=sent, per_s=sent / max(1e-9, time.monotonic() - started_s))
    typer.echo(f"{sent} events acknowledged by {settings.topics.pins}")


def paced(events: Iterable[PinEvent], rate: float) -> Iterator[PinEvent]:
    """The events at `rate` a second, each stamped with the moment it is sent; 0 leaves them as they are."""
    if not rate:
        yield from events
        return
    started_s = time.monotonic()
    for number, event in enumerate(events):
        wait_s = started_s + number / rate - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        yield event.model_copy(update={"event_time": time.time_ns() // 1_000_000})
