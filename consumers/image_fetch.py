"""An event's image URI → its bytes, under the limits of `FetchSettings`. URIs come from strangers.

What a failure means: a store that refuses connections, answers 5xx or breaks off is away, which is tried again and then
raised as retryable. A URI that hangs until `timeout_s` is bad at once: were it tried again, one record could hold its
partition for as long as its author likes. If everything hangs, the worker's breaker stops it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from consumers.data_uri import read_data_uri
from consumers.fetch_errors import TryAgainError, bad_fetch
from consumers.file_fetch import read_file
from consumers.http_fetch import HttpReader
from consumers.store_fetch import StoreReader
from pinstream.events import Image
from pinstream.settings import FetchSettings

FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 1.0


class ImageFetcher:
    """Fetches images for a pool of threads. Thread-safe; connections are shared.

    Raises:
        FatalError: settings name an impossible host or bucket, or store options that no store knows.
    """

    def __init__(self, settings: FetchSettings) -> None:
        self._attempts = settings.attempts
        self._closed = threading.Event()
        self._http = HttpReader(settings)
        stores = StoreReader(settings)
        self._readers: dict[str, Callable[[str], bytes]] = {
            "data": partial(read_data_uri, max_bytes=settings.max_bytes),
            "file": partial(read_file, settings=settings),
            "http": self._http.read,
            "https": self._http.read,
            "s3": stores.read,
            "gs": stores.read,
        }

    def fetch(self, image: Image) -> bytes:
        """The image's bytes, as stored; at most `max_bytes`. Blocks for at most `timeout_s` a try.

        Raises:
            BadRecordError: stage `fetch`: not allowed, not there, too large, too slow, or not what `signature` says.
            RetryableError: its store is away, after `attempts` tries.
        """
        read = self._readers.get(image.uri.partition(":")[0])
        if read is None:
            raise bad_fetch(image.uri, "scheme_not_allowed", f"expected a scheme of {', '.join(self._readers)}")
        content = self._tried(read, image.uri)
        _check_signature(image, content)
        return content

    def close(self) -> None:
        """Close kept connections and cut waits between tries short; a fetch under way may fail."""
        self._closed.set()
        self._http.close()

    def _tried(self, read: Callable[[str], bytes], uri: str) -> bytes:
        backoff_s = FIRST_BACKOFF_S
        tries_left = self._attempts
        while True:
            tries_left -= 1
            try:
                return read(uri)
            except TryAgainError as failure:
                if tries_left == 0 or self._closed.wait(backoff_s):
                    raise failure.last from failure.__cause__
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)


def _check_signature(image: Image, content: bytes) -> None:
    if image.signature is None:
        return
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(image.signature):
        raise bad_fetch(
            image.uri,
            "signature_mismatch",
            f"SHA-256 of its {len(content)} bytes is {digest[:16]}…, expected {image.signature[:16]}… from the event: "
            "if the image was replaced since, send a new event",
        )
