"""`s3://` and `gs://` URIs → bytes, through obstore, with this process's own credentials."""

from __future__ import annotations

import re
import time
from typing import Final

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError
from obstore.store import ObjectStore

from consumers.fetch_errors import bad_fetch, store_away, timed_out, too_large
from pinstream.errors import FatalError
from pinstream.object_store import open_store
from pinstream.settings import FetchSettings

READ_CHUNK_BYTES: Final = 1024 * 1024
MAX_KEY_BYTES: Final = 1024
"""Of S3 and of Google Cloud Storage."""

_BUCKET = re.compile(r"(s3|gs)://[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]\Z")
_KEY_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[^\x00-\x1f\x7f]+\Z")


class StoreReader:
    """Reads objects from allowed buckets. Thread-safe; `read` blocks for at most `timeout_s` (and a little).

    A key is taken literally, as `aws s3` does: `%20` is three characters of it.

    Raises:
        FatalError: `allowed_buckets` or `store_options` are wrong.
    """

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._prefixes = tuple(_prefix(entry) for entry in settings.allowed_buckets)
        self._stores = {
            root: open_store(
                root, settings.store_options, setting="fetch.allowed_buckets", timeout_s=settings.timeout_s
            )
            for root in dict.fromkeys(root for root, _ in self._prefixes)
        }

    def read(self, uri: str) -> bytes:
        """One try.

        Raises:
            BadRecordError: malformed, not in an allowed bucket, missing, forbidden, too large, or too slow.
            TryAgainError: the store is away.
        """
        root, key = _place(uri)
        if not any(root == allowed and _is_under(key, prefix) for allowed, prefix in self._prefixes):
            listed = ", ".join(self._settings.allowed_buckets[:5]) or "nothing"
            raise bad_fetch(
                uri, "bucket_not_allowed", f"it is in none of fetch.allowed_buckets ({listed}): add its bucket there"
            )
        return read_object(self._stores[root], key, uri, self._settings)


def read_object(store: ObjectStore, key: str, uri: str, settings: FetchSettings) -> bytes:
    """An object's bytes, from any obstore store; `uri` is for messages. Raises as `StoreReader.read` does."""
    started_s = time.monotonic()
    try:
        found = obstore.get(store, key)
        if found.meta["size"] > settings.max_bytes:
            raise too_large(uri, settings.max_bytes)
        content = bytearray()
        for chunk in found.stream(min_chunk_size=READ_CHUNK_BYTES):
            content += chunk
            if len(content) > settings.max_bytes:
                raise too_large(uri, settings.max_bytes)
        return bytes(content)
    except FileNotFoundError as error:
        raise bad_fetch(uri, "not_found", "there is no such object") from error
    except PermissionDeniedError as error:
        raise bad_fetch(uri, "forbidden", "the store denies access: let this process's credentials read it") from error
    except (BaseError, OSError, ValueError) as error:
        # obstore tells time-outs from other failures in the text of the error only.
        if time.monotonic() - started_s >= 0.95 * settings.timeout_s:
            raise timed_out(uri, settings.timeout_s) from error
        raise store_away(uri, f"the store fails ({_first_line(error)})") from error


def _place(uri: str) -> tuple[str, str]:
    """`s3://bucket/some/key` → (`s3://bucket`, `some/key`)."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    root = f"{scheme}://{bucket}"
    if not (_BUCKET.match(root) and all(_KEY_SEGMENT.match(segment) for segment in key.split("/"))):
        raise bad_fetch(uri, "bad_uri", f"expected {scheme}://bucket/key without empty, . or .. parts")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise bad_fetch(uri, "bad_uri", f"key has {len(key.encode())} bytes, expected at most {MAX_KEY_BYTES}")
    return root, key


def _prefix(entry: str) -> tuple[str, str]:
    """An entry of `allowed_buckets` → (`s3://bucket`, key prefix without slashes around it)."""
    scheme, _, rest = entry.partition("://")
    bucket, _, prefix = rest.partition("/")
    root = f"{scheme}://{bucket}"
    if not _BUCKET.match(root):
        raise FatalError(f"fetch.allowed_buckets has {entry!r}, expected s3://bucket or gs://bucket, or with /prefix")
    return root, prefix.strip("/")


def _is_under(key: str, prefix: str) -> bool:
    """`pins` holds `pins/1.jpg`, and not `pins-of-others/1.jpg`."""
    return not prefix or key == prefix or key.startswith(f"{prefix}/")


def _first_line(error: Exception) -> str:
    """obstore's own sentence, without the debug text that follows it."""
    return str(error).partition("\n")[0][:200]
