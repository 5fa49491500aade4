"""Errors, named by what the worker does about them.

Library exceptions become one of these at the adapter (`raise … from`). Messages are lower case and name the
value that was wrong, what was expected and what to do.
"""

from __future__ import annotations


class PinstreamError(Exception):
    """The base of all errors that pinstream raises on purpose."""


class RetryableError(PinstreamError):
    """A broker, Redis or store is away, or a device is out of memory: back off, pause, try again."""


class BadRecordError(PinstreamError):
    """This one record can't be embedded: dead-letter it and go on.

    Args:
        message: what is wrong with the record, for a person.
        stage: where it failed: `parse`, `fetch`, `decode` or `encode` (a metric label and a DLQ header).
        reason: a short snake_case name of the kind of failure (a metric label; never a value from the record).
    """

    def __init__(self, message: str, *, stage: str, reason: str) -> None:
        super().__init__(message)
        self.stage = stage
        self.reason = reason


class OwnershipLostError(PinstreamError):
    """A partition was revoked or the producer was fenced: drop the in-flight work, commit nothing."""


class CorruptStateError(PinstreamError):
    """A snapshot, segment or artifact fails its checksum: set it aside and rebuild from the topic."""


class FatalError(PinstreamError):
    """Configuration, model mismatch or a broken device: stop with exit code ≠ 0 and say how to mend it."""
