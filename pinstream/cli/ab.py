"""`pinstream ab`: what A/B tests of generations say."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import Annotated

import typer

from pinstream.errors import BadRecordError, FatalError
from pinstream.settings import load_settings

app = typer.Typer(help="A/B tests of generations.", no_args_is_help=True)

_AGO = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


@app.callback()
def _group() -> None:
    """Keeps `report` a sub-command while it is the only one."""


@app.command()
def report(
    application: Annotated[str, typer.Option(help="flashlight, lens or shop_the_look. Default: all.")] = "",
    test: Annotated[str, typer.Option(help="Only the test of this name (the salt of its split).")] = "",
    since: Annotated[
        str,
        typer.Option(
            help="Only events since then: 7d, 12h, 30m, or RFC 3339 with a zone. Choose it before you look: "
            "a period that is chosen by its result says nothing."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON, one line a test.")] = False,
) -> None:
    """Compare the arms of each test: lift by users and by volume, and whether there is a winner.

    Look as often as you like: the intervals and the verdict hold at all looks together.
    """
    from rollout.ab.fold import EngagementFold  # noqa: PLC0415 (rooms are imported when a command runs)
    from rollout.ab.judgement import judge  # noqa: PLC0415
    from rollout.ab.kafka_engagements import read_engagements  # noqa: PLC0415
    from rollout.ab.report import as_json as machine_form  # noqa: PLC0415
    from rollout.ab.report import text  # noqa: PLC0415
    from rollout.generation import Application  # noqa: PLC0415

    if application and application not in set(Application):
        raise FatalError(f"application is {application!r}, expected one of: {', '.join(Application)}")
    since_ms = parse_since(since, time.time_ns() // 1_000_000) if since else 0
    fold = EngagementFold(
        application=Application(application) if application else None, test=test or None, since_ms=since_ms
    )
    malformed = 0
    for record in read_engagements(load_settings(), since_ms):
        if isinstance(record, BadRecordError):
            malformed += 1
        else:
            fold.add(record)
    judgements = [judge(folded) for folded in fold.done()]
    if not judgements:
        raise FatalError(
            "there are no events of such a test: does one run (`pinstream rollout status`), and does your "
            "application report to /v1/events?"
        )
    for judgement in judgements:
        typer.echo(json.dumps(machine_form(judgement)) if as_json else text(judgement) + "\n")
    if not as_json and (fold.repeated or malformed):
        typer.echo(f"not counted: {fold.repeated:,} events that came again, {malformed:,} records that are no events")


def parse_since(text: str, now_ms: int) -> int:
    """`7d`, `12h`, `30m` ago, or RFC 3339 with a zone → epoch ms.

    Raises:
        FatalError: neither.
    """
    ago = _AGO.fullmatch(text)
    if ago:
        return now_ms - int(ago[1]) * _SECONDS[ago[2]] * 1000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise FatalError(f"since is {text!r}, expected 7d, 12h, 30m, or RFC 3339 with a zone")
    return int(moment.timestamp() * 1000)
