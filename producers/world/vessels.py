"""The outlines of things turned on a lathe: bottle, mug, vase, plant pot, teapot, lamp. All about one high or wide."""

from __future__ import annotations

import math
from collections.abc import Sequence

from producers.world.outline import (
    Figure,
    Outline,
    Paint,
    Part,
    Path,
    Relief,
    box,
    ellipse,
    lathe,
    lerp,
    mirrored,
    ribbon,
    smooth,
)


def bottle(shape: Sequence[float]) -> Figure:
    radius, shoulder = lerp(0.13, 0.25, shape[0]), lerp(0.42, 0.66, shape[1])
    neck = lerp(0.035, 0.075, shape[2])
    neck_y = min(0.84, shoulder + lerp(0.08, 0.25, shape[3]))
    waist = lerp(0, 0.35, shape[4]) * radius
    profile: Path = [
        (0, 0), (radius, 0), (radius, 0.05), (radius - waist, shoulder * 0.5), (radius, shoulder),
        (neck, neck_y), (neck, neck_y + 0.04), (neck, 1), (0, 1),
    ]  # fmt: skip
    parts = [Part((lathe(profile),), Paint.BODY, Relief.ROUND)]
    if shape[5] > 0.5:
        width = radius * 1.01
        label = lathe([(width, shoulder * 0.25), (width - waist * 0.75, shoulder * 0.5), (width, shoulder * 0.82)], 1)
        parts.append(Part((label,), Paint.SECOND, Relief.ROUND))
    cap = lerp(0.05, 0.14, shape[5] * 2 % 1)
    parts.append(Part((box(-neck * 1.25, 1 - cap, neck * 1.25, 1.02, 0.012),), Paint.TRIM, Relief.ROUND))
    return Figure(parts, (0, shoulder * 0.52, radius * 0.95))


def mug(shape: Sequence[float]) -> Figure:
    top, height = lerp(0.26, 0.4, shape[0]), lerp(0.55, 0.9, shape[1])
    base = top * lerp(0.6, 1.15, shape[2])
    belly = top * lerp(0.95, 1.3, shape[3])
    reach, low = lerp(0.12, 0.26, shape[4]), height * lerp(0.12, 0.4, shape[5])
    high = height * lerp(0.78, 0.9, shape[3])
    tilt = top * 0.2
    loop: Path = [
        (belly * 0.9, high), (top + reach, high + 0.02), (top + reach * 1.1, (high + low) / 2),
        (top + reach * 0.8, low), (belly * 0.85, low),
    ]  # fmt: skip
    walls = lathe([(0, 0), (base, 0), (base * 1.02, 0.03), (belly, height * 0.5), (top, height), (0, height)])
    return Figure(
        [
            Part((ribbon(loop, 0.075),), Paint.TRIM if shape[5] > 0.5 else Paint.BODY, Relief.PUFFY),
            Part((walls,), Paint.BODY, Relief.ROUND),
            *_opening(top, height, tilt),
        ],
        (0, height * 0.45, min(base, top) * 0.85),
    )


def _opening(radius: float, y: float, depth: float) -> list[Part]:
    return [
        Part((ellipse(0, y, radius, depth),), Paint.TRIM),
        Part((ellipse(0, y - 0.004, radius * 0.9, depth * 0.82),), Paint.HOLLOW),
    ]


def vase(shape: Sequence[float]) -> Figure:
    foot, belly = lerp(0.1, 0.22, shape[0]), lerp(0.18, 0.4, shape[1])
    belly_y, neck_y = lerp(0.25, 0.6, shape[2]), lerp(0.74, 0.88, shape[3])
    neck, lip = lerp(0.05, 0.16, shape[4]), lerp(0.08, 0.22, shape[5])
    walls = lathe([(0, 0), (foot, 0), (foot * 0.9, 0.06), (belly, belly_y), (neck, neck_y), (lip, 1), (0, 1)], rounds=3)
    parts = [Part((walls,), Paint.BODY, Relief.ROUND), *_opening(lip * 0.92, 0.985, lip * 0.16)]
    if shape[3] > 0.55:
        ear = ribbon([(neck, neck_y), (belly * 0.9 + 0.1, neck_y), (belly * 0.85, belly_y + 0.12)], 0.05)
        parts[:0] = [Part((side,), Paint.TRIM, Relief.PUFFY) for side in (ear, mirrored(ear))]
    return Figure(parts, (0, belly_y, belly * 0.8))


def pot(shape: Sequence[float]) -> Figure:
    top, height = lerp(0.2, 0.34, shape[0]), lerp(0.34, 0.5, shape[1])
    base = top * lerp(0.55, 1.0, shape[2])
    parts = [Part((leaf,), Paint.LEAF, Relief.PUFFY) for leaf in _leaves(height, top, shape)]
    walls = lathe([(0, 0.02), (base, 0.02), (lerp(base, top, 0.6), height * 0.5), (top, height), (0, height)], 1)
    parts.append(Part((walls,), Paint.BODY, Relief.ROUND))
    if shape[3] > 0.4:
        rim = box(-top * 1.08, height * 0.84, top * 1.08, height * 1.02, 0.02)
        parts.append(Part((rim,), Paint.TRIM, Relief.ROUND))
    if shape[2] > 0.5:
        parts.append(Part((box(-base * 1.15, 0, base * 1.15, 0.05, 0.02),), Paint.SECOND, Relief.ROUND))
    return Figure(parts, (0, height * 0.42, height * 0.45))


