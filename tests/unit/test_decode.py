"""Every kind of picture gives the pixels that a person would see, or a clear refusal."""

import base64
import io
import struct
import subprocess
import sys
import threading
import zlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from embedder.decode import decode_image
from embedder.exif_orientation import find_orientation
from embedder.model.artifact import Preprocessing
from embedder.model.preprocess import prepare
from pinstream.errors import BadRecordError
from pinstream.events import Box

Pixels = npt.NDArray[np.uint8]

# 4 × 6 blocks of 8 × 8 pixels: survives JPEG, and no turn or flip leaves it as it is.
BLOCKS = np.random.default_rng(7).integers(0, 256, (4, 6, 3), dtype=np.uint8)
PICTURE = Image.fromarray(BLOCKS.repeat(8, axis=0).repeat(8, axis=1))
EXPECTED = np.asarray(PICTURE)
GREY = PICTURE.convert("L")
LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {"compression": "packbits"}),
]


def encoded(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    output = io.BytesIO()
    picture.save(output, image_format, **options)
    return output.getvalue()


def decode(data: bytes, **options: Any) -> Pixels:
    return decode_image(data, **({"max_pixels": 2_000_000, "target_size": 10_000} | options))


def refusal(data: bytes, **options: Any) -> BadRecordError:
    with pytest.raises(BadRecordError) as refused:
        decode(data, **options)
    assert refused.value.stage == "decode"
    return refused.value


def off_by(pixels: Pixels, expected: Pixels) -> int:
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected).max())


@pytest.mark.parametrize(("image_format", "options"), LOSSLESS)
def test_lossless_formats_give_back_their_pixels(image_format: str, options: dict[str, Any]) -> None:
    pixels = decode(encoded(PICTURE, image_format, **options))
    assert off_by(pixels, EXPECTED) == 0
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"keep_rgb": True},
        {"optimize": True},
        {"restart_marker_blocks": 3},
    ],
)
def test_jpegs_of_all_kinds_are_close(options: dict[str, Any]) -> None:
    data = encoded(PICTURE, "JPEG", quality=95, **options)
    assert off_by(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= 1
    assert np.abs(decode(data).astype(int) - EXPECTED).mean() < 10  # blocks have hard edges, which halved chroma blurs


WRITABLE = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "GIF": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "WEBP": ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"],
    "TIFF": ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"],
    "JPEG": ["1", "L", "RGB", "RGBX", "CMYK"],
}


@pytest.mark.parametrize(
    ("image_format", "options", "mode"),
    [
        (image_format, options, mode)
        for image_format, options in [*LOSSLESS, ("JPEG", {"quality": 95, "subsampling": 0})]
        for mode in WRITABLE[image_format]
    ],
)
def test_every_mode_becomes_what_it_shows(image_format: str, options: dict[str, Any], mode: str) -> None:
    stored = PICTURE.convert("P").convert(mode) if mode == "PA" else PICTURE.convert(mode)
    data = encoded(stored, image_format, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert off_by(decode(data), expected) <= (1 if image_format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_upright(orientation: int, image_format: str) -> None:
    """EXIF 2.32: what the stored row 0 and column 0 are of the picture as seen."""
    turns: dict[int, Pixels] = {
        1: EXPECTED,
        2: EXPECTED[:, ::-1],
        3: np.rot90(EXPECTED, 2),
        4: EXPECTED[::-1],
        5: EXPECTED.transpose(1, 0, 2),
        6: np.rot90(EXPECTED, -1),
        7: np.rot90(EXPECTED, 2).transpose(1, 0, 2),
        8: np.rot90(EXPECTED, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    pixels = decode(encoded(PICTURE, image_format, exif=exif, **exact.get(image_format, {})))
    assert off_by(pixels, turns[orientation]) <= (8 if image_format == "JPEG" else 0)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 9, 0),
        b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 2, 1, 6, 0),
        b"MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHIHH", 0x0100, 3, 1, 6, 0),
    ],
)
def test_a_damaged_exif_block_leaves_the_picture_as_it_is(exif: bytes) -> None:
    assert find_orientation(exif) == 1
    assert decode(encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + exif)).shape == EXPECTED.shape


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_bits(image_format: str) -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = decode(encoded(Image.fromarray(levels), image_format))
    assert off_by(pixels, (levels >> 8).astype(np.uint8)[..., None].repeat(3, axis=2)) == 0


