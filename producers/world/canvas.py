"""The picture under construction: what lies over what, and how much of each product is still seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import cv2
import cv2.typing
import numpy as np
import numpy.typing as npt

from pinstream.events import Box
from producers.world.pixels import Floats, Pixels, thrice

Quad = npt.NDArray[np.float32]
"""float32 [4, 2]: where the corners of a sprite go, in pixels: top left, top right, bottom right, bottom left."""
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Placed:
    product: int
    box: Box
    """Around the pixels of the product that are seen."""
    visible: float
    """Share of the product that is neither hidden nor outside the image, in (0, 1]."""


@dataclass(slots=True)
class _Layer:
    product: int
    mask: Floats
    whole: float
    """Area with nothing hidden or cut off, in pixels."""


class Canvas:
    """A square image that things are pasted on. Not thread-safe."""

    def __init__(self, rgb: Floats) -> None:
        self.rgb = rgb
        self._layers: list[_Layer] = []

    @property
    def size_px(self) -> int:
        return int(self.rgb.shape[0])

    def paste(self, sprite: Pixels, quad: Quad, product: int | None = None, keep_visible: float = 0.0) -> bool:
        """Lay `sprite` (premultiplied RGBA) over the image; with a `product`, remember where it is.

        Return false and change nothing where that would leave less than `keep_visible` of a product pasted before.
        """
        left, top = np.floor(quad.min(axis=0)).astype(int).tolist()
        right, bottom = np.ceil(quad.max(axis=0)).astype(int).tolist()
        warped = _warp(sprite, quad - np.array([left, top], np.float32), (right - left, bottom - top))
        rows, columns = slice(max(top, 0), min(bottom, self.size_px)), slice(max(left, 0), min(right, self.size_px))
        here = (rows, columns)
        seen = warped[rows.start - top : max(rows.stop - top, 0), columns.start - left : max(columns.stop - left, 0)]
        if seen.size == 0:
            return True
        covered = _unit(cv2.extractChannel(seen, 3))
        clear = 1 - covered
        remaining = [layer.mask[here] * clear for layer in self._layers]
        for layer, mask in zip(self._layers, remaining, strict=True):
            lost = float(layer.mask[here].sum() - mask.sum())
            if layer.mask.sum() - lost < keep_visible * layer.whole:
                return False
        for layer, mask in zip(self._layers, remaining, strict=True):
            layer.mask[here] = mask
        self.rgb[here] *= thrice(clear)
        self.rgb[here] += _unit(cv2.cvtColor(seen, cv2.COLOR_RGBA2RGB))
        if product is not None:
            mask = np.zeros(self.rgb.shape[:2], np.float32)
            mask[here] = covered
            self._layers.append(_Layer(product, mask, float(cv2.sumElems(cv2.extractChannel(warped, 3))[0]) / 255))
        return True

    def darken(self, sprite: Pixels, quad: Quad, strength: float, softness: float) -> None:
        """Cast the shadow of `sprite` at `quad`; `softness` is its blur as a share of the image."""
        small = max(self.size_px // 4, 8)
        alpha = cast(Pixels, cv2.extractChannel(sprite, 3))
        fallen = _unit(_warp(alpha, quad * np.float32(small / self.size_px), (small, small)))
        shadow = cast(Floats, cv2.GaussianBlur(fallen, (0, 0), max(softness * small, 0.5)))
        light = cv2.resize(1 - shadow * np.float32(strength), (self.size_px, self.size_px))
        self.rgb *= thrice(cast(Floats, light))

    def placed(self) -> tuple[tuple[Placed, ...], tuple[npt.NDArray[np.bool_], ...]]:
        """Return the products in the order in which they came, and for each its mask, bool [H, W]."""
        found, masks = [], []
        for layer in self._layers:
            mask = layer.mask > 0.5
            x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
            box = Box(x=x / self.size_px, y=y / self.size_px, width=width / self.size_px, height=height / self.size_px)
            found.append(Placed(layer.product, box, min(float(layer.mask.sum()) / layer.whole, 1.0)))
            masks.append(mask)
        return tuple(found), tuple(masks)


def _warp(sprite: Pixels, quad: Quad, size: tuple[int, int]) -> Pixels:
    height, width = sprite.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return cast(Pixels, cv2.warpPerspective(sprite, cv2.getPerspectiveTransform(corners, quad), size))


def _unit(pixels: cv2.typing.MatLike) -> Floats:
    return pixels.astype(np.float32) * np.float32(1 / 255)


def facing(sprite: Pixels, centre: Point, roll_rad: float = 0.0, yaw_rad: float = 0.0, pitch_rad: float = 0.0) -> Quad:
    """Return where a sprite's corners go when it is turned about its centre and seen from near by.

    `roll` turns it in the picture, `yaw` shows it from the side, `pitch` from above or below.
    """
    height, width = sprite.shape[:2]
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    distance = 2.2 * max(width, height)
    x = corners[:, 0] * math.cos(yaw_rad)
    y = corners[:, 1] * math.cos(pitch_rad)
    away = corners[:, 0] * math.sin(yaw_rad) + corners[:, 1] * math.sin(pitch_rad)
    near = distance / (distance + away)
    x, y = x * near, y * near
    cos, sin = math.cos(roll_rad), math.sin(roll_rad)
    turned = np.stack([x * cos - y * sin + centre[0], x * sin + y * cos + centre[1]], axis=1)
    return turned.astype(np.float32)


def moved(quad: Quad, right_px: float, down_px: float) -> Quad:
    return quad + np.array([right_px, down_px], np.float32)


def lying(quad: Quad, lean: float, length: float) -> Quad:
    """Return where the shadow of a standing sprite falls: its foot stays, its top is laid on the ground.

    `lean` moves the top sideways and `length` up the picture, as shares of the sprite's height.
    """
    top_left, _, bottom_right, bottom_left = quad
    height = float(np.linalg.norm(top_left - bottom_left))
    shift = np.array([lean * height, -length * height], np.float32)
    return np.stack([bottom_left + shift, bottom_right + shift, bottom_right, bottom_left])
