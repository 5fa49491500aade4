"""An RGB image of any size → the square that the network takes. Pure; the same code serves and trains."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedder.model.artifact import Preprocessing


def prepare(image_HW3: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB → uint8 [S, S, 3], S = `preprocessing.crop_size`. Antialiased; thread-safe; holds no lock
    while it resizes.

    A box is cut out before, so that its whole content is seen. Images already of the right size are returned as they
    are.
    """
    height, width = image_HW3.shape[:2]
    crop = preprocessing.crop_size
    cut_height = cut_width = float(min(height, width)) * crop / preprocessing.resize_size
    if preprocessing.resize == "stretch":
        share = crop / preprocessing.resize_size
        cut_height, cut_width = height * share, width * share
    if (height, width) == (crop, crop) == (cut_height, cut_width):
        return image_HW3
    # The centre is cut out while it is scaled: scaling all of a 1 × 50,000 image first would take gigabytes.
    left, top = (width - cut_width) / 2, (height - cut_height) / 2
    resized = Image.fromarray(image_HW3).resize(
        (crop, crop), Image.Resampling.BILINEAR, (left, top, left + cut_width, top + cut_height), reducing_gap=2.0
    )
    return np.asarray(resized)
