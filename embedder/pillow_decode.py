"""PNG, GIF, WebP, BMP and TIFF → RGB with Pillow.

Pillow's format classes are used directly: `Image.open` would try further formats and warn on stderr about sizes that
`max_pixels` judges. Importing this module sets one global: Pillow's Python warnings (damaged metadata and the like) are
ignored in this process, since each comes with an error or with a whole picture. libtiff still writes a line to stderr
for a damaged compressed TIFF.
"""

from __future__ import annotations

import io
import warnings
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from embedder.exif_orientation import UPRIGHT, find_orientation
from embedder.image_format import ImageFormat
from embedder.size_limits import check_size, large_ones_in_turn
from pinstream.errors import BadRecordError

warnings.filterwarnings("ignore", module=r"PIL\.")

_READERS: Final[dict[ImageFormat, type[ImageFile.ImageFile]]] = {
    ImageFormat.BMP: BmpImageFile,
    ImageFormat.GIF: GifImageFile,
    ImageFormat.PNG: PngImageFile,
    ImageFormat.TIFF: TiffImageFile,
    ImageFormat.WEBP: WebPImageFile,
}
_COLOUR_MODES: Final = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"})
_PNG_SIZE_END: Final = 24
_COMPRESSION, _TILE_WIDTH, _TILE_LENGTH = 259, 322, 323
_TIFF_COMPRESSIONS: Final = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
"""The others bring old codecs into the process that hostile files are best kept away from."""


def decode_with_pillow(data: bytes, image_format: ImageFormat, max_pixels: int) -> tuple[npt.NDArray[np.uint8], int]:
    """The first frame → (uint8 [H, W, 3] RGB as stored, EXIF orientation). Thread-safe.

    Transparent pixels are laid over white; 16-bit grey keeps its upper 8 bits. ICC profiles are ignored. Memory: up to
    22 bytes a pixel while it works (WebP; PNG 14).

    Raises:
        BadRecordError: more than `max_pixels`, judged by the header; damaged, truncated; or pixels of another kind.
    """
    if image_format is ImageFormat.PNG and data[12:16] == b"IHDR" and len(data) >= _PNG_SIZE_END:
        # Pillow reads on to the first pixels before it tells the size: a mere header would only be "truncated".
        check_size(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"), max_pixels)
    try:
        with _READERS[image_format](io.BytesIO(data)) as picture:
            _check_header(picture, max_pixels)
            with large_ones_in_turn(picture.width * picture.height):
                picture.load()
                return _rgb(picture), _orientation(picture)
    except BadRecordError:
        raise
    except Exception as error:  # Pillow's parsers let out a dozen kinds (SyntaxError, struct.error, KeyError …)
        raise BadRecordError(
            f"{image_format} is damaged or truncated: {type(error).__name__}: {str(error)[:200]}",
            stage="decode",
            reason="damaged_image",
        ) from error


def _check_header(picture: ImageFile.ImageFile, max_pixels: int) -> None:
    check_size(*picture.size, max_pixels)
    if isinstance(picture, TiffImageFile):
        compression = picture.tag_v2.get(_COMPRESSION, 1)
        if compression not in _TIFF_COMPRESSIONS:
            raise _unsupported(f"TIFF compression {compression!r}", ", ".join(sorted(set(_TIFF_COMPRESSIONS.values()))))
        # A tile is decoded whole, however little of it the picture covers.
        check_size(picture.tag_v2.get(_TILE_WIDTH, 1), picture.tag_v2.get(_TILE_LENGTH, 1), max_pixels)


def _rgb(picture: Image.Image) -> npt.NDArray[np.uint8]:
    if picture.mode.startswith("I;16"):
        grey_HW = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey_HW[..., None], 3, axis=2)
    if picture.mode not in _COLOUR_MODES:
        raise _unsupported(f"pixels of kind {picture.mode}", "8 or 16 bits a channel in grey, RGB or CMYK")
    if picture.has_transparency_data:
        layer = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        picture = Image.new("RGB", layer.size, "white")
        picture.paste(layer, mask=layer)
    elif picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.array(picture)


def _orientation(picture: ImageFile.ImageFile) -> int:
    if isinstance(picture, TiffImageFile):
        return UPRIGHT  # Pillow has turned it already
    exif = picture.info.get("exif")
    return find_orientation(exif) if isinstance(exif, bytes) else UPRIGHT


def _unsupported(what: str, expected: str) -> BadRecordError:
    return BadRecordError(f"image has {what}, expected {expected}", stage="decode", reason="unsupported_pixels")
