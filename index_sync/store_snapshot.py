"""Snapshots of one shard in an object store or on local disk, through obstore.

    <codes topic>/<partition>/<SHA-256>.segment        a sealed segment, written once
    <codes topic>/<partition>/<SHA-256>.state          everything else of one snapshot
    <codes topic>/<partition>/manifest-<number>.json   published last, create-if-absent: an atomic fence
    <codes topic>/<partition>/set-aside/…              manifests that failed their check

Files are named by their content, so putting one again is harmless. obstore does not wait until a local disk has
written (no fsync): a power cut may tear files, their checksums tell, and an older snapshot is used.
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
from index_sync.store_files import (
    delete_all,
    delete_half_puts,
    file_path,
    list_sizes,
    put_file,
    read_file,
    store_errors,
)
from pinstream.errors import CorruptStateError, OwnershipLostError

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
        self.shard = shard
        self._keep = keep
        self._grace = timedelta(seconds=grace_s)
        self._prefix = f"{shard.topic}/{shard.partition:05d}/"
        self._writer = uuid4().hex
        self._last_number: int | None = None
        self._put: dict[str, FileEntry] = {}
        """segment_id → its file, for segments that we put or read."""

    def restore(self) -> Restored:
        """The newest snapshot that is whole; each corrupt one before it is set aside and logged.

        Raises:
            FatalError: a snapshot is of another model, code length or partition count.
        """
        reasons: list[str] = []
        tried: set[int] = set()
        self.take_over()
        while untried := [number for number in self.numbers() if number not in tried]:  # its owner may be tidying up
            number = untried[0]
            tried.add(number)
            try:
                manifest = self.manifest(number)
                state = self.load(manifest)
            except CorruptStateError as error:
                logger.error("snapshot %d of %s is set aside: %s", number, self.shard.name, error)
                reasons.append(str(error))
                self._set_aside(number)
                continue
            self._put = {
                one.segment.segment_id: entry for one, entry in zip(state.sealed, manifest.segments, strict=True)
            }
            return Restored(state, manifest, tuple(reasons))
        return Restored(ShardState.empty(self.shard.bits // 8), None, tuple(reasons))

    def take_over(self) -> None:
        """Go on after the newest number, whoever published it. For a writer that knows that it owns the shard."""
        numbers = self._numbers(with_set_aside=True)
        self._last_number = numbers[0] if numbers else 0

    def save(self, state: ShardState, now_ms: int, complete_ms: int | None = None) -> Manifest:
        """Put the files that are new, then publish the manifest.

        Args:
            complete_ms: when the shard last held all that its partition had; None: not known.

        Raises:
            OwnershipLostError: another writer has published a snapshot of this shard since our last one.
        """
        sizes = list_sizes(self._store, self._prefix)
        entries = []
        for one in state.sealed:
            file = self._put.get(one.segment.segment_id)
            if file is None or sizes.get(file_path(self._prefix, file, "segment")) != file.size_bytes:
                file = put_file(self._store, self._prefix, "segment", write_segment(one.segment, self.shard.bits))
                self._put[one.segment.segment_id] = file
            entries.append(
                SegmentEntry(
                    sha256=file.sha256,
                    size_bytes=file.size_bytes,
                    rows=one.segment.row_count,
                    dead_rows=len(one.dead_row),
                )
            )
        manifest = self._publish(
            Manifest(
                format=FORMAT,
                number=self._next_number(),
                shard=self.shard,
                writer=self._writer,
                created_ms=now_ms,
                complete_ms=complete_ms,
                checkpoint=state.checkpoint,
                newest_event_time_ms=state.newest_event_time_ms,
                live_rows=state.live_rows,
                segments=tuple(entries),
                state=put_file(self._store, self._prefix, "state", write_state(state, self.shard.bits)),
            )
        )
        held = {one.segment.segment_id for one in state.sealed}
        self._put = {segment_id: file for segment_id, file in self._put.items() if segment_id in held}
        return manifest

    def publish_again(self, manifest: Manifest) -> Manifest:
        """Make a snapshot whose files are all here the newest: the same state and age under the next number.

        Raises:
            OwnershipLostError: another writer has published a snapshot of this shard meanwhile.
        """
        fields = {"format": FORMAT, "number": self._next_number(), "writer": self._writer}
        return self._publish(manifest.model_copy(update=fields))

    def retain(self) -> int:
        """Remove all but the newest `keep` manifests, then old files that no manifest names. Returns how many objects.

        Raises:
            OwnershipLostError: a newer manifest than our last one is there: its owner does the tidying now.
        """
        with store_errors("list snapshots"):
            objects = [one for page in obstore.list(self._store, self._prefix) for one in page]
        numbers = self.numbers()
        if self._last_number is not None and numbers and numbers[0] > self._last_number:
            raise OwnershipLostError(self._foreign(numbers[0]))
        removed = [self._manifest_path(number) for number in numbers[self._keep :]]
        delete_all(self._store, removed)
        try:
            kept = [self.manifest(number) for number in self.numbers()]
        except CorruptStateError as error:
            logger.warning(
                "no snapshot files of %s are removed, for what they belong to is unknown: %s", self.shard.name, error
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
        half_put = delete_half_puts(self._store, self._prefix, self._grace.total_seconds())
        return len(removed) + len(unneeded) + half_put

    def numbers(self) -> list[int]:
        """Numbers of the manifests, newest first."""
        return self._numbers(with_set_aside=False)

    def newest(self) -> Manifest | None:
        """The newest manifest that can be read; its files are not looked at."""
        return next((found for number in self.numbers() if (found := self._manifest_or_none(number))), None)

    def manifest(self, number: int) -> Manifest:
        """Raises CorruptStateError if it can't be read or is missing, FatalError if it is of another shard or model."""
        manifest = read_manifest(self._store, self._manifest_path(number), number)
        check_identity(manifest, self.shard)
        return manifest

    def load(self, manifest: Manifest) -> ShardState:
        """Read and check everything that a manifest names. Raises CorruptStateError."""
        bits = self.shard.bits
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

    def _next_number(self) -> int:
        if self._last_number is None:
            raise ValueError("save before restore: a shard starts from its newest snapshot")
        return self._last_number + 1

    def _publish(self, manifest: Manifest) -> Manifest:
        """Create the manifest under its number, which nobody else may have taken."""
        with store_errors("publish a snapshot manifest"):
            try:
                path = self._manifest_path(manifest.number)
                obstore.put(self._store, path, write_manifest(manifest), mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                # Our own put may have arrived though its answer did not: then the number is spent, by us.
                taken = self._manifest_or_none(manifest.number)
                if taken is None or taken.writer != self._writer:
                    raise OwnershipLostError(self._foreign(manifest.number)) from error
                self._last_number = manifest.number
                if taken != manifest:
                    return self._publish(manifest.model_copy(update={"number": manifest.number + 1}))
        self._last_number = manifest.number
        newest = self.numbers()[0]
        if newest > manifest.number:
            raise OwnershipLostError(self._foreign(newest))
        return manifest

    def _manifest_or_none(self, number: int) -> Manifest | None:
        try:
            return self.manifest(number)
        except CorruptStateError:
            return None

    def _foreign(self, number: int) -> str:
        return f"snapshot {number} of {self.shard.name} is another writer's: stop writing"

    def _set_aside(self, number: int) -> None:
        with store_errors("set a snapshot aside"):
            path = self._manifest_path(number)
            name = path.removeprefix(self._prefix)
            try:
                obstore.rename(self._store, path, f"{self._prefix}set-aside/{name}")
            except FileNotFoundError:
                logger.info("snapshot %d of %s is gone already", number, self.shard.name)

    def _numbers(self, *, with_set_aside: bool) -> list[int]:
        names = [path.removeprefix(self._prefix) for path in list_sizes(self._store, self._prefix)]
        found = (_MANIFEST.match(name) for name in names if with_set_aside or "/" not in name)
        return sorted({int(one[1]) for one in found if one is not None}, reverse=True)

    def _manifest_path(self, number: int) -> str:
        return f"{self._prefix}manifest-{number:010d}.json"


def read_manifest(store: ObjectStore, path: str, number: int) -> Manifest:
    """Any shard's manifest. Blocks.

    Raises:
        CorruptStateError: it can't be read or is missing.
        FatalError: a newer pinstream wrote it, or the store refuses us.
        RetryableError: the store is away.
    """
    with store_errors("read a snapshot manifest"):
        try:
            size = obstore.head(store, path)["size"]
            if not 0 < size <= MAX_MANIFEST_BYTES:
                raise CorruptStateError(f"snapshot manifest {number} has {size} bytes")
            content = bytes(obstore.get_range(store, path, start=0, end=size))
        except FileNotFoundError as error:
            raise CorruptStateError(f"snapshot manifest {number} is missing") from error
    return parse_manifest(content, number)
