"""What a dead letter looks like: the record as it was received, with headers after Kafka Connect's. Pure.

`__connect.errors.*` are the names that existing DLQ tools read (KIP-298); `pinstream.*` are ours.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from pinstream.codes import Fingerprint
from pinstream.errors import BadRecordError

Headers: TypeAlias = list[tuple[str, bytes]]

HEADER_PREFIX: Final = "__connect.errors."
MAX_MESSAGE_BYTES: Final = 2_000
"""Of the reason: it may quote what was received, and a header is no place for megabytes."""
MAX_RECEIVED_HEADERS_BYTES: Final = 256 * 1024
"""Of the received headers that are kept: they must fit beside the value in the DLQ's `max.message.bytes`."""


def dead_letter_headers(
    error: BadRecordError,
    *,
    topic: str,
    partition: int,
    offset: int,
    attempts: int,
    model: Fingerprint,
    received: Headers | None,
) -> Headers:
    """The headers of a dead letter: those that the record had, then why it could not be embedded."""
    cause = error.__cause__ if error.__cause__ is not None else error
    own = {
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "stage": error.stage.upper(),
        "exception.class.name": f"{type(cause).__module__}.{type(cause).__qualname__}",
        "exception.message": str(error),
    }
    headers = _bounded(received or [])
    headers += [(HEADER_PREFIX + name, text.encode()[:MAX_MESSAGE_BYTES]) for name, text in own.items()]
    headers += [
        ("pinstream.reason", error.reason.encode()),
        ("pinstream.attempts", b"%d" % attempts),
        ("pinstream.model", model.hex.encode()),
    ]
    return headers


def _bounded(received: Headers) -> Headers:
    kept: Headers = []
    room = MAX_RECEIVED_HEADERS_BYTES
    for name, value in received:
        room -= len(name) + len(value or b"")
        if room < 0:
            break
        kept.append((name, value))
    return kept
