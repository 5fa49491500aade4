"""Colours in OKLCH (lightness, chroma, hue), where equal steps look equal, and the palettes that products share.

Source: Björn Ottosson, "A perceptual color space for image processing" (2020), for the two matrices.
"""

from __future__ import annotations

import math

import numpy as np

from producers.world.streams import chance, pick

Colour = tuple[float, float, float]
"""sRGB, each in [0, 1]."""
Palette = tuple[Colour, Colour, Colour]
"""Body, second and trim."""

MIN_CONTRAST = 0.17
"""Smallest distance in OKLab between two colours of a palette: well apart even under a colour cast."""


def oklch(lightness: float, chroma: float, hue_rad: float) -> Colour:
    """Convert to sRGB, clipped to the gamut."""
    a, b = chroma * math.cos(hue_rad), chroma * math.sin(hue_rad)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _gamma(+4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short),
        _gamma(-1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short),
        _gamma(-0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short),
    )


def _gamma(linear: float) -> float:
    linear = min(max(linear, 0.0), 1.0)
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


Lch = tuple[float, float, float]


def palette_lch(rng: np.random.Generator, hue_rad: float) -> tuple[Lch, Lch, Lch]:
    """Return three colours as (lightness, chroma, hue) that a person can tell apart, in a scheme that goes together."""
    while True:
        turn = float(rng.choice([0.0, 0.5, 0.9, 2.1, math.pi]))
        body = _neutral(rng) if chance(rng, 0.3) else (pick(rng, 0.42, 0.88), pick(rng, 0.06, 0.16), hue_rad)
        second = _neutral(rng) if chance(rng, 0.3) else (pick(rng, 0.35, 0.92), pick(rng, 0.05, 0.16), hue_rad + turn)
        trim = _neutral(rng) if chance(rng, 0.3) else (pick(rng, 0.3, 0.85), pick(rng, 0.08, 0.18), hue_rad - turn)
        if min(_distance(body, second), _distance(body, trim), _distance(second, trim)) >= MIN_CONTRAST:
            return body, second, trim


def _neutral(rng: np.random.Generator) -> Lch:
    return float(rng.choice([0.25, 0.6, 0.85, 0.95])), pick(rng, 0.005, 0.03), pick(rng, 0.8, 1.8)


def jittered(rng: np.random.Generator, lch: Lch) -> Colour:
    """Return a colour close to `lch`: the difference between two makers of the same fashionable colour."""
    lightness, chroma, hue = lch
    return oklch(lightness + pick(rng, -0.025, 0.025), chroma * pick(rng, 0.85, 1.15), hue + pick(rng, -0.12, 0.12))


def _distance(left: Lch, right: Lch) -> float:
    (l1, c1, h1), (l2, c2, h2) = left, right
    return math.hypot(l1 - l2, c1 * math.cos(h1) - c2 * math.cos(h2), c1 * math.sin(h1) - c2 * math.sin(h2))
