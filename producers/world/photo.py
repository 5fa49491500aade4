"""The camera domain: the product as a person finds it and photographs it with a phone, at hand, askew and in bad
light."""

from __future__ import annotations

import math
from typing import cast

import cv2
import numpy as np

from producers.world.canvas import Canvas, Point, facing, moved
from producers.world.catalog import Product
from producers.world.colours import Colour, oklch
from producers.world.outline import Outline, smooth
from producers.world.pixels import Floats, Pixels, recolour, thrice, tinted
from producers.world.sprite import Pose, paint
from producers.world.staging import HANGING, Light, Turn, any_decor, hang, light, stand
from producers.world.streams import chance, pick
from producers.world.surfaces import OUTDOORS, floor, grain, mottle, surface

KEEP_VISIBLE = 0.72
"""Whatever is in the way, and the edge of the photo, leave at least this share of the product to be seen."""


def snap(rng: np.random.Generator, seed: int, thing: Product, size_px: int) -> tuple[Canvas, int]:
    """Return a photo of one product, and its JPEG quality (1 to 100)."""
    lit = light(rng)
    canvas = Canvas(_surroundings(rng, size_px))
    for _ in range(rng.integers(1, 5)):
        _clutter(rng, canvas, seed, lit)
    _subject(rng, canvas, thing, lit)
    for _ in range(rng.integers(3)):
        _in_the_way(rng, canvas, seed, lit)
    canvas.rgb = _expose(rng, _defocus(rng, _illuminate(rng, canvas.rgb)))
    return canvas, int(rng.integers(28, 66))


def _surroundings(rng: np.random.Generator, size_px: int) -> Floats:
    colour = oklch(pick(rng, 0.35, 0.88), pick(rng, 0.0, 0.09), pick(rng, 0, 6.28))
    material = OUTDOORS[rng.integers(len(OUTDOORS))]
    if chance(rng, 0.4):
        return surface(rng, material, size_px, size_px, colour)
    line = round(size_px * pick(rng, 0.25, 0.6))
    behind = oklch(pick(rng, 0.3, 0.9), pick(rng, 0.0, 0.08), pick(rng, 0, 6.28))
    back = surface(rng, OUTDOORS[rng.integers(len(OUTDOORS))], line, size_px, behind)
    soft = cv2.GaussianBlur(back, (0, 0), size_px / 80)
    return np.concatenate([soft, floor(rng, material, size_px - line, size_px, colour)])


def _clutter(rng: np.random.Generator, canvas: Canvas, seed: int, lit: Light) -> None:
    """Put something around, often a sheet of paper or a book, mostly at the edges."""
    size = canvas.size_px
    angle = pick(rng, 0, 2 * math.pi)
    reach = size * pick(rng, 0.32, 0.55)
    place = size / 2 + reach * math.cos(angle), size / 2 + reach * math.sin(angle)
    if chance(rng, 0.4):
        sheet = _sheet(rng, round(size * pick(rng, 0.2, 0.45)))
        canvas.paste(sheet, facing(sheet, place, pick(rng, 0, 6.28), pick(rng, -0.6, 0.6), pick(rng, -0.8, 0.2)))
    else:
        turn = Turn(pick(rng, -0.5, 0.5), pick(rng, -0.5, 0.5), pick(rng, -0.3, 0.1))
        hang(canvas, any_decor(seed, rng), size * pick(rng, 0.25, 0.5), place, lit, turn, chance(rng, 0.5))


