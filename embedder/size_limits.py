"""How large a picture may be, and how many large ones may be decoded at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pinstream.errors import BadRecordError

LARGE_PIXELS: Final = 8_000_000
"""A decoder works with up to 22 bytes a pixel: this many take 180 MB, and `max_pixels` by default 1.1 GB."""

_large_turn = threading.Lock()


def check_size(width: int, height: int, max_pixels: int) -> None:
    """
    Raises:
        BadRecordError: no pixels, or more than `max_pixels`.
    """
    if width < 1 or height < 1:
        raise BadRecordError(
            f"image is {width} × {height} pixels, expected at least 1 × 1", stage="decode", reason="damaged_image"
        )
    if width * height > max_pixels:
        raise BadRecordError(
            f"image is {width} × {height} pixels, expected at most {max_pixels} in all (fetch.max_pixels)",
            stage="decode",
            reason="too_many_pixels",
        )


@contextmanager
def large_ones_in_turn(pixels: int) -> Iterator[None]:
    """Pictures over `LARGE_PIXELS` wait for each other, so that a pool of threads can't be made to fill the memory."""
    if pixels <= LARGE_PIXELS:
        yield
    else:
        with _large_turn:
            yield
