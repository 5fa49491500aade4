"""`pinstream index`: run an index worker; and `pinstream index audit`: hold its shards against the topic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pinstream.cli import workers
from pinstream.codes import Fingerprint, check_bits
from pinstream.errors import FatalError, RetryableError
from pinstream.kafka_clients import redis_url
from pinstream.settings import Settings, load_settings

if TYPE_CHECKING:
    from index_sync.checkpoint import ShardIdentity
    from index_sync.kafka_audit import AuditReport

app = typer.Typer(help="Run an index worker, or audit running ones.", invoke_without_command=True)


@app.callback()
def run(
    context: typer.Context,
    threads: workers.Threads = 1,
    images: Annotated[bool, typer.Option(help="Load the model, to take images as queries.")] = True,
) -> None:
    """Run an index worker: applies codes to its shards and answers searches, until SIGTERM or Ctrl-C."""
    if context.invoked_subcommand is None:
        workers.index(threads, images)


@app.command()
def audit(
    url: Annotated[
        list[str] | None,
        typer.Option(help="HTTP address of an index worker, once for each. Default: all that Redis knows."),
    ] = None,
    partition: Annotated[list[int] | None, typer.Option(min=0, help="Only this shard; once for each.")] = None,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Audit the newest snapshots instead.")] = False,
    model: Annotated[str, typer.Option(help="Fingerprint, 64 hex digits. Default: of the model of the settings.")] = "",
    bits: Annotated[int, typer.Option(help="Bits of a code, with --model.")] = 2048,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, one line a shard.")] = False,
) -> None:
    """Compare shards with a fold of the codes topic up to their checkpoints, while everything runs.

    Exit code 0: every Pin is there once, with the topic's newest code. 1: not so, or it can't be told.
    """
    if url and snapshot:
        raise FatalError("got --url and --snapshot, expected one of them at most")
    settings = load_settings()
    fingerprint, bits = (Fingerprint(model), bits) if model else _model(settings)
    check_bits(bits)
    wanted = frozenset(partition or ())
    reports = (
        _snapshots(settings, fingerprint, bits, wanted)
        if snapshot
        else _running(settings, fingerprint, bits, wanted, url or _known_urls(settings, fingerprint))
    )
    clean, seen = True, set()
    for report in reports:
        typer.echo(json.dumps(report.as_json()) if as_json else _text(report))
        clean = clean and report.found.clean
        seen.add(int(report.shard.rpartition("/")[2]))
    if not seen or wanted - seen:
        what = f"shards {', '.join(map(str, sorted(wanted - seen)))}" if wanted else "any shard"
        raise FatalError(f"{what} can't be found there: nothing was audited")
    if not clean:
        raise typer.Exit(1)


def _running(
    settings: Settings, model: Fingerprint, bits: int, wanted: frozenset[int], urls: list[str]
) -> Iterator[AuditReport]:
    """The shards of running workers, one after the other: each in one state, whatever is applied meanwhile."""
    from index_sync.http_audit import NodeClient  # noqa: PLC0415 (rooms are imported when a command runs)
    from index_sync.kafka_audit import audit_shard  # noqa: PLC0415

    for url in urls:
        node = NodeClient(url)
        try:
            for partition in node.shards(model.hex):
                if not wanted or partition in wanted:
                    dump = node.read(partition, model.hex, bits)
                    identity = _identity(settings, model, bits, partition)
                    yield audit_shard(settings, identity, node.url, dump.checkpoint, dump.rows, dump.parts)
        finally:
            node.close()


def _known_urls(settings: Settings, model: Fingerprint) -> list[str]:
    """Of the workers that hold a lease in Redis now."""
    from index_sync.redis_leases import read_leases  # noqa: PLC0415
    from pinstream.redis_client import REDIS_AWAY, connect  # noqa: PLC0415

    address = redis_url(settings)
    if not address:
        raise FatalError("no Redis is set to find the workers by: pass their --url")
    try:
        with connect(address, settings.redis.timeout_s, "cli") as redis:
            return [lease.url for lease in read_leases(redis, model) if lease.url]
    except REDIS_AWAY as error:
        raise RetryableError(f"Redis is away ({error}): pass the workers' --url") from error


def _snapshots(settings: Settings, model: Fingerprint, bits: int, wanted: frozenset[int]) -> Iterator[AuditReport]:
    """The newest snapshot of each shard, whole or not: a broken one is an error, not passed over."""
    from index_sync.kafka_audit import audit_shard  # noqa: PLC0415
    from index_sync.shard import Shard  # noqa: PLC0415
    from index_sync.store_snapshot import SnapshotStore  # noqa: PLC0415
    from pinstream.object_store import open_store  # noqa: PLC0415

    store = open_store(settings.snapshot_url, settings.fetch.store_options, setting="index.snapshot_url", retries=3)
    for partition in sorted(wanted or range(settings.topics.partitions)):
        identity = _identity(settings, model, bits, partition)
        snapshots = SnapshotStore(store, identity)
        numbers = snapshots.numbers()
        if numbers:
            manifest = snapshots.manifest(numbers[0])
            view = Shard(bits, state=snapshots.load(manifest)).view()
            source = f"snapshot {manifest.number}"
            yield audit_shard(settings, identity, source, view.checkpoint, view.live_rows, view.items())


def _identity(settings: Settings, model: Fingerprint, bits: int, partition: int) -> ShardIdentity:
    from index_sync.checkpoint import ShardIdentity  # noqa: PLC0415

    return ShardIdentity(
        topic=model.codes_topic,
        partition=partition,
        partitions=settings.topics.partitions,
        bits=bits,
        model=model.hex,
    )


def _model(settings: Settings) -> tuple[Fingerprint, int]:
    from embedder.model.artifact import default_artifact_path, load_artifact  # noqa: PLC0415

    artifact = load_artifact(settings.model_path or default_artifact_path())
    return artifact.fingerprint, artifact.bits


def _text(report: AuditReport) -> str:
    found = report.found
    lines = [
        f"{report.shard} of {report.source}: {report.pins} Pins, {report.pins_by_topic} by the topic, at checkpoint "
        f"{report.checkpoint} of {report.end}, {report.seconds:.1f} s: "
        + ("all the same" if found.clean else "NOT THE SAME")
    ]
    for name, faults in (("missing", found.missing), ("extra", found.extra), ("different", found.different)):
        if faults.count:
            lines.append(f"  {name}: {faults.count}")
            lines += [f"    {example}" for example in faults.examples]
    if found.moved_on:
        lines.append(f"  not judged: {found.moved_on} that have newer records, older ones being compacted away")
    return "\n".join(lines)
