"""`data:` URIs → bytes (RFC 2397). Pure. The media type is ignored: the content decides what an image is."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from consumers.fetch_errors import bad_fetch, too_large

MAX_MEDIA_TYPE_CHARS: Final = 1024
_WHITE_SPACE = re.compile(rb"[ \t\r\n]+")


def read_data_uri(uri: str, max_bytes: int) -> bytes:
    """The bytes that a `data:` URI carries. Thread-safe; never blocks.

    White space and missing padding in base64 are accepted, as browsers do (WHATWG "forgiving base64"); anything else
    outside its alphabet is not.

    Raises:
        BadRecordError: no comma, invalid base64, or more than `max_bytes` bytes, judged before they are decoded.
    """
    comma = uri.find(",", len("data:"), MAX_MEDIA_TYPE_CHARS)
    if comma < 0:
        raise bad_fetch(uri, "bad_uri", "no comma after the media type, expected data:[type][;base64],content")
    is_base64 = uri[len("data:") : comma].lower().endswith(";base64")
    # Percent-encoding writes at most three characters for a byte, and base64 four for three bytes.
    if len(uri) - comma - 1 > max_bytes * (4 if is_base64 else 3) + 4:
        raise too_large(uri, max_bytes)
    content = unquote_to_bytes(uri[comma + 1 :])
    if is_base64:
        content = _from_base64(uri, content, max_bytes)
    if len(content) > max_bytes:
        raise too_large(uri, max_bytes)
    return content


def _from_base64(uri: str, text: bytes, max_bytes: int) -> bytes:
    text = _WHITE_SPACE.sub(b"", text).rstrip(b"=")
    if len(text) * 3 // 4 > max_bytes:
        raise too_large(uri, max_bytes)
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise bad_fetch(uri, "bad_uri", f"content is not base64 ({error}), expected A-Z a-z 0-9 + /") from error
