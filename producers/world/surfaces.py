"""What is behind and below the products: walls, floors, tables, lawns."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum, auto
from typing import cast

import cv2
import numpy as np

from producers.world.catalog import Pattern, Texture
from producers.world.colours import Colour, oklch
from producers.world.pixels import Floats, tinted
from producers.world.streams import pick
from producers.world.textures import weights


class Material(Enum):
    PAINT = auto()
    PAPER = auto()
    PANEL = auto()
    BRICK = auto()
    WOOD = auto()
    STONE = auto()
    TILES = auto()
    FABRIC = auto()
    CARPET = auto()
    GRASS = auto()


WALLS = (Material.PAINT, Material.PAINT, Material.PAPER, Material.PANEL, Material.BRICK, Material.STONE)
FLOORS = (Material.WOOD, Material.WOOD, Material.STONE, Material.TILES, Material.CARPET, Material.FABRIC)
FLATS = (Material.FABRIC, Material.STONE, Material.WOOD, Material.PAINT, Material.CARPET)
OUTDOORS = (
    Material.WOOD,
    Material.WOOD,
    Material.CARPET,
    Material.TILES,
    Material.FABRIC,
    Material.STONE,
    Material.GRASS,
    Material.PAPER,
)


def surface(rng: np.random.Generator, material: Material, height: int, width: int, colour: Colour) -> Floats:
    """Return float32 [height, width, 3] of the material, mostly in the given colour, seen straight on."""
    if material is Material.PAPER:
        return _paper(rng, height, width, colour)
    if material is Material.GRASS:
        colour = oklch(pick(rng, 0.45, 0.65), 0.11, pick(rng, 1.9, 2.4))
    tone = _TONES[material](rng, height, width)
    return tinted(tone, colour)


def floor(rng: np.random.Generator, material: Material, height: int, width: int, colour: Colour) -> Floats:
    """Return float32 [height, width, 3] of the material lying flat, its far edge at the top."""
    flat = surface(rng, material, 2 * height, 2 * width, colour)
    source = np.array([[0, 0], [2 * width, 0], [2 * width, 2 * height], [0, 2 * height]], np.float32)
    spread = pick(rng, 0.4, 0.9) * width
    skew = pick(rng, -0.3, 0.3) * width
    target = np.array(
        [[-0.05 * width, 0], [1.05 * width, 0], [width + spread + skew, height], [-spread + skew, height]], np.float32
    )
    matrix = cv2.getPerspectiveTransform(source, target)
    return cast(Floats, cv2.warpPerspective(flat, matrix, (width, height), borderMode=cv2.BORDER_REFLECT))


def mottle(rng: np.random.Generator, height: int, width: int, down: int, across: int) -> Floats:
    """Return smooth noise in about [-1, 1], float32 [height, width], with so many bumps down and across."""
    coarse = rng.random((max(down, 2), max(across, 2)), np.float32) * 2 - 1
    return cast(Floats, cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def grain(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return independent noise, triangular, of standard deviation 1, float32 [height, width]."""
    coarse = rng.integers(0, 256, (2, height, width), np.uint8)
    noise: Floats = (coarse[0].astype(np.float32) - coarse[1]) * np.float32(1 / 104.5)
    return noise


def _paint(rng: np.random.Generator, height: int, width: int) -> Floats:
    return 1 + 0.05 * mottle(rng, height, width, 3, 3)


def _panel(rng: np.random.Generator, height: int, width: int) -> Floats:
    boards = int(rng.integers(4, 9))
    place = np.arange(width) * (boards / width) % 1
    groove = np.where(place < 0.035, 0.78, np.where(place < 0.07, 1.06, 1.0)).astype(np.float32)
    return np.repeat(groove[None], height, axis=0) + 0.03 * mottle(rng, height, width, 3, 3)


