"""What snapshots a store holds, of whatever generation, told from the store alone; and copies from store to store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from obstore.store import ObjectStore

from index_sync.checkpoint import Manifest, ShardIdentity
from index_sync.store_files import file_path, list_sizes, put_file, read_file
from index_sync.store_quantizer import QuantizerStore
from index_sync.store_snapshot import SnapshotStore, read_manifest
from pinstream.errors import CorruptStateError, FatalError

_MANIFEST: Final = re.compile(r"((codes\.[A-Za-z0-9._-]+)/(\d{5})/)manifest-(\d{10})\.json$")


@dataclass(frozen=True, slots=True)
class FoundSnapshot:
    """One snapshot of one shard, as a store shows it."""

    topic: str
    partition: int
    number: int
    folder: str
    manifest: Manifest | None
    """None: it can't be read, and `fault` says why."""
    fault: str | None
    """Why it can't be restored, as far as names and sizes tell; None if all of it is there."""

    @property
    def name(self) -> str:
        return f"snapshot {self.number} of {self.topic}/{self.partition}"


def find_snapshots(store: ObjectStore, topic: str | None = None, partition: int | None = None) -> list[FoundSnapshot]:
    """Every snapshot of these shards, the newest of each shard first. Reads names, sizes and manifests. Blocks.

    Raises:
        RetryableError, FatalError: the store is away, or refuses us.
    """
    sizes = list_sizes(store, f"{topic}/" if topic else "")
    matches = [match for path in sizes if (match := _MANIFEST.match(path))]
    wanted = [match for match in matches if partition is None or int(match[3]) == partition]
    wanted.sort(key=lambda match: (match[2], int(match[3]), -int(match[4])))
    return [_look(store, match, sizes) for match in wanted]


def choose(found: list[FoundSnapshot], number: int | None) -> FoundSnapshot:
    """The one with that number, or the newest that is whole, of one shard.

    Raises:
        FatalError: there is none, or there are several shards to choose from.
    """
    shards = sorted({f"{one.topic}/{one.partition}" for one in found})
    if len(shards) > 1:
        raise FatalError(f"there are snapshots of {', '.join(shards[:8])}: choose one with --topic and --partition")
    fitting = [one for one in found if (one.fault is None if number is None else one.number == number)]
    if not fitting:
        there = ", ".join(str(one.number) for one in found) or "none at all"
        raise FatalError(f"there is no {'whole snapshot' if number is None else f'snapshot {number}'}; found {there}")
    return fitting[0]


def copy_files(source: ObjectStore, folder: str, manifest: Manifest, target: ObjectStore) -> int:
    """Put the snapshot's files that the target lacks, each checked as it is read; returns the bytes sent. Blocks.

    Raises:
        CorruptStateError: a file is missing or damaged at the source.
        RetryableError, FatalError: a store is away, or refuses us.
    """
    sizes = list_sizes(target, folder)
    sent = 0
    for kind, entry in manifest.files:
        if sizes.get(file_path(folder, entry, kind)) != entry.size_bytes:
            put_file(target, folder, kind, [read_file(source, folder, kind, entry).data])
            sent += entry.size_bytes
    return sent


def copy_quantizer(source: ObjectStore, shard: ShardIdentity, target: ObjectStore) -> None:
    """Offer the generation's quantizer to the target, where one that is there already stays. Blocks.

    Raises:
        CorruptStateError: it is damaged at the source.
        RetryableError, FatalError: a store is away, or refuses us.
    """
    quantizer = QuantizerStore(source, shard.topic, shard.bits).load()
    if quantizer is not None:
        QuantizerStore(target, shard.topic, shard.bits).publish(quantizer)


def snapshots_of(store: ObjectStore, shard: ShardIdentity) -> SnapshotStore:
    """The shard's snapshots, ready to publish after the newest one."""
    snapshots = SnapshotStore(store, shard)
    snapshots.take_over()
    return snapshots


def _look(store: ObjectStore, match: re.Match[str], sizes: dict[str, int]) -> FoundSnapshot:
    folder, topic, partition, number = match[1], match[2], int(match[3]), int(match[4])
    try:
        manifest = read_manifest(store, match[0], number)
    except (CorruptStateError, FatalError) as error:
        return FoundSnapshot(topic, partition, number, folder, None, str(error))
    faults = list(_faults(manifest, folder, sizes))
    if (manifest.shard.topic, manifest.shard.partition) != (topic, partition):
        faults.append(f"manifest is of {manifest.shard.name}, expected {topic}/{partition}: it was moved")
    return FoundSnapshot(topic, partition, number, folder, manifest, faults[0] if faults else None)


def _faults(manifest: Manifest, folder: str, sizes: dict[str, int]) -> Iterator[str]:
    for kind, entry in manifest.files:
        size = sizes.get(file_path(folder, entry, kind))
        if size is None:
            yield f"{entry.sha256[:12]}….{kind} is missing"
        elif size != entry.size_bytes:
            yield f"{entry.sha256[:12]}….{kind} has {size} bytes, expected {entry.size_bytes}"
