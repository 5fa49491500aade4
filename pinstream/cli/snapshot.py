"""`pinstream snapshot`: build, list, check and bring back the index's snapshots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pinstream.clock import SystemClock
from pinstream.errors import CorruptStateError, FatalError
from pinstream.object_store import open_store
from pinstream.settings import Settings, load_settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from index_sync.checkpoint import ShardIdentity
    from index_sync.store_catalog import FoundSnapshot

app = typer.Typer(help="Build, list, check and bring back snapshots of the index.", no_args_is_help=True)

UrlOption = Annotated[str, typer.Option(help="Where the snapshots are. Default: the setting index.snapshot_url.")]
TopicOption = Annotated[str | None, typer.Option(help="Codes topic. Default: every one that is there.")]
PartitionOption = Annotated[int | None, typer.Option(min=0, help="Default: all of them.")]
MAX_DIFFERENCES = 10
"""Printed for each snapshot."""


@app.command()
def create(partition: PartitionOption = None) -> None:
    """Build snapshots of the model's shards without a worker: newest snapshot + rest of the topic, published.

    A partition that a running index worker owns is refused: that worker publishes its own snapshots.
    """
    from embedder.model.artifact import default_artifact_path, load_artifact  # noqa: PLC0415  # a lazy room
    from index_sync.checkpoint import ShardIdentity  # noqa: PLC0415
    from index_sync.offline_shard import build_snapshot  # noqa: PLC0415

    settings = load_settings()
    count = settings.topics.partitions
    if partition is not None and partition >= count:
        raise FatalError(f"--partition is {partition}, expected 0 to {count - 1} (topics.partitions is {count})")
    artifact = load_artifact(settings.model_path or default_artifact_path())
    shards = [
        ShardIdentity(
            topic=artifact.fingerprint.codes_topic,
            partition=number,
            partitions=count,
            bits=artifact.bits,
            model=artifact.fingerprint.hex,
        )
        for number in (range(count) if partition is None else [partition])
    ]
    for shard in shards:
        _refuse_if_owned(settings, shard)
    for shard in shards:
        manifest = build_snapshot(settings, shard, SystemClock())
        typer.echo(
            f"snapshot {manifest.number} of {shard.name}: {manifest.live_rows} Pins, checkpoint {manifest.checkpoint}, "
            f"{_size(manifest.size_bytes)}"
        )


@app.command(name="list")
def list_snapshots(url: UrlOption = "", topic: TopicOption = None, partition: PartitionOption = None) -> None:
    """List the snapshots, the newest of each shard first; `whole` says if every file is there in its size."""
    settings = load_settings()
    _, found = _find(settings, url, topic, partition)
    columns = ("model", "partition", "snapshot", "checkpoint", "age", "Pins", "segments", "size", "whole")
    table = Table(*columns, box=None, pad_edge=False)
    for one in found:
        table.add_row(*_cells(one), "yes" if one.fault is None else f"[red]no[/]: {one.fault}")
    Console(width=200).print(table)


@app.command()
def verify(
    url: UrlOption = "",
    topic: TopicOption = None,
    partition: PartitionOption = None,
    number: Annotated[int | None, typer.Option(min=1, help="One snapshot. Default: all of them.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Compare with a fold of the codes topic as well.")] = False,
) -> None:
    """Read every byte of snapshots and check it; exit code 1 if one can't be restored.

    --deep applies the rest of the topic to each and compares every Pin with a plain fold of the topic.
    """
    settings = load_settings()
    store, found = _find(settings, url, topic, partition)
    chosen = [one for one in found if number is None or one.number == number]
    if not chosen:
        raise FatalError(f"there is no snapshot {number}; found {', '.join(str(one.number) for one in found)}")
    bad = 0
    for one in chosen:
        faults = list(_faults(settings, store, one, deep=deep))
        bad += bool(faults)
        typer.echo(f"{one.name}: {'; '.join(faults) if faults else 'whole' + (', equal to the topic' * deep)}")
    if bad:
        raise FatalError(
            f"{bad} of {len(chosen)} snapshots can't be trusted: an index worker uses the newest whole one"
        )


@app.command()
def restore(
    url: UrlOption = "",
    topic: TopicOption = None,
    partition: PartitionOption = None,
    number: Annotated[int | None, typer.Option(min=1, help="Default: the newest that is whole.")] = None,
    to: Annotated[str, typer.Option(help="Another store or folder to copy it to. Default: stay where it is.")] = "",
) -> None:
    """Make a snapshot of one shard the newest, here or in another store; the next start of its worker begins there.

    Every byte is checked before it is published. Here, it is refused while an index worker owns the partition.
    """
    from index_sync.store_catalog import choose, copy_files, copy_quantizer, snapshots_of  # noqa: PLC0415  # a lazy room

    settings = load_settings()
    store, found = _find(settings, url, topic, partition)
    one = choose(found, number)
    if one.manifest is None:
        raise FatalError(f"{one.name} can't be restored: {one.fault}")
    shard = one.manifest.shard
    target, sent = store, 0
    if to:
        target = _open(settings, to, "--to")
        sent = copy_files(store, one.folder, one.manifest, target)
        copy_quantizer(store, shard, target)
    else:
        _refuse_if_owned(settings, shard)
    snapshots = snapshots_of(target, shard)
    try:
        snapshots.load(one.manifest)
    except CorruptStateError as error:
        raise FatalError(f"{one.name} can't be restored: {error}") from error
    published = snapshots.publish_again(one.manifest)
    where = f"in {to} ({_size(sent)} sent)" if to else "now the newest"
    typer.echo(f"{one.name} is snapshot {published.number} {where}, checkpoint {published.checkpoint}")


def _open(settings: Settings, url: str, setting: str) -> ObjectStore:
    return open_store(url, settings.fetch.store_options, setting=setting, retries=3)


def _find(
    settings: Settings, url: str, topic: str | None, partition: int | None
) -> tuple[ObjectStore, list[FoundSnapshot]]:
    """The store, and the snapshots asked for. Raises FatalError: there is none."""
    from index_sync.store_catalog import find_snapshots  # noqa: PLC0415  # a lazy room

    where = url or settings.snapshot_url
    store = _open(settings, where, "--url" if url else "index.snapshot_url")
    found = find_snapshots(store, topic, partition)
    if not found:
        of = " of ".join(name for name in (partition is not None and f"partition {partition}", topic) if name)
        raise FatalError(f"there are no snapshots{' of ' * bool(of)}{of} in {where}")
    return store, found


def _faults(settings: Settings, store: ObjectStore, one: FoundSnapshot, *, deep: bool) -> Iterator[str]:
    """What is wrong with a snapshot; nothing if it can be restored."""
    from index_sync.offline_shard import compare_with_topic  # noqa: PLC0415  # a lazy room
    from index_sync.snapshot_check import check_order  # noqa: PLC0415
    from index_sync.store_quantizer import QuantizerStore  # noqa: PLC0415
    from index_sync.store_snapshot import SnapshotStore  # noqa: PLC0415

    if one.manifest is None:
        yield one.fault or "it can't be read"
        return
    try:
        state = SnapshotStore(store, one.manifest.shard).load(one.manifest)
        check_order(state)
        QuantizerStore(store, one.topic, one.manifest.shard.bits).load()
    except CorruptStateError as error:
        yield str(error)
        return
    if deep:
        living, differing = compare_with_topic(settings, one.manifest.shard, state)
        yield from differing[:MAX_DIFFERENCES]
        if len(differing) > MAX_DIFFERENCES:
            yield f"{len(differing)} differences in {living} Pins"


def _refuse_if_owned(settings: Settings, shard: ShardIdentity) -> None:
    from index_sync.kafka_facts import owner_of  # noqa: PLC0415  # a lazy room
    from pinstream.codes import Fingerprint  # noqa: PLC0415
    from pinstream.kafka_clients import reachable_admin  # noqa: PLC0415

    reachable_admin(settings)
    group_id = settings.index.group_id or f"pinstream-index-{Fingerprint(shard.model).short}"
    owner = owner_of(settings, group_id, shard.topic, shard.partition)
    if owner is not None:
        raise FatalError(
            f"partition {shard.partition} of {shard.topic} belongs to a running index worker ({owner}), which "
            "publishes its own snapshots: stop it first"
        )


def _cells(one: FoundSnapshot) -> tuple[str, ...]:
    model, partition, number = one.topic.rpartition(".")[2], str(one.partition), str(one.number)
    if one.manifest is None:
        return model, partition, number, "-", "-", "-", "-", "-"
    manifest = one.manifest
    return (
        *(model, partition, number, str(manifest.checkpoint), _age(time.time() - manifest.created_ms / 1000)),
        *(str(manifest.live_rows), str(len(manifest.segments)), _size(manifest.size_bytes)),
    )


def _age(seconds: float) -> str:
    for unit, length_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f}{unit}"
    return f"{seconds:.0f}s"


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"
