"""How a product is put into a picture: standing on the ground, hanging on a wall or lying seen from above, each with
the shadow that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from producers.world.canvas import Canvas, Point, facing, lying, moved
from producers.world.catalog import Category, Product, decor
from producers.world.sprite import Pose, paint
from producers.world.streams import chance, pick

HANGING = frozenset({Category.CLOCK, Category.SHIRT, Category.DRESS, Category.HAT})
SMALL = frozenset({Category.BOTTLE, Category.MUG, Category.TEAPOT, Category.SHOE, Category.HAT, Category.CUSHION})
FLAT_LAY = frozenset({Category.SHIRT, Category.DRESS, Category.HAT, Category.BAG, Category.SHOE, Category.CUSHION})
"""What is also shown lying on a table or a bed."""
DECOR = 400
"""How many different things stand around in a world without being in its catalogue."""

Light = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Turn:
    """How far a thing is turned, in radians: in the picture, about its axis, towards the viewer."""

    roll_rad: float = 0.0
    yaw_rad: float = 0.0
    pitch_rad: float = 0.0


def any_decor(seed: int, rng: np.random.Generator) -> Product:
    """Return a thing that may stand around."""
    return decor(seed, int(rng.integers(DECOR)))


def light(rng: np.random.Generator) -> Light:
    """Return where the light of a picture comes from, to the right and up."""
    return pick(rng, 0.25, 0.7) * (1 if chance(rng, 0.5) else -1), pick(rng, 0.25, 0.6)


def stand(
    canvas: Canvas,
    thing: Product,
    size_px: float,
    foot: Point,
    lit: Light,
    turn: Turn,
    flip: bool = False,
    product: int | None = None,
) -> None:
    """Put `thing` on the ground with the middle of its foot at `foot`; with a `product`, remember it as that one."""
    sprite = paint(thing, round(size_px), Pose(turn.yaw_rad, lit, flip))
    quad = facing(sprite, (foot[0], foot[1] - sprite.shape[0] / 2), turn.roll_rad, turn.yaw_rad, turn.pitch_rad)
    canvas.darken(sprite, lying(quad, -0.9 * lit[0], 0.28), strength=0.3, softness=0.02)
    canvas.darken(sprite, lying(moved(quad, 0, 0.02 * size_px), -0.1 * lit[0], 0.1), strength=0.4, softness=0.012)
    canvas.paste(sprite, quad, product)


def hang(
    canvas: Canvas,
    thing: Product,
    size_px: float,
    centre: Point,
    lit: Light,
    turn: Turn,
    flip: bool = False,
    product: int | None = None,
) -> None:
    """Put `thing` flat on a wall or a table with its middle at `centre`; with a `product`, remember it as that one."""
    sprite = paint(thing, round(size_px), Pose(turn.yaw_rad, lit, flip))
    quad = facing(sprite, centre, turn.roll_rad, turn.yaw_rad, turn.pitch_rad)
    reach = 0.06 * size_px
    canvas.darken(sprite, moved(quad, -lit[0] * reach, lit[1] * reach), strength=0.35, softness=0.014)
    canvas.paste(sprite, quad, product)
