"""Whatever happens to an image's bytes, decoding gives pixels or a `BadRecordError`: no other error, no hang, no
memory that the limits don't cover, and never half a picture for a truncated one.
"""

import io
import resource
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from embedder.decode import decode_image
from embedder.image_format import identify
from embedder.model.artifact import Preprocessing
from embedder.model.preprocess import prepare
from pinstream.errors import BadRecordError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, that pinstream ignores and pytest shows

PREPROCESSING = Preprocessing(resize="shorter_side", resize_size=28, crop_size=24, mean=(0, 0, 0), std=(1, 1, 1))
MAX_PIXELS = 100_000
BLOCKS = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
PICTURE = Image.fromarray(BLOCKS).resize((64, 48), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    output = io.BytesIO()
    picture.save(output, image_format, **options)
    return output.getvalue()


SAMPLES = {
    "jpeg": encoded(PICTURE, "JPEG"),
    "progressive": encoded(PICTURE, "JPEG", progressive=True),
    "cmyk": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "png": encoded(PICTURE, "PNG"),
    "png-palette": encoded(PICTURE.convert("P"), "PNG"),
    "png-16": encoded(Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257), "PNG"),
    "gif": encoded(PICTURE, "GIF"),
    "webp": encoded(PICTURE, "WEBP"),
    "webp-lossless": encoded(PICTURE.convert("RGBA"), "WEBP", lossless=True),
    "bmp": encoded(PICTURE, "BMP"),
    "tiff": encoded(PICTURE, "TIFF"),
    "tiff-packbits": encoded(PICTURE, "TIFF", compression="packbits"),
}
Edit = tuple[str, float, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "cut", "repeat"]),
        st.one_of(st.floats(0, 1), st.floats(0, 0.1)),
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"])),
    ),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, edits: list[Edit]) -> bytes:
    for kind, where, content in edits:
        position = int(where * len(data))
        if kind == "replace":
            data = data[:position] + content + data[position + len(content) :]
        elif kind == "insert":
            data = data[:position] + content + data[position:]
        elif kind == "cut":
            data = data[:position] + data[position + len(content) :]
        else:
            data = data[:position] + data[position // 2 : position] + data[position:]
    return data


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(edits=EDITS, crop=st.booleans())
def test_damage_gives_pixels_or_a_bad_record(name: str, edits: list[Edit], crop: bool) -> None:
    data = damaged(SAMPLES[name], edits)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started_s = time.monotonic()
    try:
        pixels = decode_image(data, max_pixels=MAX_PIXELS, target_size=24)
    except BadRecordError as refused:
        assert refused.stage == "decode"  # noqa: PT017 (either outcome is right)
        assert len(str(refused)) < 500  # noqa: PT017 (the same)
    else:
        height, width, channels = pixels.shape
        assert channels == 3
        assert 1 <= height * width <= MAX_PIXELS
        assert prepare(pixels, PREPROCESSING).shape == (24, 24, 3)
    assert time.monotonic() - started_s < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=30, deadline=None)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_image_is_whole_or_refused(name: str, part: float) -> None:
    """Some formats end with bytes that hold no pixels; losing those is no loss."""
    whole = SAMPLES[name]
    try:
        pixels = decode_image(whole[: int(part * len(whole))], max_pixels=MAX_PIXELS, target_size=1000)
    except BadRecordError:
        return
    assert np.array_equal(pixels, decode_image(whole, max_pixels=MAX_PIXELS, target_size=1000))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_identified_or_refused(data: bytes) -> None:
    try:
        identify(data)
    except BadRecordError as refused:
        assert str(refused).isprintable()  # noqa: PT017 (either outcome is right)
