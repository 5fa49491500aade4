"""Files in an object store or on local disk, through obstore; only calls that local disks and S3 share.

Files named by their content are put once and read back only if their size and SHA-256 are right. Every function
blocks and may be called by any thread.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore

from index_sync.checkpoint import FileEntry
from index_sync.code_batch import Bytes
from pinstream.errors import CorruptStateError, FatalError, RetryableError

_PIECE_BYTES: Final = 8 * 1024 * 1024
"""Read and written at once."""
_HALF_PUT: Final = re.compile(r".+#\d+$")
"""How obstore names a file on a local disk until all of it is written. It neither lists nor removes them."""


def put_file(store: ObjectStore, folder: str, kind: str, pieces: list[memoryview]) -> FileEntry:
    """Put a file under the hash of its content. Again is harmless; a reader sees all of it or nothing."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    entry = FileEntry(sha256=digest.hexdigest(), size_bytes=sum(len(piece) for piece in pieces))
    with store_errors("put a snapshot file"):
        obstore.put(store, file_path(folder, entry, kind), _cut(pieces))
    return entry


def read_file(store: ObjectStore, folder: str, kind: str, entry: FileEntry) -> Bytes:
    """A file's bytes, uint8 [size]. Memory is taken only for a file that really has the size expected.

    Raises:
        CorruptStateError: it is missing, or its size or hash is wrong.
    """
    path = file_path(folder, entry, kind)
    name = path.removeprefix(folder)
    with store_errors("read a snapshot file"):
        try:
            size = obstore.head(store, path)["size"]
            if size != entry.size_bytes:
                raise CorruptStateError(f"snapshot file {name} has {size} bytes, expected {entry.size_bytes}")
            content = np.empty(size, dtype=np.uint8)
            digest = hashlib.sha256()
            for start in range(0, size, _PIECE_BYTES):
                piece = memoryview(obstore.get_range(store, path, start=start, length=min(_PIECE_BYTES, size - start)))
                content[start : start + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
                digest.update(piece)
        except FileNotFoundError as error:
            raise CorruptStateError(f"snapshot file {name} is missing") from error
    if digest.hexdigest() != entry.sha256:
        raise CorruptStateError(f"snapshot file {name} has SHA-256 {digest.hexdigest()}: it was changed or torn")
    return content


def delete_all(store: ObjectStore, paths: Iterable[str]) -> None:
    """Remove objects; those that are gone already are no error."""
    with store_errors("remove old snapshots"):
        for path in paths:
            try:
                obstore.delete(store, path)
            except FileNotFoundError:
                continue


def list_sizes(store: ObjectStore, folder: str) -> dict[str, int]:
    """Path → size in bytes of everything under a folder."""
    with store_errors("list snapshots"):
        return {one["path"]: one["size"] for page in obstore.list(store, folder) for one in page}


def delete_half_puts(store: ObjectStore, folder: str, older_than_s: float) -> int:
    """Remove what puts that were killed left on a local disk; returns how many. Object stores have rules for that."""
    if not isinstance(store, LocalStore) or store.prefix is None:
        return 0
    now_s = time.time()
    removed = 0
    with store_errors("remove files that were never finished"):
        for path in Path(store.prefix, folder).glob("*#*"):
            if _HALF_PUT.match(path.name) and now_s - path.stat().st_mtime >= older_than_s:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def file_path(folder: str, entry: FileEntry, kind: str) -> str:
    return f"{folder}{entry.sha256}.{kind}"


@contextmanager
def store_errors(action: str) -> Iterator[None]:
    """Library exceptions → ours, by what to do about them."""
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError, NotSupportedError, InvalidPathError) as error:
        message = f"snapshot store refuses to {action}: {first_line(error)}: check snapshot_url and its credentials"
        raise FatalError(message) from error
    except (BaseError, OSError) as error:
        raise RetryableError(f"snapshot store is away, could not {action}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Obstore adds its own source after the first line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _cut(pieces: list[memoryview]) -> Iterator[memoryview]:
    """The same bytes in pieces that are never too large for one request."""
    for piece in pieces:
        for start in range(0, len(piece), _PIECE_BYTES):
            yield piece[start : start + _PIECE_BYTES]
