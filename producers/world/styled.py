"""The pin domain: products in a styled room or laid out on a table, graded, sometimes with words over them; and the
scenes of several products that Shop the Look starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np

from producers.world.canvas import Canvas
from producers.world.catalog import Product
from producers.world.colours import Colour, oklch
from producers.world.pixels import Floats, Pixels, recolour, thrice, tinted
from producers.world.staging import FLAT_LAY, HANGING, SMALL, Light, Turn, any_decor, hang, light, stand
from producers.world.streams import chance, pick
from producers.world.surfaces import FLATS, FLOORS, WALLS, Material, floor, mottle, surface

WORDS = (
    "cozy corner", "shop the look", "DIY", "10 ideas", "spring edit", "love this", "new in", "small spaces",
    "weekend mood", "wish list", "before & after", "gift guide",
)  # fmt: skip
KEEP_VISIBLE = 0.85
"""Words and the things in front leave at least this share of every product to be seen."""


def pin(rng: np.random.Generator, seed: int, thing: Product, size_px: int) -> tuple[Canvas, int]:
    """Return a styled picture of one product with up to three other things, and its JPEG quality (1 to 100)."""
    lit = light(rng)
    if thing.category in FLAT_LAY and chance(rng, 0.6):
        canvas = Canvas(_flat(rng, size_px))
        for _ in range(rng.integers(4)):
            _lay(rng, canvas, any_decor(seed, rng), lit, _corner(rng, size_px), pick(rng, 0.25, 0.4))
        middle = size_px * pick(rng, 0.42, 0.58), size_px * pick(rng, 0.44, 0.56)
        _lay(rng, canvas, thing, lit, middle, pick(rng, 0.55, 0.78), product=thing.index)
    else:
        rgb, horizon = _room(rng, size_px)
        canvas = Canvas(rgb)
        others = [any_decor(seed, rng) for _ in range(rng.integers(4))]
        _furnish(rng, canvas, horizon, lit, others, thing)
    return _publish(rng, canvas)


def scene(rng: np.random.Generator, things: Sequence[Product], size_px: int) -> tuple[Canvas, int]:
    """Return a styled picture of all `things` side by side, and its JPEG quality (1 to 100)."""
    lit = light(rng)
    rgb, horizon = _room(rng, size_px)
    canvas = Canvas(rgb)
    slot = 1 / len(things)
    places = rng.permutation(len(things)).tolist()
    for place, thing in zip(places, sorted(things, key=lambda thing: thing.category not in HANGING), strict=True):
        share = min(slot * pick(rng, 1.0, 1.3), 0.55) * (0.8 if thing.category in SMALL else 1.0)
        x = slot * (place + 0.5) + pick(rng, -0.1, 0.1) * slot
        x = min(max(x, 0.5 * share), 1 - 0.5 * share)
        _set_up(rng, canvas, thing, share, x, horizon, lit, product=thing.index)
    return _publish(rng, canvas)


def _furnish(
    rng: np.random.Generator, canvas: Canvas, horizon: float, lit: Light, others: list[Product], thing: Product
) -> None:
    side = 1 if chance(rng, 0.5) else -1
    for number, other in enumerate(others):
        x = 0.5 + side * (-1) ** number * pick(rng, 0.24, 0.44)
        _set_up(rng, canvas, other, pick(rng, 0.25, 0.5), x, horizon, lit)
    share = pick(rng, 0.42, 0.7) * (0.8 if thing.category in SMALL else 1.0)
    _set_up(rng, canvas, thing, share, pick(rng, 0.4, 0.6), horizon, lit, product=thing.index)


def _set_up(
    rng: np.random.Generator,
    canvas: Canvas,
    thing: Product,
    share: float,
    x: float,
    horizon: float,
    lit: Light,
    product: int | None = None,
) -> None:
    size = canvas.size_px
    turn = Turn(0.0, pick(rng, -0.35, 0.35), 0.0)
    flip = chance(rng, 0.3)
    if thing.category in HANGING:
        centre = x * size, size * max(horizon * pick(rng, 0.45, 0.6), share * 0.5 + 0.04)
        hang(canvas, thing, size * share, centre, lit, turn, flip, product)
    else:
        foot = x * size, size * (horizon + (1 - horizon) * pick(rng, 0.3, 0.75))
        stand(canvas, thing, min(size * share, foot[1] * 0.94), foot, lit, turn, flip, product)


def _lay(
    rng: np.random.Generator,
    canvas: Canvas,
    thing: Product,
    lit: Light,
    centre: tuple[float, float],
    share: float,
    product: int | None = None,
) -> None:
    turn = Turn(pick(rng, -0.35, 0.35), pick(rng, -0.2, 0.2), 0.0)
    hang(canvas, thing, canvas.size_px * share, centre, lit, turn, chance(rng, 0.3), product)


def _corner(rng: np.random.Generator, size_px: int) -> tuple[float, float]:
    x, y = pick(rng, 0.02, 0.2), pick(rng, 0.02, 0.25)
    return size_px * (x if chance(rng, 0.5) else 1 - x), size_px * (y if chance(rng, 0.5) else 1 - y)


def _wall_colour(rng: np.random.Generator) -> Colour:
    return oklch(pick(rng, 0.55, 0.95), pick(rng, 0.0, 0.09), pick(rng, 0, 6.28))


def _ground_colour(rng: np.random.Generator, material: Material) -> Colour:
    if material is Material.WOOD:
        return oklch(pick(rng, 0.4, 0.8), pick(rng, 0.03, 0.09), pick(rng, 0.8, 1.4))
    return oklch(pick(rng, 0.5, 0.92), pick(rng, 0.0, 0.06), pick(rng, 0, 6.28))


def _room(rng: np.random.Generator, size_px: int) -> tuple[Floats, float]:
    """Return a wall over a floor, and where they meet, as a share of the height."""
    horizon = pick(rng, 0.55, 0.76)
    line = round(size_px * horizon)
    wall = surface(rng, WALLS[rng.integers(len(WALLS))], line, size_px, _wall_colour(rng))
    material = FLOORS[rng.integers(len(FLOORS))]
    ground = floor(rng, material, size_px - line, size_px, _ground_colour(rng, material))
    wall *= np.linspace(pick(rng, 0.85, 1.1), pick(rng, 0.85, 1.1), size_px, dtype=np.float32)[None, :, None]
    if chance(rng, 0.35):
        _frame(rng, wall)
    if chance(rng, 0.5):
        wall[-max(size_px // 40, 2) :] = pick(rng, 0.75, 0.97)
    ground[: max(size_px // 50, 1)] *= np.float32(0.85)
    rgb = np.concatenate([wall, ground])
    if chance(rng, 0.3):
        _sunlight(rng, rgb)
    return rgb, horizon


def _flat(rng: np.random.Generator, size_px: int) -> Floats:
    material = FLATS[rng.integers(len(FLATS))]
    return surface(rng, material, size_px, size_px, _ground_colour(rng, material))


def _frame(rng: np.random.Generator, wall: Floats) -> None:
    """Hang a picture on the wall."""
    height, width = wall.shape[:2]
    frame_width, frame_height = int(width * pick(rng, 0.14, 0.26)), int(height * pick(rng, 0.3, 0.5))
    left, top = int((width - frame_width) * rng.random()), int((height - frame_height) * 0.35 * rng.random()) + 4
    edge = max(width // 60, 2)
    wall[top : top + frame_height, left : left + frame_width] = oklch(pick(rng, 0.2, 0.8), 0.04, 1.2)
    inner = surface(rng, Material.PAPER, frame_height - 2 * edge, frame_width - 2 * edge, _wall_colour(rng))
    wall[top + edge : top + frame_height - edge, left + edge : left + frame_width - edge] = inner


def _sunlight(rng: np.random.Generator, rgb: Floats) -> None:
    """Let a window throw its light across the room."""
    size = rgb.shape[0]
    glow = np.zeros((64, 64), np.float32)
    x, lean, gap = pick(rng, 5, 35), pick(rng, -18, 18), pick(rng, 11, 15)
    for pane in (0.0, gap):
        corners = [[x + pane, 4], [x + pane + gap - 3, 4], [x + pane + gap - 3 + lean, 60], [x + pane + lean, 60]]
        cv2.fillPoly(glow, [np.array(corners).round().astype(np.int32)], 1.0)
    wide = cast(Floats, cv2.resize(cv2.GaussianBlur(glow, (0, 0), 1.3), (size, size)))
    rgb *= 1 + tinted(wide, (0.26, 0.22, 0.14))


def _publish(rng: np.random.Generator, canvas: Canvas) -> tuple[Canvas, int]:
    _grade(rng, canvas)
    if chance(rng, 0.3):
        _write(rng, canvas)
    return canvas, int(rng.integers(70, 92))


def _grade(rng: np.random.Generator, canvas: Canvas) -> None:
    """Give the picture the colours of a filter: contrast, fade, warmth, dark corners."""
    size = canvas.size_px
    fade, warmth = pick(rng, 0, 0.07), pick(rng, -0.05, 0.07)
    gain = np.array([1 + warmth, 1, 1 - warmth]) * (pick(rng, 0.88, 1.15) * (1 - fade))
    canvas.rgb = recolour(canvas.rgb, pick(rng, 0.75, 1.12), gain, 0.5 + fade / 2 - 0.5 * gain)
    if chance(rng, 0.4):
        away = np.linspace(-1, 1, size, dtype=np.float32) ** 2
        canvas.rgb *= thrice(1 - np.float32(pick(rng, 0.06, 0.16)) * (away[None] + away[:, None]))
    canvas.rgb += thrice(0.008 * mottle(rng, size, size, size // 2, size // 2))


def _write(rng: np.random.Generator, canvas: Canvas) -> None:
    """Lay a line of words over the top or the bottom, unless it would hide a product."""
    size = canvas.size_px
    words = WORDS[rng.integers(len(WORDS))]
    height = round(size * pick(rng, 0.1, 0.14))
    label = _label(words, height, dark=chance(rng, 0.5))
    width = min(round(height * label.shape[1] / label.shape[0]), round(size * 0.9))
    left = (size - width) * rng.random()
    top = size * pick(rng, 0.02, 0.06) if chance(rng, 0.5) else size * pick(rng, 0.82, 0.86)
    quad = np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]], np.float32)
    canvas.paste(label, quad, keep_visible=KEEP_VISIBLE)


def _label(words: str, height: int, dark: bool) -> Pixels:
    """Return a band with words on it, uint8 [H, W, 4], premultiplied and a little translucent."""
    (text_width, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_DUPLEX, 1.0, 1)
    label = np.full((44, text_width + 24, 4), (25, 25, 28, 200) if dark else (215, 213, 210, 215), np.uint8)
    ink = (255, 255, 255, 255) if dark else (40, 38, 42, 255)
    cv2.putText(label, words, (12, 32), cv2.FONT_HERSHEY_DUPLEX, 1.0, ink, 1, cv2.LINE_AA)
    return cv2.resize(label, (max(label.shape[1] * height // 44, 1), height), interpolation=cv2.INTER_AREA).astype(
        np.uint8
    )
