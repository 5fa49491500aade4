"""How a failed fetch is told: the URI at a readable length, the record that is bad, the try that may be repeated."""

from __future__ import annotations

from typing import Final

from pinstream.errors import BadRecordError, PinstreamError, RetryableError

MAX_SHOWN_CHARS: Final = 120


class TryAgainError(Exception):
    """One try failed in a way that may pass; `last` is to be raised when no try is left. `ImageFetcher` catches it."""

    def __init__(self, last: PinstreamError) -> None:
        super().__init__(str(last))
        self.last = last


def shown(uri: str) -> str:
    """The URI for a person: quoted, control characters escaped, at most 120 characters. The query of http(s) is left
    out, since signed URLs carry their secret there.
    """
    if uri.startswith("http"):
        uri, question_mark, _ = uri.partition("?")
        uri += "?…" if question_mark else ""
    text = repr(uri[:MAX_SHOWN_CHARS])
    cut = len(uri) > MAX_SHOWN_CHARS or len(text) > MAX_SHOWN_CHARS
    return f"{text[: MAX_SHOWN_CHARS - 2].removesuffix(text[0])}…{text[0]}" if cut else text


def bad_fetch(uri: str, reason: str, problem: str) -> BadRecordError:
    """`problem` says what was wrong, what was expected and which setting to change, if one."""
    return BadRecordError(f"can't fetch {shown(uri)}: {problem}", stage="fetch", reason=reason)


def store_away(uri: str, problem: str) -> TryAgainError:
    """The other side doesn't answer as it should: another try may succeed, and later ones, for any record, too."""
    return TryAgainError(RetryableError(f"can't fetch {shown(uri)} now: {problem}"))


def timed_out(uri: str, timeout_s: float) -> BadRecordError:
    """A hang counts as the record's fault and is not tried again: one URI must not hold its partition for long."""
    return bad_fetch(
        uri, "fetch_timeout", f"no complete answer within {timeout_s:g} s (fetch.timeout_s); raise it for slow servers"
    )


def too_large(uri: str, max_bytes: int) -> BadRecordError:
    return bad_fetch(
        uri, "image_too_large", f"image is larger than {max_bytes} bytes, the most that fetch.max_bytes allows"
    )
