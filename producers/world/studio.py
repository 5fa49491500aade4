"""The product domain: one product on white, as a shop photographs it."""

from __future__ import annotations

import numpy as np

from producers.world.canvas import Canvas, facing, moved
from producers.world.catalog import Product
from producers.world.sprite import Pose, paint
from producers.world.streams import pick


def shoot(rng: np.random.Generator, thing: Product, size_px: int) -> tuple[Canvas, int]:
    """Return the picture and the JPEG quality (1 to 100) that it is sold in."""
    canvas = Canvas(np.ones((size_px, size_px, 3), np.float32))
    yaw_rad = pick(rng, -0.12, 0.12)
    pose = Pose(yaw_rad, (pick(rng, -0.5, -0.25), pick(rng, 0.3, 0.5)))
    sprite = paint(thing, round(size_px * pick(rng, 0.7, 0.86)), pose)
    centre = size_px * pick(rng, 0.48, 0.52), size_px * pick(rng, 0.48, 0.52)
    quad = facing(sprite, centre, pick(rng, -0.04, 0.04), yaw_rad, pick(rng, -0.05, 0.05))
    shadow = quad.copy()
    shadow[:2] = quad[2:][::-1] - np.array([0, 0.05 * size_px], np.float32)
    canvas.darken(sprite, moved(shadow, 0, 0.012 * size_px), strength=pick(rng, 0.1, 0.3), softness=0.016)
    canvas.paste(sprite, quad, thing.index)
    return canvas, int(rng.integers(86, 96))
