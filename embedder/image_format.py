"""What kind of image some bytes are, by their first bytes alone. Pure.

Names and media types lie; content doesn't. What isn't a format that we decode is named as well as it can be, since
"looks like HTML" is what a person needs to hear about a `.jpg` that is an error page.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pinstream.errors import BadRecordError

MAX_SNIFFED_BYTES: Final = 1024


class ImageFormat(StrEnum):
    JPEG = "JPEG"
    PNG = "PNG"
    GIF = "GIF"
    WEBP = "WebP"
    BMP = "BMP"
    TIFF = "TIFF"


_BMP_HEADER_SIZES: Final = (12, 16, 40, 52, 56, 64, 108, 124)
_STARTS: Final = (
    (b"\xff\xd8\xff", ImageFormat.JPEG),
    (b"\x89PNG\r\n\x1a\n", ImageFormat.PNG),
    (b"GIF87a", ImageFormat.GIF),
    (b"GIF89a", ImageFormat.GIF),
    (b"II*\0", ImageFormat.TIFF),
    (b"MM\0*", ImageFormat.TIFF),
)
_FOREIGN_STARTS: Final = (
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"%PDF-", "PDF"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1aE\xdf\xa3", "WebM or Matroska video"),
    (b"version https://git-lfs", "a Git LFS pointer"),
)
_FTYP_BRANDS: Final = (
    ((b"avif", b"avis"), "AVIF"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIC"),
)
_HTML_STARTS: Final = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<title")


def identify(data: bytes) -> ImageFormat:
    """
    Raises:
        BadRecordError: no bytes, or none of the formats that pinstream decodes.
    """
    for start, image_format in _STARTS:
        if data.startswith(start):
            return image_format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ImageFormat.WEBP
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return ImageFormat.BMP
    if not data:
        raise BadRecordError("image has no bytes, expected a picture", stage="decode", reason="empty_image")
    raise BadRecordError(
        f"image looks like {looks_like(data)}, expected one of {', '.join(ImageFormat)}",
        stage="decode",
        reason="unsupported_format",
    )


def looks_like(data: bytes) -> str:
    """A name for bytes that are none of our formats."""
    for start, name in _FOREIGN_STARTS:
        if data.startswith(start):
            return name
    if data[4:8] == b"ftyp":
        return next((name for brands, name in _FTYP_BRANDS if data[8:12] in brands), "MP4 or QuickTime video")
    return _looks_like_text(data[:MAX_SNIFFED_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()) or (
        f"no known format (it starts with {data[:8].hex(' ')})"
    )


def _looks_like_text(text: bytes) -> str | None:
    if text.startswith(b"<") and b"<svg" in text:
        return "SVG"
    if text.startswith(_HTML_STARTS) or (text.startswith(b"<!--") and b"<html" in text):
        return "HTML"
    if text.startswith(b"<?xml"):
        return "XML"
    if text.startswith((b"{", b"[")):
        return "JSON"
    return "plain text" if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text) else None
