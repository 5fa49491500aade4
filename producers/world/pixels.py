"""What images are made of, and the arithmetic on their channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
"""float32 of any shape: images [H, W, 3] in [0, 1], masks and maps [H, W]. Typed wider because the stubs of NumPy widen
float32 with a Python float, which NumPy itself does not."""
Doubles = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W, 3] RGB or [H, W, 4] RGBA."""


def tinted(grey: Floats, colour: Sequence[float]) -> Floats:
    """Return a map [H, W] times a colour, [H, W, 3]: several times faster than a broadcast over the last axis."""
    return cast(Floats, cv2.merge([grey * np.float32(channel) for channel in colour]))


def thrice(grey: Floats) -> Floats:
    """Return a map [H, W] as [H, W, 3]."""
    return cast(Floats, cv2.merge([grey, grey, grey]))


def recolour(
    rgb: Floats, saturation: float, gain: Sequence[float] | Doubles, offset: Sequence[float] | Doubles
) -> Floats:
    """Scale the saturation of an image, then each channel by its gain, then add its offset."""
    grey = np.array([0.3, 0.59, 0.11])
    mix = (saturation * np.eye(3) + (1 - saturation) * grey) * np.asarray(gain)[:, None]
    return cast(Floats, cv2.transform(rgb, np.column_stack([mix, offset]).astype(np.float32)))