def test_16_bit_colour_keeps_its_upper_bits() -> None:
    rows = [b"\0" + bytes([red, 255, 0, 255, 128, 255]) for red in range(256)]
    header = struct.pack(">IIBBBBB", 1, 256, 16, 2, 0, 0, 0)
    data = png((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    assert decode(data)[:, 0].tolist() == [[red, 0, 128] for red in range(256)]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_over_white(mode: str) -> None:
    layers = Image.new("RGBA", (3, 1))
    layers.putdata([(0, 0, 0, 0), (0, 0, 0, 128), (0, 0, 0, 255)])
    picture = layers.convert("LA") if mode == "LA" else layers
    if mode == "P":
        picture = Image.new("P", (3, 1))
        picture.putpalette([0, 0, 0, 0, 0, 0, 0, 0, 0])
        picture.putdata([0, 1, 2])
        picture.info["transparency"] = bytes([0, 128, 255])
    expected = np.array([[[255] * 3, [127] * 3, [0] * 3]], dtype=np.uint8)
    assert off_by(decode(encoded(picture, "PNG")), expected) == 0


def test_premultiplied_pixels_lie_over_white() -> None:
    """TIFF's associated alpha (ExtraSamples = 1): a half-transparent red is stored as (128, 0, 0, 128)."""
    picture = Image.new("RGBA", (1, 1), (128, 0, 0, 128))
    extra_samples = struct.pack("<HHIH", 338, 3, 1, 2)
    data = encoded(picture, "TIFF")
    assert data.count(extra_samples) == 1
    pixels = decode(data.replace(extra_samples, struct.pack("<HHIH", 338, 3, 1, 1)))
    assert off_by(pixels, np.array([[[255, 127, 127]]], dtype=np.uint8)) == 0


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_transparent_colour_is_white(mode: str) -> None:
    picture = Image.new(mode, (2, 1), "black")
    picture.putpixel((1, 0), 255 if mode != "RGB" else (255, 0, 0))
    data = encoded(picture, "PNG", transparency=0 if mode != "RGB" else (0, 0, 0))
    assert decode(data)[0].tolist() == [[255] * 3, [255, 0, 0] if mode == "RGB" else [255] * 3]


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    other = Image.new("RGB", PICTURE.size, "red")
    data = encoded(PICTURE, image_format, save_all=True, append_images=[other, other], **options)
    assert off_by(decode(data), EXPECTED) == 0


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_pixels_without_a_known_scale_are_refused_by_name(mode: str) -> None:
    error = refusal(encoded(Image.new(mode, (4, 4)), "TIFF"))
    assert error.reason == "unsupported_pixels"
    assert f"kind {mode}," in str(error)


def test_inverted_cmyk_from_adobe_is_not_a_negative() -> None:
    white = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")
    assert b"Adobe" in white
    assert decode(white).min() >= 250


# ── JPEG scales and crops ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target_size", "expected"),
    [(1, (60, 80)), (60, (60, 80)), (61, (120, 160)), (224, (240, 320)), (480, (480, 640)), (2000, (480, 640))],
)
def test_a_jpeg_is_decoded_no_larger_than_needed(target_size: int, expected: tuple[int, int]) -> None:
    data = encoded(PICTURE.resize((640, 480)), "JPEG")
    assert decode(data, target_size=target_size).shape == (*expected, 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_scale_leaves_enough_of_a_crop(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PICTURE.resize((1600, 800)), "JPEG", exif=exif)
    for target_size in (50, 100, 199):
        for box in (Box(x=0.1, y=0.6, width=0.5, height=0.25), Box(x=0.6, y=0.1, width=0.25, height=0.5)):
            shape = decode(data, target_size=target_size, box=box).shape
            assert target_size <= min(shape[:2]) <= 2 * target_size + 2


def test_a_crop_is_the_part_that_the_box_names() -> None:
    box = Box(x=1 / 6, y=0.25, width=0.5, height=0.5)
    data = encoded(PICTURE, "PNG")
    assert off_by(decode(data, box=box), EXPECTED[8:24, 8:32]) == 0
    assert off_by(decode(data, box=Box(x=0, y=0, width=1, height=1)), EXPECTED) == 0


def test_a_crop_is_taken_after_turning() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode(encoded(PICTURE, "PNG", exif=exif), box=Box(x=0, y=0, width=0.5, height=0.5))
    assert off_by(pixels, np.rot90(EXPECTED, -1)[:24, :16]) == 0


@pytest.mark.parametrize(
    ("x", "width", "columns"),
    [
        (0.1, 0.2, (1, 3)),
        (0.0, 0.05, (0, 1)),
        (0.9999999, 0.0000001, (9, 10)),
        (0.95, 0.05, (9, 10)),
        (0.15, 0.2, (1, 4)),
    ],
)
def test_a_crop_is_rounded_outwards_and_never_empty(x: float, width: float, columns: tuple[int, int]) -> None:
    ramp = Image.fromarray(np.arange(10, dtype=np.uint8).reshape(1, 10))
    pixels = decode(encoded(ramp, "PNG"), box=Box(x=x, y=0, width=width, height=1e-300))
    assert pixels[0, :, 0].tolist() == list(range(*columns))


def test_an_absurdly_small_box_of_a_jpeg_is_one_pixel() -> None:
    box = Box(x=0.5, y=0.5, width=5e-324, height=5e-324)
    assert decode(encoded(PICTURE, "JPEG"), target_size=224, box=box).shape == (1, 1, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("resize", ["stretch", "shorter_side"])
def test_thin_pictures_are_decoded_and_scaled(
    size: tuple[int, int], image_format: str, resize: Literal["stretch", "shorter_side"]
) -> None:
    pixels = decode(encoded(Image.new("RGB", size, (200, 100, 50)), image_format), target_size=36)
    out = prepare(pixels, preprocessing(resize, 36, 32))
    assert out.shape == (32, 32, 3)
    assert np.abs(out.astype(int) - [200, 100, 50]).max() <= 6


# ── Resizing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def preprocessing(resize: Literal["stretch", "shorter_side"], size: int, crop: int) -> Preprocessing:
    return Preprocessing(resize=resize, resize_size=size, crop_size=crop, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize(("height", "width"), [(240, 240), (240, 320), (322, 240), (100, 90), (1200, 700)])
def test_resizing_is_pillows_bilinear_of_the_centre_square(height: int, width: int) -> None:
    pixels = np.asarray(PICTURE.resize((width, height))).copy()
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    out = prepare(pixels, preprocessing("shorter_side", 224, 224))
    assert off_by(out, np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR))) <= 4


def test_the_right_size_is_left_as_it_is() -> None:
    square = EXPECTED[:32, 8:40].copy()
    assert off_by(prepare(square, preprocessing("stretch", 32, 32)), square) == 0


# ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)


def patched(image_format: str, position: int, sides: bytes, **options: Any) -> bytes:
    data = encoded(PICTURE, image_format, **options)
    return data[:position] + sides + data[position + len(sides) :]


HUGE = {
    "PNG": png((b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)), (b"IDAT", b"")),
    "JPEG": patched("JPEG", encoded(PICTURE, "JPEG").index(b"\xff\xc0") + 5, struct.pack(">HH", 50_000, 50_000)),
    "GIF": patched("GIF", 6, struct.pack("<HH", 50_000, 50_000)),
    "BMP": patched("BMP", 18, struct.pack("<ii", 50_000, 50_000)),
    "WebP": patched("WEBP", 21, (16_382 | 16_382 << 14 | 1 << 28).to_bytes(4, "little"), lossless=True),
    "TIFF": encoded(PICTURE, "TIFF")
    .replace(struct.pack("<HHII", 256, 4, 1, 48), struct.pack("<HHII", 256, 4, 1, 50_000))
    .replace(struct.pack("<HHII", 257, 4, 1, 32), struct.pack("<HHII", 257, 4, 1, 50_000)),
}


@pytest.mark.parametrize("image_format", HUGE)
def test_too_many_pixels_are_refused_by_the_header(image_format: str) -> None:
    error = refusal(HUGE[image_format], max_pixels=50_000_000)
    assert error.reason == "too_many_pixels"
    assert ("16383 × 16383" if image_format == "WebP" else "50000 × 50000") in str(error)
    assert "fetch.max_pixels" in str(error)


def test_the_pixel_limit_is_exact() -> None:
    pixels = EXPECTED.shape[0] * EXPECTED.shape[1]
    for image_format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        data = encoded(PICTURE, image_format)
        assert decode(data, max_pixels=pixels).shape == EXPECTED.shape
        assert refusal(data, max_pixels=pixels - 1).reason == "too_many_pixels"


def test_a_tile_larger_than_the_limit_is_refused() -> None:
    """A tile is decoded whole, however small the picture that it covers."""
    tags = [
        (256, 16),
        (257, 16),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 32768),
        (323, 32768),
        (324, 8),
        (325, 8),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    assert refusal(data).reason == "too_many_pixels"


@pytest.mark.parametrize("kind", ["jpeg", "group4", "tiff_ccitt", "zstd", "lzma"])
def test_rare_tiff_compressions_are_refused_by_name(kind: str) -> None:
    try:
        data = encoded(PICTURE.convert("1" if kind in ("group4", "tiff_ccitt") else "RGB"), "TIFF", compression=kind)
    except (OSError, RuntimeError, KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {kind}")
    assert "TIFF compression" in str(refusal(data))


def test_text_that_unpacks_without_end_is_refused() -> None:
    information = PngInfo()
    information.add_text("comment", "x" * 3_000_000, zip=True)
    data = encoded(PICTURE, "PNG", pnginfo=information)
    assert len(data) < 20_000
    assert "too large" in str(refusal(data))


def test_a_colour_profile_that_unpacks_without_end_is_refused() -> None:
    profile = (b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000)))
    header = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    picture = (b"IDAT", zlib.compress(b"\0\0"))
    assert decode(png(header, picture, (b"IEND", b""))).shape == (1, 1, 3)
    assert "too large" in str(refusal(png(header, profile, picture, (b"IEND", b""))))


