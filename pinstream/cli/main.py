"""`pinstream`: one clear sentence and exit code 1 for every error that we raise on purpose."""

from __future__ import annotations

import sys

import typer

from pinstream.cli import (
    ab,
    demo,
    index,
    local,
    model,
    produce,
    rollout,
    rollout_backfill,
    rollout_validate,
    serve,
    snapshot,
    topics,
    workers,
)
from pinstream.errors import PinstreamError

app = typer.Typer(
    name="pinstream",
    help="Keeps a visual search index fresh: Pins on Kafka become searchable codes within a fraction of a second.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(local.app, name="local")
app.add_typer(topics.app, name="topics")
app.add_typer(produce.app, name="produce")
app.add_typer(model.app, name="model")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(rollout.app, name="rollout")
rollout.app.command("validate")(rollout_validate.validate)
rollout.app.command("golden")(rollout_validate.golden)
rollout.app.command("backfill")(rollout_backfill.backfill)
app.add_typer(ab.app, name="ab")
app.command("serve")(serve.serve)
app.command("embed")(workers.embed)
app.add_typer(index.app, name="index")
app.command("schema")(topics.schema)
app.command("demo")(demo.run)


def main() -> None:
    """The console script."""
    try:
        app()
    except PinstreamError as error:
        print(f"pinstream: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
