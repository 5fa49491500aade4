"""What a product is: its category, shape, texture and colours, derived from (seed, index) alone.

Products come in lines of four look-alikes, as shops sell them: the first, the same in another shape, in another
texture, and with its colours changing places. All four share a category and the same colours, and a dozen palettes
serve the whole world, so neither a colour histogram nor the category finds a product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import lru_cache

import numpy as np

from producers.world.colours import Colour, Palette, jittered, palette_lch
from producers.world.streams import Stream, chance, pick, stream

LINE_SIZE = 4
PALETTES = 12
SHAPE_PARAMETERS = 6
MIN_RESHAPE = 1.1
"""Euclidean distance between the shape parameters (each in [0, 1]) of a product and of its reshaped sibling."""


class Category(StrEnum):
    BOTTLE = "bottle"
    MUG = "mug"
    VASE = "vase"
    POT = "pot"
    TEAPOT = "teapot"
    LAMP = "lamp"
    CLOCK = "clock"
    CHAIR = "chair"
    ARMCHAIR = "armchair"
    TABLE = "table"
    CUSHION = "cushion"
    BAG = "bag"
    SHOE = "shoe"
    SHIRT = "shirt"
    DRESS = "dress"
    HAT = "hat"


class Pattern(StrEnum):
    PLAIN = "plain"
    STRIPES = "stripes"
    DOTS = "dots"
    CHECKS = "checks"
    PLAID = "plaid"
    ZIGZAG = "zigzag"
    WAVES = "waves"
    SCALES = "scales"
    DIAMONDS = "diamonds"
    CROSSES = "crosses"
    FLORAL = "floral"
    BLOTCHES = "blotches"
    GRADIENT = "gradient"
    BLOCKS = "blocks"


class Emblem(Enum):
    NONE = 0
    STAR = 1
    HEART = 2
    RING = 3
    BOLT = 4
    MOON = 5
    LETTER = 6


@dataclass(frozen=True, slots=True)
class Texture:
    pattern: Pattern
    period: float
    """Length of a repeat, as a share of the object's longer side."""
    angle_rad: float
    duty: float
    """Share of the second colour, in [0, 1]."""
    phase: float
    detail: int
    """A small whole number that picks a variant: petals of a flower, a fine line beside a stripe."""


@dataclass(frozen=True, slots=True)
class Product:
    index: int
    line: int
    category: Category
    shape: tuple[float, ...]
    """Six numbers in [0, 1]; what each means depends on the category."""
    texture: Texture
    palette: Palette
    hardware: Colour
    """Legs, buckles and hands."""
    gloss: float
    emblem: Emblem


HARDWARE: tuple[Colour, ...] = (
    (0.72, 0.53, 0.33),  # oak
    (0.36, 0.23, 0.16),  # walnut
    (0.80, 0.66, 0.36),  # brass
    (0.66, 0.68, 0.70),  # steel
    (0.16, 0.16, 0.18),  # black
)


def product(seed: int, index: int) -> Product:
    """Return product `index` of the catalogue of `seed`. Products do not depend on how many there are."""
    return _product(seed, index, Stream.LINE, Stream.PRODUCT)


def decor(seed: int, index: int) -> Product:
    """Return a thing that is like a product but is not in the catalogue, to stand around without being an answer."""
    return _product(seed, index, Stream.DECOR_LINE, Stream.DECOR_PRODUCT)


@lru_cache(maxsize=8192)
def _product(seed: int, index: int, line_stream: Stream, own_stream: Stream) -> Product:
    line, sibling = divmod(index, LINE_SIZE)
    shared = stream(seed, line_stream, line)
    own = stream(seed, own_stream, index)
    category = list(Category)[shared.integers(len(Category))]
    shape = shared.random(SHAPE_PARAMETERS)
    texture = _texture(shared, list(Pattern)[shared.integers(len(Pattern))])
    body, second, trim = _palette(seed, shared)
    hardware = HARDWARE[shared.integers(len(HARDWARE))]
    gloss = float(shared.choice([0.0, 0.25, 0.6]))
    if sibling == 1:
        shape = _reshaped(own, shape)
    elif sibling == 2:
        others = [pattern for pattern in Pattern if pattern is not texture.pattern]
        texture = _texture(own, others[own.integers(len(others))])
    elif sibling == 3:
        body, second, trim = (second, trim, body) if chance(own, 0.5) else (trim, body, second)
    emblem = Emblem(int(own.integers(1, len(Emblem)))) if chance(own, 0.35) else Emblem.NONE
    return Product(index, line, category, tuple(shape.tolist()), texture, (body, second, trim), hardware, gloss, emblem)


def _palette(seed: int, rng: np.random.Generator) -> Palette:
    number = int(rng.integers(PALETTES))
    lch = palette_lch(stream(seed, Stream.PALETTES, number), hue_rad=2 * math.pi * number / PALETTES)
    body, second, trim = (jittered(rng, colour) for colour in lch)
    return body, second, trim


def _reshaped(
    rng: np.random.Generator, shape: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    while True:
        other = rng.random(SHAPE_PARAMETERS)
        if np.linalg.norm(other - shape) >= MIN_RESHAPE:
            return other


def _texture(rng: np.random.Generator, pattern: Pattern) -> Texture:
    return Texture(
        pattern=pattern,
        period=pick(rng, 0.1, 0.22),
        angle_rad=float(rng.choice([0.0, 0.25, 0.5, 0.75])) * math.pi + pick(rng, -0.06, 0.06),
        duty=pick(rng, 0.3, 0.7),
        phase=float(rng.random()),
        detail=int(rng.integers(0, 8)),
    )
