"""Encoded image bytes → what the model takes: the same way for Pins and for queries."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from embedder.decode import decode_image
from embedder.encode_stage import ImageEncoder
from embedder.model.artifact import Preprocessing
from embedder.model.preprocess import prepare
from embedder.pin_work import ImageArray
from pinstream.events import Box


class ImageInput:
    """Decodes, crops and scales as one model was trained. Thread-safe; holds no lock while it works."""

    def __init__(self, preprocessing: Preprocessing, max_pixels: int) -> None:
        self._preprocessing = preprocessing
        self._max_pixels = max_pixels

    def __call__(self, image_bytes: bytes, box: Box | None) -> ImageArray:
        """→ RGB uint8 [S, S, 3]. Raises BadRecordError (stage `decode`): no image, a damaged or a too large one."""
        rgb = decode_image(
            image_bytes, max_pixels=self._max_pixels, target_size=self._preprocessing.resize_size, box=box
        )
        return prepare(rgb, self._preprocessing)


class QueryEncoder:
    """Embeds one query image with this generation's model. Thread-safe: queries take turns at the model. Blocks."""

    def __init__(self, image_input: ImageInput, encoder: ImageEncoder) -> None:
        self._input = image_input
        self._encoder = encoder
        self._turn = threading.Lock()

    def __call__(self, image_bytes: bytes, box: Box | None) -> npt.NDArray[np.uint8]:
        """→ packed code uint8 [W]. Raises BadRecordError: the image can't be decoded."""
        image = self._input(image_bytes, box)
        with self._turn:
            code_W: npt.NDArray[np.uint8] = self._encoder.encode(image[np.newaxis])[0]
        return code_W