def _leaves(height: float, spread: float, shape: Sequence[float]) -> list[Outline]:
    count = 4 + int(shape[4] * 5)
    wide, length = lerp(0.04, 0.16, shape[5]), lerp(0.35, 0.62, shape[3])
    leaves = []
    for number in range(count):
        lean = (number + 0.5) / count * 2 - 1
        angle = lean * lerp(0.35, 1.25, shape[5])
        reach = length * (1 - 0.3 * abs(lean)) * (0.85 + 0.3 * (number * 0.618 % 1))
        tip = (lean * spread * 0.6 + math.sin(angle) * reach, height + math.cos(angle) * reach)
        root = (lean * spread * 0.6, height - 0.05)
        across = ((tip[1] - root[1]) * wide, (root[0] - tip[0]) * wide)
        middle = ((root[0] + tip[0]) / 2, (root[1] + tip[1]) / 2)
        sides = [(middle[0] + sign * 2 * across[0], middle[1] + sign * 2 * across[1]) for sign in (1, -1)]
        leaves.append(smooth([root, sides[0], tip, tip, sides[1]], 3))
    return leaves


def teapot(shape: Sequence[float]) -> Figure:
    radius, height = lerp(0.26, 0.36, shape[0]), lerp(0.32, 0.6, shape[1])
    belly_y, lip = height * lerp(0.3, 0.65, shape[2]), radius * lerp(0.4, 0.65, shape[3])
    walls = lathe([(0, 0), (radius * 0.6, 0), (radius * 1.15, belly_y), (lip, height), (0, height)], 3)
    spout_y = height * lerp(0.8, 1.1, shape[4])
    spout = ribbon(
        [(-radius * 0.7, height * 0.3), (-radius * 1.15, height * 0.4), (-radius * 1.6, spout_y)], 0.13, 0.06
    )
    if shape[5] > 0.5:
        rise = height + lerp(0.2, 0.34, shape[5] * 2 % 1)
        loop: Path = [
            (-radius * 0.75, height * 0.75),
            (-radius * 0.8, rise),
            (radius * 0.8, rise),
            (radius * 0.75, height * 0.75),
        ]
    else:
        out = radius + lerp(0.2, 0.32, shape[5] * 2)
        loop = [(radius * 0.6, height * 0.9), (out, height * 0.95), (out, height * 0.2), (radius * 0.8, height * 0.25)]
    return Figure(
        [
            Part((ribbon(loop, 0.05),), Paint.TRIM, Relief.PUFFY),
            Part((spout,), Paint.BODY, Relief.PUFFY),
            Part((walls,), Paint.BODY, Relief.ROUND),
            Part(
                (lathe([(lip * 1.1, height * 0.97), (lip * 0.9, height + 0.06), (0, height + 0.08)]),),
                Paint.SECOND,
                Relief.ROUND,
            ),
            Part((ellipse(0, height + 0.1, 0.035, 0.035),), Paint.TRIM, Relief.PUFFY),
        ],
        (0, height * 0.48, height * 0.5),
    )


def lamp(shape: Sequence[float]) -> Figure:
    low, rise = lerp(0.24, 0.38, shape[0]), lerp(0.28, 0.42, shape[1])
    high = low * lerp(0.35, 1.0, shape[2])
    bottom = 1 - rise
    bend = lerp(-0.3, 0.2, shape[3]) * (low - high)
    shade = lathe([(low, bottom), ((low + high) / 2 + bend, bottom + rise / 2), (high, 1)], 2)
    parts = [Part((box(-0.018, 0.03, 0.018, bottom + 0.05),), Paint.HARDWARE, Relief.ROUND)]
    if shape[4] > 0.45:
        belly, middle = lerp(0.08, 0.24, (shape[4] - 0.45) / 0.55), lerp(0.3, 0.62, shape[5]) * bottom
        profile: Path = [
            (0, 0.03),
            (0.1, 0.03),
            (0.06, 0.08),
            (belly, middle),
            (0.03, bottom - 0.06),
            (0, bottom - 0.05),
        ]
        parts.append(Part((lathe(profile, 3),), Paint.SECOND, Relief.ROUND))
    elif shape[5] > 0.5:
        parts += [
            Part((ribbon([(0, bottom * 0.6), (side * 0.1, bottom * 0.4), (side * 0.24, 0)], 0.03),), Paint.HARDWARE)
            for side in (-1, 1)
        ]
    parts.append(
        Part((box(-lerp(0.1, 0.2, shape[5]), 0, lerp(0.1, 0.2, shape[5]), 0.045, 0.02),), Paint.TRIM, Relief.ROUND)
    )
    parts.append(Part((shade,), Paint.BODY, Relief.ROUND))
    return Figure(parts, (0, bottom + rise / 2, rise * 0.45))