def _sheet(rng: np.random.Generator, size_px: int) -> Pixels:
    """A book or a printed page, uint8 [H, W, 4]."""
    page = np.empty((size_px, int(size_px * pick(rng, 0.65, 1.0)), 4), np.uint8)
    colour = oklch(pick(rng, 0.3, 0.97), pick(rng, 0.0, 0.14), pick(rng, 0, 6.28))
    page[:] = (*(round(255 * channel) for channel in colour), 255)
    ink = 40 if sum(colour) > 1.4 else 230
    for row in range(size_px // 8, size_px - size_px // 8, max(size_px // 12, 2)):
        page[row : row + max(size_px // 40, 1), size_px // 9 : int(page.shape[1] * pick(rng, 0.5, 0.9)), :3] = ink
    return page


def _subject(rng: np.random.Generator, canvas: Canvas, thing: Product, lit: Light) -> None:
    size = canvas.size_px
    turn = Turn(pick(rng, -0.3, 0.3), pick(rng, -0.6, 0.6), pick(rng, -0.35, 0.2))
    flip = chance(rng, 0.3)
    large = size * pick(rng, 0.5, 0.85)
    if thing.category in HANGING or chance(rng, 0.3):
        centre = size * pick(rng, 0.4, 0.6), size * pick(rng, 0.4, 0.6)
        hang(canvas, thing, large, centre, lit, turn, flip, thing.index)
    else:
        foot = size * pick(rng, 0.4, 0.6), min(size * 0.98, size * pick(rng, 0.55, 0.7) + large * 0.4)
        stand(canvas, thing, large, foot, lit, turn, flip, thing.index)


def _in_the_way(rng: np.random.Generator, canvas: Canvas, seed: int, lit: Light) -> None:
    """Let a thing, a cable or a finger cover part of the photo, if enough of the product stays visible."""
    size = canvas.size_px
    kind = rng.integers(3)
    if kind == 0:
        cover = paint(any_decor(seed, rng), round(size * pick(rng, 0.25, 0.5)), Pose(0.0, lit, chance(rng, 0.5)))
        quad = facing(cover, (size * pick(rng, -0.05, 1.05), size * pick(rng, 0.8, 1.1)), pick(rng, -0.7, 0.7))
    else:
        cover, corner = _cable(rng, size) if kind == 1 else _finger(rng, size)
        quad = moved(facing(cover, (cover.shape[1] / 2, cover.shape[0] / 2)), *corner)
    canvas.paste(cover, quad, keep_visible=KEEP_VISIBLE)


def _cable(rng: np.random.Generator, size_px: int) -> tuple[Pixels, Point]:
    path = smooth([(pick(rng, -0.1, 1.1), pick(rng, -0.1, 1.1)) for _ in range(4)], 3, closed=False)
    return _strip(path, pick(rng, 0.008, 0.02), oklch(pick(rng, 0.15, 0.95), 0.02, 1.0), size_px)


def _finger(rng: np.random.Generator, size_px: int) -> tuple[Pixels, Point]:
    """A finger reaching in from the edge, in any colour of skin."""
    x, reach, lean = pick(rng, 0, 1), pick(rng, 0.15, 0.3), pick(rng, -0.15, 0.15)
    edge, tip = (1.05, 1 - reach) if chance(rng, 0.7) else (-0.05, reach)
    skin = oklch(pick(rng, 0.4, 0.82), pick(rng, 0.04, 0.07), pick(rng, 0.75, 1.0))
    return _strip(np.array([[x, edge], [x + lean, tip]]), pick(rng, 0.1, 0.15), skin, size_px)


def _strip(path: Outline, width: float, tint: Colour, size_px: int) -> tuple[Pixels, Point]:
    """A rounded strip along a path in [0, 1]: uint8 [H, W, 4], and where its top left corner belongs."""
    mask = np.zeros((size_px, size_px), np.uint8)
    points = (path * size_px * 16).round().astype(np.int32)
    cv2.polylines(mask, [points], False, 255, max(round(width * size_px), 1), cv2.LINE_AA, 4)
    x, y, across, down = cv2.boundingRect(mask)
    if across == 0:
        return np.zeros((1, 1, 4), np.uint8), (0, 0)
    mask = mask[y : y + down, x : x + across]
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3)
    tone = (0.7 + 0.3 * np.minimum(depth / (width * size_px / 2), 1)) * mask
    return cv2.merge([*((tone * channel).astype(np.uint8) for channel in tint), mask]).astype(np.uint8, copy=False), (
        x,
        y,
    )


def _illuminate(rng: np.random.Generator, rgb: Floats) -> Floats:
    """Uneven light: falling off to one side, with somebody's shadow across, in the colour of the lamp."""
    size = rgb.shape[0]
    angle, fall = pick(rng, 0, 2 * math.pi), pick(rng, 0.05, 0.35)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    level = 1 + np.float32(fall) * (
        across[None] * np.float32(math.cos(angle)) + across[:, None] * np.float32(math.sin(angle))
    )
    if chance(rng, 0.4):
        edge = mottle(rng, size, size, 3, 3) * 4
        level *= 1 - np.float32(pick(rng, 0.15, 0.35)) * np.clip(edge, 0, 1)
    warmth, tint = pick(rng, -0.2, 0.28), pick(rng, -0.07, 0.07)
    rgb *= tinted(level, (1 + warmth, 1 + tint, 1 - warmth))
    return rgb


def _defocus(rng: np.random.Generator, rgb: Floats) -> Floats:
    size = rgb.shape[0]
    if chance(rng, 0.35):
        return _shake(rng, rgb, round(size * pick(rng, 0.012, 0.032)))
    return cast(Floats, cv2.GaussianBlur(rgb, (0, 0), size * pick(rng, 0.0015, 0.007)))


def _shake(rng: np.random.Generator, rgb: Floats, length: int) -> Floats:
    """Blur along a line, as a hand that moves does."""
    half = max(length // 2, 1)
    angle = pick(rng, 0, math.pi)
    x, y = round(half * math.cos(angle)), round(half * math.sin(angle))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    cv2.line(kernel, (half - x, half - y), (half + x, half + y), 1.0)
    return cast(Floats, cv2.filter2D(rgb, -1, kernel / kernel.sum()))


def _expose(rng: np.random.Generator, rgb: Floats) -> Floats:
    """Too dark or too bright, pale, and noisy."""
    size, half = rgb.shape[0], (rgb.shape[0] + 1) // 2
    rgb *= np.float32(pick(rng, 0.6, 1.25))
    np.clip(rgb, 0, 1.15, out=rgb)
    cv2.pow(rgb, pick(rng, 0.85, 1.25), dst=rgb)
    gain, haze, noise = pick(rng, 0.8, 1.0), pick(rng, 0, 0.08), pick(rng, 0.01, 0.04)
    photo = recolour(rgb, pick(rng, 0.6, 1.1), [gain] * 3, [haze] * 3)
    blotches = cv2.merge([grain(rng, half, half) * np.float32(noise * 0.8) for _ in range(3)])
    photo += cv2.resize(blotches, (size, size))
    photo += thrice(grain(rng, size, size) * np.float32(noise))
    return photo
