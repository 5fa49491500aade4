"""`file://` URIs → bytes, from allowed folders only."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from consumers.fetch_errors import bad_fetch, store_away, too_large
from pinstream.settings import FetchSettings

READ_CHUNK_BYTES: Final = 1024 * 1024

_FOLDER_FLAGS: Final = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# O_NONBLOCK: opening a FIFO or a device must not wait for its other side.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_REASONS: Final = {
    errno.ENOENT: ("not_found", "there is no such file"),
    errno.ENOTDIR: ("not_found", "there is no such file"),
    errno.ENAMETOOLONG: ("not_found", "its name is too long"),
    errno.EACCES: ("forbidden", "this process may not read it: change its permissions"),
    errno.EPERM: ("forbidden", "this process may not read it: change its permissions"),
    errno.ELOOP: ("file_not_allowed", "a symbolic link took the place of a folder while it was opened"),
    errno.ENXIO: ("not_a_file", "it is a socket or a device, expected a regular file"),
}


def read_file(uri: str, settings: FetchSettings) -> bytes:
    """The bytes of a regular file below one of `allowed_folders`. Thread-safe; blocks as long as the file system does.

    Symbolic links are resolved first; the result must lie in an allowed folder and is then opened folder by folder
    without following links, so nothing that changes in between can lead outside. Hard links are not seen through.

    Raises:
        BadRecordError: malformed, outside the allowed folders, missing, not a regular file or too large.
        TryAgainError: the file system fails.
    """
    path = _local_path(uri)
    try:
        folder, parts = _allowed_place(uri, path, settings.allowed_folders)
        descriptor = _open_beneath(folder, parts)
        try:
            return _read(uri, descriptor, settings.max_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _explained(uri, error) from error


def _local_path(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise bad_fetch(uri, "bad_uri", f"not a URI ({error}), expected file:///folder/name") from error
    if parts.netloc not in ("", "localhost"):
        raise bad_fetch(uri, "bad_uri", f"host is {parts.netloc[:60]!r}, expected none: file:///folder/name")
    if parts.query or parts.fragment or "?" in uri or "#" in uri:
        raise bad_fetch(uri, "bad_uri", "it holds ? or #, expected %3F or %23 in a file name")
    path = unquote_to_bytes(parts.path)
    if not path.startswith(b"/") or b"\0" in path:
        raise bad_fetch(uri, "bad_uri", "path is not absolute or holds a NUL, expected file:///folder/name")
    return os.fsdecode(path)


def _allowed_place(uri: str, path: str, allowed_folders: tuple[Path, ...]) -> tuple[Path, tuple[str, ...]]:
    """The allowed folder that really holds the path, and the way from there."""
    real = Path(os.path.realpath(path))
    for allowed in allowed_folders:
        folder = Path(os.path.realpath(allowed))
        if real.is_relative_to(folder):
            return folder, real.relative_to(folder).parts
    listed = ", ".join(str(folder) for folder in allowed_folders[:5]) or "nothing"
    raise bad_fetch(uri, "file_not_allowed", f"it is in none of fetch.allowed_folders ({listed}): add its folder there")


def _open_beneath(folder: Path, parts: tuple[str, ...]) -> int:
    """Open a file below a folder, following no symbolic link on the way."""
    descriptor = os.open(folder, _FOLDER_FLAGS)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return os.open(parts[-1] if parts else ".", _FILE_FLAGS, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _read(uri: str, descriptor: int, max_bytes: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise bad_fetch(uri, "not_a_file", "it is a folder, device or pipe, expected a regular file")
    if status.st_size > max_bytes:
        raise too_large(uri, max_bytes)
    content = bytearray()
    while chunk := os.read(descriptor, min(READ_CHUNK_BYTES, max_bytes + 1)):
        content += chunk
        if len(content) > max_bytes:
            raise too_large(uri, max_bytes)
    return bytes(content)


def _explained(uri: str, error: OSError) -> Exception:
    if error.errno in _REASONS:
        return bad_fetch(uri, *_REASONS[error.errno])
    return store_away(uri, f"the file system says {error.strerror or error}")
