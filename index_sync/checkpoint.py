"""The manifest of a snapshot: which files hold a shard's state, and up to which offset. Pure.

A manifest is published whole and last, so the checkpoint and the state that it stands for can't come apart.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pinstream.errors import CorruptStateError, FatalError

FORMAT: Final = 2
"""2 brought `complete_ms`."""
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024

_Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ShardIdentity(_Model):
    """Which shard of which generation. Snapshots of another one are refused."""

    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
    """Codes topic; the pattern is Kafka's own."""
    partition: _Count
    partitions: Annotated[int, Field(ge=1)]
    """P of the generation."""
    bits: int
    model: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The model's fingerprint."""

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.partition}"


class FileEntry(_Model):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=1, lt=2**48)]


class SegmentEntry(FileEntry):
    rows: Annotated[int, Field(ge=1, lt=2**40)]
    dead_rows: _Count


class Manifest(_Model):
    """One snapshot. Its number grows by one; whoever publishes a number first owns it."""

    format: Literal[1, 2]
    number: Annotated[int, Field(ge=1, lt=10**10)]
    shard: ShardIdentity
    writer: Annotated[str, Field(max_length=64)]
    """Names the process run that published it."""
    created_ms: _Count
    """When the state was taken, epoch milliseconds."""
    complete_ms: _Count | None = None
    """When the shard last held all that its partition had, epoch milliseconds; None, as in format 1: not known."""
    checkpoint: _Count
    """Offset in the codes topic of the first record that is not in it."""
    newest_event_time_ms: int | None
    live_rows: _Count
    segments: Annotated[tuple[SegmentEntry, ...], Field(max_length=1024, strict=False)]
    state: FileEntry
    """Fresh rows, remembered deletes, dead rows of the segments."""

    @property
    def trusted_from_ms(self) -> int:
        """From when its age counts: a delete since then may have vanished from the topic unseen."""
        return self.created_ms if self.complete_ms is None else self.complete_ms

    @property
    def files(self) -> tuple[tuple[str, FileEntry], ...]:
        """(kind, entry) of everything that it needs, the kind being the end of the file's name."""
        return (*(("segment", one) for one in self.segments), ("state", self.state))

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for _, entry in self.files)

    @property
    def hashes(self) -> frozenset[str]:
        return frozenset(entry.sha256 for _, entry in self.files)


def write_manifest(manifest: Manifest) -> bytes:
    """JSON: the manifest, and the SHA-256 of its canonical JSON (keys sorted, no spaces) beside it."""
    fields = manifest.model_dump(mode="json")
    return json.dumps({"manifest": fields, "sha256": _digest(fields)}, indent=1).encode()


def parse_manifest(content: bytes, number: int) -> Manifest:
    """A manifest as stored under its number.

    Raises:
        CorruptStateError: it is torn, changed, not a manifest, or another number's.
        FatalError: a newer pinstream wrote it.
    """
    try:
        document = json.loads(content)
        fields, digest = document["manifest"], document["sha256"]
        whole = digest == _digest(fields)
        newer = fields["format"] if isinstance(fields["format"], int) and fields["format"] > FORMAT else None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CorruptStateError(f"snapshot manifest {number} is not one: {type(error).__name__}: {error}") from error
    if not whole:
        raise CorruptStateError(f"snapshot manifest {number} does not have the SHA-256 that it names: it was changed")
    if newer is not None:
        raise FatalError(f"snapshot manifest {number} has format {newer}, expected at most {FORMAT}: upgrade pinstream")
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CorruptStateError(f"snapshot manifest {number} can't be read: {where}: {first['msg']}") from error
    if manifest.number != number:
        raise CorruptStateError(f"snapshot manifest {number} says that it is number {manifest.number}")
    return manifest


def check_identity(manifest: Manifest, shard: ShardIdentity) -> None:
    """Raises FatalError if the snapshot is of another shard, model, code length or partition count."""
    for field in ShardIdentity.model_fields:
        found, expected = getattr(manifest.shard, field), getattr(shard, field)
        if found != expected:
            raise FatalError(
                f"snapshot {manifest.number} of {shard.name} has {field} {found}, expected {expected}: "
                "give this index another snapshot_url, or remove that snapshot"
            )


def _digest(fields: Any) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
