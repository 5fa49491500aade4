"""Content decides what an image is; what is none is named."""

import pytest

from embedder.image_format import ImageFormat, identify, looks_like
from pinstream.errors import BadRecordError


@pytest.mark.parametrize(
    ("start", "image_format"),
    [
        (b"\xff\xd8\xff\xe0", ImageFormat.JPEG),
        (b"\x89PNG\r\n\x1a\n", ImageFormat.PNG),
        (b"GIF89a", ImageFormat.GIF),
        (b"RIFF\x10\0\0\0WEBPVP8 ", ImageFormat.WEBP),
        (b"BM" + bytes(12) + b"\x28\0\0\0", ImageFormat.BMP),
        (b"II*\0", ImageFormat.TIFF),
        (b"MM\0*", ImageFormat.TIFF),
    ],
)
def test_formats_are_told_by_their_first_bytes(start: bytes, image_format: ImageFormat) -> None:
    assert identify(start) is image_format


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xef\xbb\xbf\n  <!DOCTYPE html><html>404", "HTML"),
        (b"<HTML><BODY>Not found", "HTML"),
        (b"<!-- cached --><html>", "HTML"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<svg/>", "SVG"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"not found\n", "plain text"),
        (b"BMW is a car maker", "plain text"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypisom", "MP4 or QuickTime video"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"II+\0", "BigTIFF"),
        (b"PK\3\4", "a ZIP archive"),
        (b"\0\0\0\0", "no known format (it starts with 00 00 00 00)"),
        (b"\xff\xd8", "no known format (it starts with ff d8)"),
    ],
)
def test_other_content_is_named(data: bytes, name: str) -> None:
    assert looks_like(data) == name
    with pytest.raises(BadRecordError, match="expected one of JPEG, PNG, GIF, WebP, BMP, TIFF") as refused:
        identify(data)
    assert (refused.value.stage, refused.value.reason) == ("decode", "unsupported_format")


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(BadRecordError) as refused:
        identify(b"")
    assert refused.value.reason == "empty_image"