def test_a_jpeg_of_endless_scans_is_refused_unread() -> None:
    data = encoded(PICTURE, "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    bomb = data[:first] + data[first:second] + data[second : second + 40] * 200 + b"\xff\xd9"
    assert refusal(bomb).reason == "too_many_scans"
    assert decode(data).shape == EXPECTED.shape


def test_stray_bytes_before_the_end_of_a_jpeg_do_no_harm() -> None:
    data = encoded(PICTURE, "JPEG")
    assert off_by(decode(data[:-2] + b"\0\x11\x22\xff\xd9"), decode(data)) == 0
    assert off_by(decode(data + b"trailing bytes"), decode(data)) == 0


def test_a_truncated_jpeg_with_an_end_marker_is_refused() -> None:
    data = encoded(PICTURE, "JPEG")
    for cut in range(len(data) // 2, len(data) - 20, 7):
        assert refusal(data[:cut] + b"\xff\xd9").reason == "damaged_image"


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", b"\xff\xd8" + b"\xff" * 5000, b"\xff\xd8" + b"\xff\x01" * 5000]
)
def test_a_jpeg_without_a_picture_is_refused(data: bytes) -> None:
    assert refusal(data).reason == "damaged_image"


def test_an_error_page_named_jpg_is_named() -> None:
    assert "looks like HTML" in str(refusal(b"<!doctype html><title>404</title>"))
    assert refusal(b"").reason == "empty_image"


def test_nothing_is_written_to_stderr() -> None:
    """In a process of its own, since pytest takes Python's warnings away."""
    script = """
import base64, sys
from embedder.image_format import identify
from embedder.jpeg_decode import decode_jpeg, read_jpeg_header
from embedder.pillow_decode import decode_with_pillow
from pinstream.errors import BadRecordError
for line in sys.stdin:
    data = base64.b64decode(line)
    try:
        if data.startswith(b"\\xff\\xd8"):
            decode_jpeg(data, read_jpeg_header(data), 1, 1)
        else:
            decode_with_pillow(data, identify(data), 10**6)
    except BadRecordError:
        pass
"""
    wholes = [encoded(PICTURE, image_format) for image_format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]
    damaged = [
        data
        for whole in wholes
        for data in (whole[: len(whole) // 2], whole[:-5], whole[:-200], whole[:40] + b"\xff" * 20 + whole[60:])
    ]
    lines = b"\n".join(base64.b64encode(data) for data in damaged)
    done = subprocess.run([sys.executable, "-c", script], input=lines, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_large_pictures_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads, one large picture at a time: the highest number of decoders at work is 1."""
    from embedder import pillow_decode, size_limits  # noqa: PLC0415 (only this test looks inside)

    monkeypatch.setattr(size_limits, "LARGE_PIXELS", 100)
    decoders, most = 0, 0
    really = pillow_decode._rgb

    def counted(picture: Image.Image) -> Pixels:
        nonlocal decoders, most
        decoders += 1
        most = max(most, decoders)
        pixels = really(picture)
        decoders -= 1
        return pixels

    monkeypatch.setattr(pillow_decode, "_rgb", counted)
    data = encoded(PICTURE.resize((600, 400)), "PNG")
    threads = [threading.Thread(target=decode, args=(data,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
