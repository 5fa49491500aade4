"""Where Pins to produce come from: a folder of images, JSON lines, or the generated world. Reads files; no Kafka."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from pinstream.errors import FatalError
from pinstream.events import MAX_EVENT_BYTES, Domain, Flag, Image, Op, PinEvent

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
INLINE_BYTES: Final = MAX_EVENT_BYTES * 3 // 4 - 4096
"""Largest image that fits an event as base64."""


def now_ms() -> int:
    """The event time of a Pin that is made now."""
    return time.time_ns() // 1_000_000


def folder_pin_id(path: Path, folder: Path) -> int:
    """A Pin id from the path below the folder: the same on every run, so that producing again updates."""
    digest = hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1 or 1


def image_event(
    pin_id: int, jpeg: bytes, uri: str, domain: Domain, flags: tuple[Flag, ...] = (), event_time_ms: int | None = None
) -> PinEvent:
    """An upsert of an image whose bytes are at hand: it carries their signature."""
    return PinEvent(
        pin_id=pin_id,
        op=Op.UPSERT,
        event_time=now_ms() if event_time_ms is None else event_time_ms,
        image=Image(uri=uri, signature=hashlib.sha256(jpeg).hexdigest()),
        domain=domain,
        flags=flags,
    )


def delete_event(pin_id: int) -> PinEvent:
    return PinEvent(pin_id=pin_id, op=Op.DELETE, event_time=now_ms())


def data_uri(image_bytes: bytes, media_type: str = "image/jpeg") -> str:
    return f"data:{media_type};base64,{base64.b64encode(image_bytes).decode()}"


def folder_events(folder: Path, domain: Domain, *, inline: bool) -> Iterator[PinEvent]:
    """One upsert for every image file below the folder, in the order of their paths.

    Args:
        inline: send the bytes in the event as a `data:` URI; else a `file://` URI, which the embed workers must be
            allowed to read (fetch.allowed_folders).

    Raises:
        FatalError: no such folder, no image in it, or an image too large to send inline.
    """
    if not folder.is_dir():
        raise FatalError(f"folder {folder} does not exist: name a folder of images")
    root = folder.resolve()
    found = False
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        found = True
        image_bytes = path.read_bytes()
        if inline and len(image_bytes) > INLINE_BYTES:
            raise FatalError(f"{path} has {len(image_bytes)} bytes, expected at most {INLINE_BYTES} with --inline")
        uri = data_uri(image_bytes, f"image/{path.suffix[1:].lower()}") if inline else path.as_uri()
        yield image_event(folder_pin_id(path, root), image_bytes, uri, domain)
    if not found:
        raise FatalError(f"folder {folder} has no image, expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")


def jsonl_events(lines: Iterable[str], name: str) -> Iterator[PinEvent]:
    """One event a line; blank lines are passed over.

    Raises:
        FatalError: a line is not a PinEvent; it names the line and the fault.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield PinEvent.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"])) or "the line"
            raise FatalError(f"{name} line {number} is not a Pin event: {where}: {fault['msg']}") from error
