"""Paints one product in one pose, alone, as premultiplied RGBA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from producers.world import clothes, furniture, vessels
from producers.world.catalog import Category, Emblem, Product
from producers.world.colours import Colour
from producers.world.outline import Figure, Outline, Paint, Part, Relief, emblem_outlines
from producers.world.pixels import Floats, Pixels, thrice, tinted
from producers.world.textures import weights

MARGIN_PX = 2
_SHIFT = 4
"""Outlines are given to OpenCV in sixteenths of a pixel."""

FIGURES: dict[Category, Callable[[Sequence[float]], Figure]] = {
    Category.BOTTLE: vessels.bottle,
    Category.MUG: vessels.mug,
    Category.VASE: vessels.vase,
    Category.POT: vessels.pot,
    Category.TEAPOT: vessels.teapot,
    Category.LAMP: vessels.lamp,
    Category.CLOCK: furniture.clock,
    Category.CHAIR: furniture.chair,
    Category.ARMCHAIR: furniture.armchair,
    Category.TABLE: furniture.table,
    Category.CUSHION: furniture.cushion,
    Category.BAG: clothes.bag,
    Category.SHOE: clothes.shoe,
    Category.SHIRT: clothes.shirt,
    Category.DRESS: clothes.dress,
    Category.HAT: clothes.hat,
}

_FIXED: dict[Paint, Colour] = {
    Paint.LEAF: (0.29, 0.47, 0.25),
    Paint.LIGHT: (0.95, 0.94, 0.90),
    Paint.DARK: (0.13, 0.12, 0.13),
}


@dataclass(frozen=True, slots=True)
class Pose:
    yaw_rad: float = 0.0
    """How far a round thing is turned about its axis: its texture moves, its outline stays."""
    light: tuple[float, float] = (-0.4, 0.4)
    """Where the light comes from: right and up, each in [-1, 1]."""
    flip: bool = False


def paint(product: Product, size_px: int, pose: Pose) -> Pixels:
    """Return uint8 [H, W, 4], premultiplied, the longer side `size_px` plus a margin of 2 pixels all around."""
    figure = FIGURES[product.category](product.shape)
    parts = figure.parts
    if product.emblem is not Emblem.NONE:
        x, y, height = figure.emblem
        parts = [*parts, Part(emblem_outlines(product.emblem, x, y, height), Paint.TRIM)]
    points = np.concatenate([outline for part in parts for outline in part.outlines])
    low, high = points.min(axis=0), points.max(axis=0)
    scale = size_px / float((high - low).max())
    width, height_px = (np.ceil((high - low) * scale) + 2 * MARGIN_PX).astype(int).tolist()
    easel = _Easel(product, pose, width, height_px, 1 / size_px)
    for part in parts:
        easel.add(part, [_to_pixels(outline, low, high, scale, pose.flip) for outline in part.outlines])
    return easel.finish()


def _to_pixels(outline: Outline, low: Outline, high: Outline, scale: float, flip: bool) -> Outline:
    x = (high[0] - outline[:, 0]) if flip else (outline[:, 0] - low[0])
    return np.stack([x, high[1] - outline[:, 1]], axis=1) * scale + MARGIN_PX


class _Easel:
    """Lays the parts over one another, each with its own paint and relief."""

    def __init__(self, product: Product, pose: Pose, width: int, height: int, pixel: float) -> None:
        self._product = product
        self._pose = pose
        self._pixel = pixel
        self._rgb: Floats = np.zeros((height, width, 3), np.float32)
        self._alpha: Floats = np.zeros((height, width), np.float32)

    def add(self, part: Part, outlines: list[Outline]) -> None:
        points = np.concatenate(outlines)
        height, width = self._alpha.shape
        left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0).tolist()
        right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 2, (width, height)).tolist()
        mask = np.zeros((bottom - top, right - left), np.uint8)
        fixed = [np.round((outline - (left, top)) * 2**_SHIFT).astype(np.int32) for outline in outlines]
        cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SHIFT)
        here = (slice(top, bottom), slice(left, right))
        alpha = mask.astype(np.float32) * np.float32(1 / 255)
        colour = self._colour(part, mask, left, top)
        self._rgb[here] += (colour - self._rgb[here]) * thrice(alpha)
        self._alpha[here] += (1 - self._alpha[here]) * alpha

    def finish(self) -> Pixels:
        rgba = cv2.merge([*cv2.split(self._rgb), self._alpha])
        return cv2.convertScaleAbs(rgba, alpha=255).astype(np.uint8, copy=False)

    def _colour(self, part: Part, mask: Pixels, left: int, top: int) -> Floats:
        shade, shine, turn = _relief(part.relief, mask, self._pose, self._product.gloss)
        if part.paint is Paint.BODY:
            colour: Floats = self._textured(mask, left, top, turn) * thrice(shade)
        else:
            colour = tinted(shade, self._flat(part.paint))
        if shine is not None:
            colour += thrice(shine)
        return cast(Floats, cv2.threshold(colour, 1.0, 1.0, cv2.THRESH_TRUNC)[1])

    def _flat(self, kind: Paint) -> Colour:
        body, second, trim = self._product.palette
        if kind is Paint.HOLLOW:
            return (body[0] * 0.45, body[1] * 0.45, body[2] * 0.45)
        own = {Paint.SECOND: second, Paint.TRIM: trim, Paint.HARDWARE: self._product.hardware}
        return own[kind] if kind in own else _FIXED[kind]

    def _textured(self, mask: Pixels, left: int, top: int, turn: Floats | None) -> Floats:
        height, width = mask.shape
        u = np.empty(mask.shape, np.float32)
        v = np.empty(mask.shape, np.float32)
        v[:] = (np.arange(top, top + height, dtype=np.float32) * self._pixel)[:, None]
        if turn is None:
            u[:] = (np.arange(left, left + width, dtype=np.float32) - self._rgb.shape[1] / 2) * self._pixel
        else:
            u[:] = (turn + np.float32(self._pose.yaw_rad)) * np.float32(width * self._pixel / 2)
        if self._pose.flip:
            u = -u
        second, third = weights(self._product.texture, u, v, self._pixel)
        body, middle, trim = self._product.palette
        rest = 1 - third
        body_share, middle_share = rest * (1 - second), rest * second
        return cv2.merge(
            [
                body_share * body[channel] + middle_share * middle[channel] + third * trim[channel]
                for channel in range(3)
            ]
        ).astype(np.float32, copy=False)


def _relief(relief: Relief, mask: Pixels, pose: Pose, gloss: float) -> tuple[Floats, Floats | None, Floats | None]:
    """Return brightness, highlight on what is glossy and, on a round thing, the angle about its axis; all [H, W]."""
    if relief is Relief.ROUND:
        return _round(mask, pose, gloss)
    if relief is Relief.PUFFY and min(mask.shape) > 4:
        return (*_puffy(mask, pose, gloss), None)
    return np.full(mask.shape, 0.97, np.float32), None, None


def _round(mask: Pixels, pose: Pose, gloss: float) -> tuple[Floats, Floats | None, Floats]:
    inside = mask > 127
    first = inside.argmax(axis=1)
    last = mask.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    empty = ~inside.any(axis=1)
    first[empty], last[empty] = 0, mask.shape[1] - 1
    middle, half = (first + last) / 2, np.maximum((last - first) / 2, 1)
    across = (np.arange(mask.shape[1])[None] - middle[:, None]) / half[:, None]
    normal_x = np.clip(across, -0.999, 0.999).astype(np.float32)
    normal_z = np.sqrt(1 - normal_x * normal_x)
    light_x = pose.light[0]
    light_z = math.sqrt(max(0.2, 1 - light_x * light_x))
    shade = 0.42 + 0.6 * np.maximum(normal_x * light_x + normal_z * light_z, 0)
    turn = np.arcsin(normal_x)
    shine = np.exp(-30 * (turn - np.float32(math.asin(light_x / 2))) ** 2) * (0.55 * gloss) if gloss else None
    return shade, shine, turn


def _puffy(mask: Pixels, pose: Pose, gloss: float) -> tuple[Floats, Floats | None]:
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    width = min(max(float(depth.max()), 1.0), 0.16 * max(mask.shape) + 2)
    rise = 1 - np.minimum(depth / width, 1)
    height = cv2.GaussianBlur(np.sqrt(1 - rise * rise) * np.float32(width * 0.55), (0, 0), 1 + width * 0.08)
    slope_x, slope_y = (
        cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125),
        cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125),
    )
    light_x, light_y = pose.light
    lit = (0.8 - slope_x * light_x + slope_y * light_y) / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    shine = np.maximum(lit - 0.95, 0) * (0.9 * gloss) if gloss else None
    return 0.5 + 0.58 * np.maximum(lit, 0), shine
