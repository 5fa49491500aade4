"""Encoded image → pixels → the model's input size.

The kind of image is told by its content. ICC profiles are ignored: pixels are taken as sRGB. All functions are
thread-safe, release the interpreter lock while they decode or resize, and raise nothing but `BadRecordError` for any
bytes whatever.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from embedder.exif_orientation import upright
from embedder.image_format import ImageFormat, identify
from embedder.jpeg_decode import decode_jpeg, read_jpeg_header
from embedder.pillow_decode import decode_with_pillow
from embedder.size_limits import check_size, large_ones_in_turn
from pinstream.events import Box

ROUNDING: Final = 1e-6
"""Of a pixel: 0.1 + 0.2 of 10 pixels ends at 3, not at 4."""
MAX_JPEG_SIDE: Final = 65_535


def decode_image(data: bytes, *, max_pixels: int, target_size: int, box: Box | None = None) -> npt.NDArray[np.uint8]:
    """Encoded image → uint8 [H, W, 3] RGB, upright, cropped to `box`. Contiguous and the caller's own.

    A JPEG is decoded at the smallest scale (n/8) at which the cropped picture's shorter side still has `target_size`
    pixels; others at full size. The crop is rounded outwards and has at least 1 × 1 pixels. Animations give their first
    frame; transparent pixels lie over white.

    Raises:
        BadRecordError: stage `decode`; see `embedder.image_format`, `jpeg_decode` and `pillow_decode`.
    """
    image_format = identify(data)
    if image_format is ImageFormat.JPEG:
        header = read_jpeg_header(data)
        check_size(header.width, header.height, max_pixels)
        min_height = _needed(target_size, 1 if box is None else box.height)
        min_width = _needed(target_size, 1 if box is None else box.width)
        orientation = header.orientation
        with large_ones_in_turn(header.width * header.height):
            pixels_HW3 = decode_jpeg(data, header, min_height, min_width)
    else:
        pixels_HW3, orientation = decode_with_pillow(data, image_format, max_pixels)
    pixels_HW3 = upright(pixels_HW3, orientation)
    if box is not None:
        pixels_HW3 = _crop(pixels_HW3, box)
    return np.ascontiguousarray(pixels_HW3)


def _needed(target_size: int, fraction: float) -> int:
    """Pixels that a whole side needs for a fraction of it to have `target_size`; at most a JPEG's longest side."""
    return math.ceil(min(target_size / fraction, MAX_JPEG_SIDE))


def _crop(pixels_HW3: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    height, width = pixels_HW3.shape[:2]
    top, bottom = _span(box.y, box.height, height)
    left, right = _span(box.x, box.width, width)
    return pixels_HW3[top:bottom, left:right]


def _span(start: float, length: float, pixels: int) -> tuple[int, int]:
    """A fraction of a side → first pixel and the one past the last."""
    first = min(pixels - 1, math.floor(start * pixels + ROUNDING))
    last = math.ceil((start + length) * pixels - ROUNDING)
    return first, max(first + 1, min(pixels, last))
