"""How a texture covers a surface: for every pixel, how much of the second and of the third colour it shows.

Each pattern is a signed distance, negative inside, in units of its repeat; an edge is softened over one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from producers.world.catalog import Pattern, Texture
from producers.world.pixels import Floats

Weights = tuple[Floats, Floats]
"""Share of the second colour over the body, and of the third over both; float32 [H, W] in [0, 1]."""

_TAU = 2 * math.pi


def weights(texture: Texture, u: Floats, v: Floats, pixel: float) -> Weights:
    """Return the weights at surface coordinates (u, v), in units of the object's longer side; so is `pixel`."""
    cos, sin = math.cos(texture.angle_rad) / texture.period, math.sin(texture.angle_rad) / texture.period
    a = u * cos + (v * sin + texture.phase)
    b = v * cos - (u * sin - texture.phase)
    return _PATTERNS[texture.pattern](texture, a, b, pixel / texture.period)


def _inside(distance: Floats, pixel: float) -> Floats:
    depth: Floats = 0.5 - distance / max(pixel, 1e-3)
    return np.clip(depth, 0, 1)


def _saw(x: Floats) -> Floats:
    """The place in the repeat, from -0.5 to 0.5."""
    place: Floats = x - np.floor(x + np.float32(0.5))
    return place


def _none(like: Floats) -> Floats:
    return np.zeros_like(like)


def _plain(_: Texture, a: Floats, b: Floats, __: float) -> Weights:
    return _none(a), _none(b)


def _bands(texture: Texture, at: Floats, pixel: float) -> Weights:
    second = _inside(np.abs(_saw(at)) - texture.duty / 2, pixel)
    if texture.detail % 2 == 0:
        return second, _none(at)
    return second, _inside(np.abs(_saw(at + 0.5)) - 0.07, pixel)


def _stripes(texture: Texture, a: Floats, _: Floats, pixel: float) -> Weights:
    return _bands(texture, a, pixel)


def _zigzag(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    return _bands(texture, b + np.abs(_saw(a)) * (0.8 + 0.1 * texture.detail), pixel)


def _waves(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    return _bands(texture, b + np.sin(a * (_TAU * 0.7)) * np.float32(0.2 + 0.03 * texture.detail), pixel)


def _dots(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    radius = cv2.magnitude(_saw(a + np.floor(b + np.float32(0.5)) * 0.5), _saw(b))
    second = _inside(radius - (0.16 + 0.28 * texture.duty), pixel)
    return second, _inside(radius - 0.13, pixel) if texture.detail % 3 == 0 else _none(a)


def _checks(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    left, right = _inside(np.abs(_saw(a)) - 0.25, pixel), _inside(np.abs(_saw(b)) - 0.25, pixel)
    if texture.detail % 2 == 0:
        return (left + right) * 0.5, _none(a)
    return left + right - 2 * left * right, _none(a)


def _plaid(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    half = texture.duty * 0.4
    second = (_inside(np.abs(_saw(a)) - half, pixel) + _inside(np.abs(_saw(b)) - half, pixel)) * 0.5
    lines = np.maximum(_inside(np.abs(_saw(a + 0.4)) - 0.045, pixel), _inside(np.abs(_saw(b + 0.4)) - 0.045, pixel))
    return second, lines


def _scales(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    row = np.floor(b)
    radius = cv2.magnitude(_saw(a + row * 0.5), b - row - np.float32(0.1))
    second = _inside(np.abs(radius - 0.5) - 0.06 - 0.1 * texture.duty, pixel)
    return second, _inside(radius - 0.2, pixel) if texture.detail % 2 else _none(a)


def _diamonds(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    x, y = np.abs(_saw(a)), np.abs(_saw(b * np.float32(0.65)))
    second = _inside(x + y - (0.26 + 0.22 * texture.duty), pixel)
    return second, _inside(np.abs(x + y - 0.5) - 0.035, pixel) if texture.detail % 2 else _none(a)


def _crosses(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    x, y = np.abs(_saw(a + np.floor(b + np.float32(0.5)) * 0.5)), np.abs(_saw(b))
    arm, half = 0.24 + 0.16 * texture.duty, 0.06 + 0.08 * texture.duty
    second = np.maximum(_inside(np.maximum(x - arm, y - half), pixel), _inside(np.maximum(y - arm, x - half), pixel))
    return second, _none(a)


def _floral(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    row = np.floor(b + np.float32(0.5))
    column = np.floor(a + row * 0.5 + np.float32(0.5))
    shift = column * np.float32(12.9) + row * np.float32(7.3)
    x, y = _saw(a + row * 0.5) - 0.12 * np.sin(shift), _saw(b) - 0.12 * np.cos(shift)
    radius, angle = cv2.cartToPolar(x, y)
    petals = np.cos(angle * (4 + texture.detail % 3) + shift)
    second = _inside(radius - (0.22 + 0.1 * texture.duty) * (1 + 0.38 * petals), pixel)
    return second, _inside(radius - 0.1, pixel)


def _blotches(texture: Texture, a: Floats, b: Floats, pixel: float) -> Weights:
    rng = np.random.default_rng(int(texture.phase * 2**32))
    tile = cv2.resize(rng.random((12, 12), np.float32), (96, 96), interpolation=cv2.INTER_CUBIC)
    noise = cv2.remap(tile, np.mod(a * 12, 95), np.mod(b * 12, 95), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    second = _inside((0.62 - 0.25 * texture.duty - noise) * 0.6, pixel)
    return second, _inside((0.8 - noise) * 0.6, pixel)


def _gradient(texture: Texture, a: Floats, _: Floats, __: float) -> Weights:
    turn = a * np.float32(_TAU * 0.3)
    second = 0.5 - 0.5 * np.cos(turn)
    return second, np.clip(np.sin(turn) - 0.1, 0, 1) if texture.detail % 2 else _none(a)


def _blocks(texture: Texture, a: Floats, _: Floats, pixel: float) -> Weights:
    return _bands(texture, a * np.float32(0.3), pixel * 0.3)


_PATTERNS: dict[Pattern, Callable[[Texture, Floats, Floats, float], Weights]] = {
    Pattern.PLAIN: _plain,
    Pattern.STRIPES: _stripes,
    Pattern.DOTS: _dots,
    Pattern.CHECKS: _checks,
    Pattern.PLAID: _plaid,
    Pattern.ZIGZAG: _zigzag,
    Pattern.WAVES: _waves,
    Pattern.SCALES: _scales,
    Pattern.DIAMONDS: _diamonds,
    Pattern.CROSSES: _crosses,
    Pattern.FLORAL: _floral,
    Pattern.BLOTCHES: _blotches,
    Pattern.GRADIENT: _gradient,
    Pattern.BLOCKS: _blocks,
}
