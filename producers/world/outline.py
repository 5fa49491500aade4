"""The pen that figures are drawn with: closed outlines made of points. x runs right, y up, the ground is y = 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from producers.world.catalog import Emblem

Outline = npt.NDArray[np.float64]
"""float64 [N, 2], a closed polygon."""
Path = list[tuple[float, float]]


class Paint(Enum):
    BODY = auto()
    """The product's texture, in all its colours."""
    SECOND = auto()
    TRIM = auto()
    HARDWARE = auto()
    HOLLOW = auto()
    """The body's colour in shade: what is seen through an opening."""
    LEAF = auto()
    LIGHT = auto()
    DARK = auto()


class Relief(Enum):
    FLAT = auto()
    ROUND = auto()
    """Turned on a lathe about a vertical axis; the texture wraps around it."""
    PUFFY = auto()
    """Rounded towards its edge, like a cushion."""


@dataclass(frozen=True, slots=True)
class Part:
    outlines: tuple[Outline, ...]
    """Filled by the even-odd rule, so that a second outline inside the first is a hole."""
    paint: Paint
    relief: Relief = Relief.FLAT


@dataclass(frozen=True, slots=True)
class Figure:
    parts: list[Part]
    """From back to front."""
    emblem: tuple[float, float, float]
    """Where an emblem goes: centre x, centre y, height."""


def lerp(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def smooth(points: Path | Outline, rounds: int = 2, closed: bool = True) -> Outline:
    """Cut corners (Chaikin) until the line looks like a curve; an open path keeps its ends."""
    line = np.asarray(points, dtype=np.float64)
    for _ in range(rounds):
        start = line if closed else line[:-1]
        end = np.roll(line, -1, axis=0) if closed else line[1:]
        cut = np.empty((2 * len(start), 2))
        cut[0::2] = 0.75 * start + 0.25 * end
        cut[1::2] = 0.25 * start + 0.75 * end
        line = cut if closed else np.concatenate([line[:1], cut[1:-1], line[-1:]])
    return line


def polygon(*points: tuple[float, float]) -> Outline:
    return np.asarray(points, dtype=np.float64)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Outline:
    turn = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    return np.stack([x + radius_x * np.cos(turn), y + radius_y * np.sin(turn)], axis=1)


def regular(corners: int, x: float, y: float, radius: float) -> Outline:
    turn = np.arange(corners) * (2 * math.pi / corners) + math.pi / 2 + math.pi / corners
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)


def box(left: float, bottom: float, right: float, top: float, corner: float = 0.0) -> Outline:
    """A rectangle with corners rounded by the given radius."""
    if corner <= 0:
        return polygon((left, bottom), (right, bottom), (right, top), (left, top))
    corner = min(corner, (right - left) / 2, (top - bottom) / 2)
    arc = np.linspace(0, math.pi / 2, 6)
    cos, sin = corner * np.cos(arc), corner * np.sin(arc)
    x = np.concatenate([right - corner + cos, left + corner - sin, left + corner - cos, right - corner + sin])
    y = np.concatenate([top - corner + sin, top - corner + cos, bottom + corner - sin, bottom + corner - cos])
    return np.stack([x, y], axis=1)


def ribbon(points: Path, width: float, end_width: float | None = None, rounds: int = 3) -> Outline:
    """A smoothed line with a thickness, which may taper to `end_width`."""
    line = smooth(points, rounds, closed=False)
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    half = np.linspace(width, width if end_width is None else end_width, len(line))[:, None] / 2
    side = np.stack([-along[:, 1], along[:, 0]], axis=1) * half
    return np.concatenate([line + side, (line - side)[::-1]])


def lathe(profile: Path, rounds: int = 2) -> Outline:
    """Turn a right-hand profile of (radius, height), from the bottom up, into a symmetric outline."""
    right = smooth(profile, rounds, closed=False)
    return np.concatenate([right, right[::-1] * (-1.0, 1.0)])


def mirrored(outline: Outline) -> Outline:
    return outline * (-1.0, 1.0)


def emblem_outlines(emblem: Emblem, x: float, y: float, height: float) -> tuple[Outline, ...]:
    """The outlines of an emblem centred at (x, y); none for `Emblem.NONE`."""
    return tuple(outline * (height / 2) + (x, y) for outline in _EMBLEMS[emblem])


def _star() -> Outline:
    turn = np.arange(10) * (math.pi / 5) + math.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _heart() -> Outline:
    turn = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    x = 16 * np.sin(turn) ** 3
    y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([x, y], axis=1) / 16


def _moon() -> Outline:
    outer, inner = np.linspace(0.9, 2 * math.pi - 0.9, 30), np.linspace(2 * math.pi - 1.3, 1.3, 30)
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            np.stack([0.36 + 0.81 * np.cos(inner), 0.81 * np.sin(inner)], axis=1),
        ]
    )


_EMBLEMS: dict[Emblem, tuple[Outline, ...]] = {
    Emblem.NONE: (),
    Emblem.STAR: (_star(),),
    Emblem.HEART: (_heart(),),
    Emblem.RING: (ellipse(0, 0, 1, 1), ellipse(0, 0, 0.55, 0.55)),
    Emblem.BOLT: (polygon((0.3, 1), (-0.6, -0.1), (-0.05, -0.1), (-0.3, -1), (0.6, 0.2), (0.05, 0.2)),),
    Emblem.MOON: (_moon(),),
    Emblem.LETTER: (
        polygon(
            (-0.7, -1), (-0.25, -1), (-0.25, 0.1), (0.25, -1), (0.7, -1), (0.7, 1), (0.25, 1), (0.25, -0.1),
            (-0.25, 1), (-0.7, 1),
        ),
    ),
}  # fmt: skip
