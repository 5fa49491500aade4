"""From an item in a picture to a training image: a window around its box, flipped, relit and blurred at random.

Pure: everything random comes from the generator that is passed in. Shapes: R pixels of a picture, S pixels of an
image.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from embedder.model.pictures import Source

MIN_WINDOW: Final = 0.15
"""Smallest side of a window, as a share of the picture."""
BOX_MARGIN: Final = 0.05
"""Space left around a subject when it is cut out, as a share of its size."""
_WHOLE_AREA: Final = 0.98
"""A box larger than this says nothing: the item is its picture."""


def training_image(
    picture_RR3: npt.NDArray[np.uint8], item: np.void, size: int, rng: np.random.Generator, *, flip: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """One item → uint8 [S, S, 3], and where the item is in it: float32 [4], x0, y0, x1, y1 as shares of a side, with a
    margin; NaN for an item that is its whole picture. The same generator state gives the same image.
    """
    window = random_window(item, rng)
    image_SS3, box_4 = cut(picture_RR3, window, size), _box_in(window, item)
    if flip and rng.random() < 0.5:
        image_SS3 = image_SS3[:, ::-1]
        box_4 = np.array([1 - box_4[2], box_4[1], 1 - box_4[0], box_4[3]], np.float32)
    return relight(image_SS3, rng), box_4


def _box_in(window: tuple[float, float, float, float], item: np.void) -> npt.NDArray[np.float32]:
    x, y, width, height = (float(value) for value in item["box"])
    if width * height > _WHOLE_AREA:
        return np.full(4, np.nan, np.float32)
    x0, y0, x1, y1 = window
    margin_x, margin_y = BOX_MARGIN * width, BOX_MARGIN * height
    edges = np.array([x - margin_x, y - margin_y, x + width + margin_x, y + height + margin_y])
    box_4: npt.NDArray[np.float32] = (edges - [x0, y0, x0, y0]) / np.array([x1 - x0, y1 - y0] * 2)
    return np.clip(box_4, 0, 1).astype(np.float32)


def random_window(item: np.void, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 as fractions: between the item's box and the whole picture, moved and scaled a little.

    A quarter of the windows is near the box, as a user draws it, and the others near the whole picture, as it is
    indexed; in a scene, which shows several products, all are near the box. An item that fills its picture gets a
    random crop.
    """
    x, y, width, height = (float(value) for value in item["box"])
    if width * height > _WHOLE_AREA:
        share = float(rng.uniform(0.55, 1))
        aspect = float(np.exp(rng.uniform(-0.2, 0.2)))
        width, height = min(1.0, (share * aspect) ** 0.5), min(1.0, (share / aspect) ** 0.5)
        x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        return x, y, x + width, y + height
    near_box = item["source"] == Source.SCENE or rng.random() < 0.25
    whole = float(rng.uniform(0, 0.15) if near_box else rng.uniform(0.6, 1))
    edges = np.array([x, y, x + width, y + height]) * (1 - whole) + np.array([0, 0, 1, 1]) * whole
    edges += rng.uniform(-0.06, 0.06, 4) * np.array([width, height, width, height])
    x0, y0, x1, y1 = np.clip(edges, 0, 1).tolist()
    return x0, y0, max(x1, x0 + MIN_WINDOW), max(y1, y0 + MIN_WINDOW)


def cut(
    picture_RR3: npt.NDArray[np.uint8], window: tuple[float, float, float, float], size: int
) -> npt.NDArray[np.uint8]:
    """The window of a picture, stretched to [S, S, 3]."""
    height, width = picture_RR3.shape[:2]
    x0, y0, x1, y1 = window
    left, top = round(x0 * width), round(y0 * height)
    right, bottom = min(width, max(left + 1, round(x1 * width))), min(height, max(top + 1, round(y1 * height)))
    part = picture_RR3[top:bottom, min(left, width - 1) : right]
    shrinks = part.shape[0] * part.shape[1] > size * size
    resized = cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    image_SS3: npt.NDArray[np.uint8] = resized.astype(np.uint8, copy=False)
    return image_SS3


def relight(image_SS3: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Random exposure, contrast, white balance and sensor noise."""
    x_SS3 = image_SS3.astype(np.float32)
    mean = x_SS3.mean()
    contrast, exposure = rng.uniform(0.75, 1.25, 2).astype(np.float32)
    x_SS3 = ((x_SS3 - mean) * contrast + mean * exposure) * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    x_SS3 += rng.standard_normal(x_SS3.shape, np.float32) * np.float32(rng.uniform(0, 8))
    relit: npt.NDArray[np.uint8] = np.clip(x_SS3, 0, 255).astype(np.uint8)
    return relit
