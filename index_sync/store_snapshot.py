"""Snapshots of one shard in an object store or on local disk, through obstore.

    <codes topic>/<partition>/<SHA-256>.segment        a sealed segment, written once
    <codes topic>/<partition>/<SHA-256>.state          everything else of one snapshot
    <codes topic>/<partition>/manifest-<number>.json   published last, create-if-absent: an atomic fence
    <codes topic>/<partition>/set-aside/…              manifests that failed their check

Files are named by their content, so putting one again is harmless.
A power cut may tear files that a local disk had not written yet: their checksums tell, and an older snapshot is used.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore

from index_sync.checkpoint import (
    FORMAT,
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    SegmentEntry,
    ShardIdentity,
    check_identity,
    parse_manifest,
    write_manifest,
)
from index_sync.shard_state import ShardState
from index_sync.snapshot_files import read_segment, read_state, write_segment, write_state
from index_sync.store_files import delete_all, put_file, read_file, store_errors
from pinstream.errors import CorruptStateError, OwnershipLostError, RetryableError

logger = logging.getLogger(__name__)

_MANIFEST: Final = re.compile(r"(?:.*/)?manifest-(\d{10})\.json$")
_FILE: Final = re.compile(r"([0-9a-f]{64})\.(?:segment|state)$")


@dataclass(frozen=True, slots=True)
class Restored:
    state: ShardState
    manifest: Manifest | None
    """None: there was no usable snapshot, and `state` is empty."""
    set_aside: tuple[str, ...]
    """Why each newer snapshot was not used."""


class SnapshotStore:
    """One shard's snapshots. Call `restore` first, then `save` and `retain` from one thread. Every method blocks.

    Args:
        keep: newest snapshots that `retain` leaves.
        grace_s: `retain` leaves unreferenced files younger than this: somebody may be about to publish them.

    Raises:
        RetryableError: from every method: the store is away. Try again.
        FatalError: from every method: the store refuses us.
    """

    def __init__(self, store: ObjectStore, shard: ShardIdentity, *, keep: int = 3, grace_s: float = 3600) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}, expected at least 1")
        self._store = store
        self._shard = shard
        self._keep = keep
        self._grace = timedelta(seconds=grace_s)
        self._prefix = f"{shard.topic}/{shard.partition:05d}/"
        self._writer = uuid4().hex
        self._last_number: int | None = None
        self._published: dict[str, SegmentEntry] = {}
        """segment_id → its file, for segments of the last manifest."""

    def restore(self) -> Restored:
        """The newest snapshot that is whole; each corrupt one before it is set aside and logged.

        Raises:
            FatalError: a snapshot is of another model, code length or partition count.
        """
        reasons = []
        numbers = self._numbers(with_set_aside=True)
        self._last_number = numbers[0] if numbers else 0
        for number in self.numbers():
            try:
                manifest = self.manifest(number)
                state = self.load(manifest)
            except CorruptStateError as error:
                logger.error("snapshot %d of %s is set aside: %s", number, self._shard.name, error)
                reasons.append(str(error))
                self._set_aside(number)
                continue
            self._published = {
                one.segment.segment_id: entry for one, entry in zip(state.sealed, manifest.segments, strict=True)
            }
            return Restored(state, manifest, tuple(reasons))
        return Restored(ShardState.empty(self._shard.bits // 8), None, tuple(reasons))

    def save(self, state: ShardState, now_ms: int) -> Manifest:
        """Put the files that are new, then publish the manifest.

        Raises:
            OwnershipLostError: another writer has published a snapshot of this shard since our last one.
        """
        if self._last_number is None:
            raise ValueError("save before restore: a shard starts from its newest snapshot")
        entries = []
        for one in state.sealed:
            known = self._published.get(one.segment.segment_id)
            if known is None:
                file = put_file(self._store, self._prefix, "segment", write_segment(one.segment, self._shard.bits))
                entries.append(_segment_entry(file, one.segment.row_count, len(one.dead_row)))
            else:
                entries.append(_segment_entry(known, known.rows, len(one.dead_row)))
        manifest = Manifest(
            format=FORMAT,
            number=self._last_number + 1,
            shard=self._shard,
            writer=self._writer,
            created_ms=now_ms,
            checkpoint=state.checkpoint,
            newest_event_time_ms=state.newest_event_time_ms,
            live_rows=state.live_rows,
            segments=tuple(entries),
            state=put_file(self._store, self._prefix, "state", write_state(state, self._shard.bits)),
        )
        self._publish(manifest)
        self._published = {
            one.segment.segment_id: entry for one, entry in zip(state.sealed, manifest.segments, strict=True)
        }
        return manifest

    def retain(self) -> int:
        """Remove all but the newest `keep` manifests, then old files that no manifest names. Returns how many objects.

        Raises:
            OwnershipLostError: a newer manifest than our last one is there: its owner does the tidying now.
        """
        with store_errors("list snapshots"):
            objects = [one for page in obstore.list(self._store, self._prefix) for one in page]
        numbers = self.numbers()
        if self._last_number is not None and numbers and numbers[0] > self._last_number:
            raise OwnershipLostError(f"snapshot {numbers[0]} of {self._shard.name} is another writer's: stop writing")
        removed = [self._manifest_path(number) for number in numbers[self._keep :]]
        delete_all(self._store, removed)
        try:
            kept = [self.manifest(number) for number in self.numbers()]
        except CorruptStateError as error:
            logger.warning(
                "no snapshot files of %s are removed, for what they belong to is unknown: %s", self._shard.name, error
            )
            return len(removed)
        needed = frozenset[str]().union(*(one.hashes for one in kept))
        now = max((one["last_modified"] for one in objects), default=None)
        unneeded = [
            one["path"]
            for one in objects
            if (name := _FILE.search(one["path"])) is not None
            and name[1] not in needed
            and now is not None
            and now - one["last_modified"] >= self._grace
        ]
        delete_all(self._store, unneeded)
        return len(removed) + len(unneeded)

    def numbers(self) -> list[int]:
        """Numbers of the manifests, newest first."""
        return self._numbers(with_set_aside=False)

    def manifest(self, number: int) -> Manifest:
        """Raises CorruptStateError if it can't be read or is missing, FatalError if it is of another shard or model."""
        path = self._manifest_path(number)
        with store_errors("read a snapshot manifest"):
            try:
                size = obstore.head(self._store, path)["size"]
                if not 0 < size <= MAX_MANIFEST_BYTES:
                    raise CorruptStateError(f"snapshot manifest {number} has {size} bytes")
                content = bytes(obstore.get_range(self._store, path, start=0, end=size))
            except FileNotFoundError as error:
                raise CorruptStateError(f"snapshot manifest {number} is missing") from error
        manifest = parse_manifest(content, number)
        check_identity(manifest, self._shard)
        return manifest

    def load(self, manifest: Manifest) -> ShardState:
        """Read and check everything that a manifest names. Raises CorruptStateError."""
        bits = self._shard.bits
        segments = []
        for entry in manifest.segments:
            segment = read_segment(read_file(self._store, self._prefix, "segment", entry), bits, uuid4().hex)
            if segment.row_count != entry.rows:
                raise CorruptStateError(f"segment {entry.sha256} has {segment.row_count} rows, expected {entry.rows}")
            segments.append(segment)
        content = read_file(self._store, self._prefix, "state", manifest.state)
        state = read_state(content, bits, segments, manifest.checkpoint, manifest.newest_event_time_ms)
        if state.live_rows != manifest.live_rows:
            raise CorruptStateError(
                f"snapshot {manifest.number} has {state.live_rows} living rows, expected {manifest.live_rows}"
            )
        return state

    def _publish(self, manifest: Manifest) -> None:
        """Create the manifest under its number, which nobody may have taken."""
        path = self._manifest_path(manifest.number)
        with store_errors("publish a snapshot manifest"):
            try:
                obstore.put(self._store, path, write_manifest(manifest), mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                self._refuse_if_foreign(manifest.number, error)
        self._last_number = manifest.number
        newest = self.numbers()[0]
        if newest > manifest.number:
            raise OwnershipLostError(f"snapshot {newest} of {self._shard.name} is another writer's: stop writing")

    def _refuse_if_foreign(self, number: int, error: Exception) -> None:
        """Our own put may have arrived though its answer did not; then the number is spent and the next one is ours."""
        try:
            ours = self.manifest(number).writer == self._writer
        except CorruptStateError:
            ours = False
        if ours:
            self._last_number = number
            raise RetryableError(
                f"snapshot {number} of {self._shard.name} was already published by us: save again"
            ) from error
        raise OwnershipLostError(
            f"snapshot {number} of {self._shard.name} is another writer's: stop writing"
        ) from error

    def _set_aside(self, number: int) -> None:
        with store_errors("set a snapshot aside"):
            path = self._manifest_path(number)
            name = path.removeprefix(self._prefix)
            try:
                obstore.rename(self._store, path, f"{self._prefix}set-aside/{name}")
            except FileNotFoundError:
                logger.info("snapshot %d of %s is gone already", number, self._shard.name)

    def _numbers(self, *, with_set_aside: bool) -> list[int]:
        with store_errors("list snapshots"):
            paths = [one["path"] for page in obstore.list(self._store, self._prefix) for one in page]
        names = [path.removeprefix(self._prefix) for path in paths]
        found = (_MANIFEST.match(name) for name in names if with_set_aside or "/" not in name)
        return sorted({int(one[1]) for one in found if one is not None}, reverse=True)

    def _manifest_path(self, number: int) -> str:
        return f"{self._prefix}manifest-{number:010d}.json"


def _segment_entry(file: FileEntry, rows: int, dead_rows: int) -> SegmentEntry:
    return SegmentEntry(sha256=file.sha256, size_bytes=file.size_bytes, rows=rows, dead_rows=dead_rows)