def _blocks(
    rng: np.random.Generator, height: int, width: int, rows: int, columns: int, shift: float, joint: float
) -> Floats:
    y, x = np.arange(height) * (rows / height), np.arange(width) * (columns / width)
    row = y.astype(int)
    place = x[None] + (row % 2)[:, None] * shift
    tone = 1 + 0.1 * (rng.random((rows + 1, columns + 2), np.float32) - 0.5)[row[:, None], place.astype(int)]
    edge = (y % 1 < joint * rows / columns)[:, None] | (place % 1 < joint)
    tone[edge] = 0.82
    return cast(Floats, tone.astype(np.float32)) + 0.03 * mottle(rng, height, width, 40, 40)


def _brick(rng: np.random.Generator, height: int, width: int) -> Floats:
    columns = int(rng.integers(4, 7))
    return _blocks(rng, height, width, max(int(columns * 2.5 * height / width), 1), columns, 0.5, 0.06)


def _tiles(rng: np.random.Generator, height: int, width: int) -> Floats:
    columns = int(rng.integers(4, 9))
    return _blocks(rng, height, width, max(int(columns * height / width), 1), columns, 0.0, 0.04)


def _wood(rng: np.random.Generator, height: int, width: int) -> Floats:
    planks = int(rng.integers(3, 9))
    place = np.arange(width) * (planks / width)
    tone = 1 + 0.16 * (rng.random(planks + 1, np.float32) - 0.5)[place.astype(int)]
    tone[place % 1 < 0.025] = 0.72
    fibres: Floats = mottle(rng, height, width, 5, 110) * 0.07 + mottle(rng, height, width, 9, 30) * 0.05
    fibres += tone.astype(np.float32)
    return fibres


def _stone(rng: np.random.Generator, height: int, width: int) -> Floats:
    cloud = mottle(rng, height, width, 4, 5) + 0.5 * mottle(rng, height, width, 14, 14)
    veins = np.clip(1 - np.abs(cloud) * 14, 0, 1)
    tone: Floats = 1 + 0.05 * cloud - 0.12 * veins
    return tone


def _fabric(rng: np.random.Generator, height: int, width: int) -> Floats:
    weave = np.sin(np.arange(height) * 1.6)[:, None] * np.sin(np.arange(width) * 1.6)[None]
    folds = mottle(rng, height, width, 2, 7) * 0.1 + mottle(rng, height, width, 6, 3) * 0.06
    return cast(Floats, 1 + folds + 0.03 * weave.astype(np.float32))


def _carpet(rng: np.random.Generator, height: int, width: int) -> Floats:
    return 1 + 0.07 * grain(rng, height, width) + 0.08 * mottle(rng, height, width, 8, 8)


def _grass(rng: np.random.Generator, height: int, width: int) -> Floats:
    blades = mottle(rng, height, width, height // 10, width // 3)
    return 1 + 0.28 * blades + 0.12 * mottle(rng, height, width, 6, 6)


_TONES: dict[Material, Callable[[np.random.Generator, int, int], Floats]] = {
    Material.PAINT: _paint,
    Material.PANEL: _panel,
    Material.BRICK: _brick,
    Material.WOOD: _wood,
    Material.STONE: _stone,
    Material.TILES: _tiles,
    Material.FABRIC: _fabric,
    Material.CARPET: _carpet,
    Material.GRASS: _grass,
}


def _paper(rng: np.random.Generator, height: int, width: int, colour: Colour) -> Floats:
    """Wallpaper or a tablecloth: a faint pattern of the kinds that products have."""
    texture = Texture(
        pattern=list(Pattern)[rng.integers(1, 12)],
        period=pick(rng, 0.12, 0.3),
        angle_rad=float(rng.choice([0.0, 0.25, 0.5])) * math.pi,
        duty=pick(rng, 0.3, 0.6),
        phase=float(rng.random()),
        detail=int(rng.integers(0, 8)),
    )
    u, v = np.meshgrid(np.arange(width, dtype=np.float32) / width, np.arange(height, dtype=np.float32) / width)
    second, third = weights(texture, u, v, 1 / width)
    tone = 1 + (second + third) * np.float32(rng.choice([-0.14, -0.08, 0.07, 0.12]))
    return tinted(tone, colour)
