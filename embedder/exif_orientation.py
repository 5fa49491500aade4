"""The EXIF orientation: found in a TIFF structure, and undone on an array. Pure."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

UPRIGHT: Final = 1
ORIENTATION_TAG: Final = 0x0112
MAX_TAGS: Final = 1000
"""Cameras write some dozens; reading stops here."""

_SHORT, _LONG = 3, 4


def find_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block or a TIFF file; 1 if there is none or the block is damaged.

    A damaged EXIF block is no reason to refuse a whole image, and most viewers show it as it is.

    Args:
        exif: from the TIFF header on (`II*\\0` or `MM\\0*`), or from `Exif\\0\\0` before it.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (first_ifd,) = struct.unpack_from(f"{order}I", tiff, 4)
        (tags,) = struct.unpack_from(f"{order}H", tiff, first_ifd)
        for index in range(min(tags, MAX_TAGS)):
            tag, kind, count = struct.unpack_from(f"{order}HHI", tiff, first_ifd + 2 + 12 * index)
            if tag == ORIENTATION_TAG:
                code = {_SHORT: "H", _LONG: "I"}.get(kind)
                if code is None or count != 1:
                    return UPRIGHT
                (value,) = struct.unpack_from(f"{order}{code}", tiff, first_ifd + 2 + 12 * index + 8)
                return int(value) if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def swaps_sides(orientation: int) -> bool:
    """Whether the upright picture's width is the stored one's height."""
    return orientation >= 5


def upright(pixels_HWC: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """The picture as it is meant to be seen, as a view.

    Source: EXIF 2.32, tag 0x0112: which side of the picture the stored row 0 and column 0 are.
    """
    if swaps_sides(orientation):
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    return pixels_HWC
