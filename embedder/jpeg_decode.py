"""JPEG → RGB with libjpeg-turbo (simplejpeg), scaled down while decoding where a smaller picture suffices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg

from embedder.exif_orientation import UPRIGHT, find_orientation, swaps_sides
from pinstream.errors import BadRecordError

MAX_SCANS: Final = 100
"""Encoders write about ten. A few bytes can start a scan over the whole picture, so thousands of them would keep a core
busy for minutes. libtiff draws the same line for JPEG-in-TIFF."""
MAX_SEGMENTS: Final = 2000
"""Segments before the first scan. ICC profiles and extended XMP take up to some hundreds."""

_START_OF_SCAN = b"\xff\xda"
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})
# libjpeg's warning for stray bytes between the last scan and the end; the picture is whole.
_HARMLESS = re.compile(r"extraneous bytes before marker 0xd9\Z")


@dataclass(frozen=True, slots=True)
class JpegHeader:
    height: int
    width: int
    orientation: int
    """EXIF orientation, 1 to 8."""
    scans: int
    """1 if one scan holds everything, else how many scans may follow."""


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Walk the segments up to the first scan. Decodes nothing.

    Raises:
        BadRecordError: there is no frame before the first scan, or no scan.
    """
    orientation, frame = UPRIGHT, None
    position = 2
    for _ in range(MAX_SEGMENTS):
        position = data.find(b"\xff", position)
        while position >= 0 and data[position : position + 2] == b"\xff\xff":
            position += 1
        marker = data[position + 1] if 0 <= position < len(data) - 1 else 0xD9
        if marker == 0xD9:
            break
        if marker in _WITHOUT_LENGTH or marker == 0:
            position += 2
            continue
        body = position + 4
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xE1 and orientation == UPRIGHT and data[body : body + 6] == b"Exif\0\0":
            orientation = find_orientation(data[body:end])
        elif marker in _FRAMES and end - body >= 6 and frame is None:
            frame = (marker, data[body : body + 6])
        elif marker == 0xDA and frame is not None:
            return _header(data, position, frame, orientation)
        position = max(end, position + 2)
    raise BadRecordError("JPEG ends before its picture begins", stage="decode", reason="damaged_image")


def _header(data: bytes, scan_position: int, frame: tuple[int, bytes], orientation: int) -> JpegHeader:
    marker, fields = frame
    components = data[scan_position + 4] if scan_position + 4 < len(data) else 0
    single_scan = marker not in _PROGRESSIVE and components == fields[5]
    return JpegHeader(
        height=int.from_bytes(fields[1:3], "big"),
        width=int.from_bytes(fields[3:5], "big"),
        orientation=orientation,
        # Within a scan's data 0xff is always followed by 0 or a restart marker, so this counts no pixels.
        scans=1 if single_scan else data.count(_START_OF_SCAN, scan_position),
    )


def decode_jpeg(data: bytes, header: JpegHeader, min_height: int, min_width: int) -> npt.NDArray[np.uint8]:
    """JPEG → uint8 [h, w, 3] RGB as stored, not yet upright. Thread-safe.

    Args:
        min_height: of the upright picture. Decoded is the smallest of libjpeg's scales (n/8) that has at least these
            sides, or the full size. Memory: 3 bytes a decoded pixel; progressive JPEGs 6 a full-size pixel besides.

    Raises:
        BadRecordError: damaged or truncated: nothing is filled in. Or more scans than any encoder writes.
    """
    if header.scans > MAX_SCANS:
        raise BadRecordError(
            f"JPEG has {header.scans} scans, expected at most {MAX_SCANS}", stage="decode", reason="too_many_scans"
        )
    if swaps_sides(header.orientation):
        min_height, min_width = min_width, min_height
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != (header.height, header.width):
            raise ValueError(f"it has two sizes, {header.width} × {header.height} and {width} × {height}")
        channels = "CMYK" if colorspace in ("CMYK", "YCCK") else "RGB"
        pixels_HWC = _decode(data, channels, min_height, min_width)
    except ValueError as error:
        raise BadRecordError(f"JPEG is damaged: {error}", stage="decode", reason="damaged_image") from error
    return _from_cmyk(pixels_HWC) if channels == "CMYK" else pixels_HWC


def _decode(data: bytes, channels: str, min_height: int, min_width: int) -> npt.NDArray[np.uint8]:
    pixels_HWC: npt.NDArray[np.uint8]
    try:
        pixels_HWC = simplejpeg.decode_jpeg(data, channels, min_height=min_height, min_width=min_width)
    except ValueError as error:
        if not _HARMLESS.search(str(error)):
            raise
        pixels_HWC = simplejpeg.decode_jpeg(data, channels, min_height=min_height, min_width=min_width, strict=False)
    return pixels_HWC


def _from_cmyk(cmyk_HW4: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Four-channel JPEGs hold inverted ink (255 = none), as Photoshop began it and all others followed."""
    paper_HW3 = cmyk_HW4[..., :3].astype(np.uint16)
    paper_HW3 *= cmyk_HW4[..., 3:]
    paper_HW3 += 127
    paper_HW3 //= 255
    return paper_HW3.astype(np.uint8)
