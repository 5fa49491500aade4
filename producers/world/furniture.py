"""The outlines of what furnishes a room: clock, chair, armchair, table, cushion. All about one high or wide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from producers.world.outline import (
    Figure,
    Outline,
    Paint,
    Part,
    Relief,
    box,
    ellipse,
    lerp,
    mirrored,
    polygon,
    regular,
    ribbon,
    smooth,
)


def clock(shape: Sequence[float]) -> Figure:
    rim, face = _clock_rim(shape), lerp(0.24, 0.4, shape[1])
    parts = [Part((rim,), Paint.BODY, Relief.PUFFY)]
    if shape[2] > 0.7:
        parts[:0] = [Part((ellipse(side * 0.25, 0.47, 0.14, 0.1),), Paint.TRIM, Relief.PUFFY) for side in (-1, 1)]
    parts.append(Part((ellipse(0, 0, face + 0.02, face + 0.02),), Paint.TRIM))
    parts.append(Part((ellipse(0, 0, face, face),), Paint.LIGHT))
    step = 1 if shape[3] > 0.5 else 3
    for hour in range(0, 12, step):
        inner = 0.86 if hour % 3 else 0.76
        parts.append(_hand(hour * math.pi / 6, face * inner, face * 0.94, 0.016 if hour % 3 else 0.028))
    parts.append(_hand(2 * math.pi * shape[4], -0.03, face * 0.5, 0.04))
    parts.append(_hand(2 * math.pi * shape[5], -0.04, face * 0.78, 0.026))
    parts.append(Part((ellipse(0, 0, 0.028, 0.028),), Paint.DARK))
    return Figure(parts, (0, -face * 0.45, face * 0.32))


def _clock_rim(shape: Sequence[float]) -> Outline:
    kind = int(shape[0] * 4.999)
    if kind == 0:
        return box(-0.5, -0.5, 0.5, 0.5, 0.1 + 0.15 * shape[5])
    if kind == 1:
        return regular(8 if shape[5] > 0.5 else 6, 0, 0, 0.53)
    if kind == 2:
        turn = np.linspace(0, 2 * math.pi, 160, endpoint=False)
        radius = 0.47 + 0.06 * np.cos(turn * (8 + int(shape[5] * 8)))
        return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    return ellipse(0, 0, 0.5, 0.5)


def _hand(angle: float, start: float, end: float, width: float) -> Part:
    along, side = np.array([math.sin(angle), math.cos(angle)]), np.array([math.cos(angle), -math.sin(angle)])
    corners = [
        along * start + side * width / 2,
        along * start - side * width / 2,
        along * end - side * width / 2,
        along * end + side * width / 2,
    ]
    return Part((np.array(corners),), Paint.DARK)


def chair(shape: Sequence[float]) -> Figure:
    half, seat_y = lerp(0.22, 0.31, shape[0]), lerp(0.36, 0.47, shape[1])
    depth, splay = lerp(0.07, 0.12, shape[2]), lerp(0, 0.08, shape[3])
    parts = [
        Part((ribbon([(side * half * 0.8, seat_y), (side * (half * 0.8 + splay * 0.6), 0.09)], 0.035),), Paint.HARDWARE)
        for side in (-1, 1)
    ]
    parts += _chair_back(shape, half * lerp(0.75, 1.0, shape[4]), seat_y + depth)
    seat = smooth(
        [(-half, seat_y - 0.02), (half, seat_y - 0.02), (half * 0.86, seat_y + depth), (-half * 0.86, seat_y + depth)]
    )
    parts += [
        Part(
            (ribbon([(side * half * 0.88, seat_y), (side * (half * 0.92 + splay), 0)], 0.05, 0.035),),
            Paint.HARDWARE,
            Relief.PUFFY,
        )
        for side in (-1, 1)
    ]
    if shape[3] > 0.5:
        parts.append(Part((box(-half * 0.9, seat_y * 0.45, half * 0.9, seat_y * 0.45 + 0.03),), Paint.HARDWARE))
    parts.append(Part((seat - (0, 0.035),), Paint.TRIM, Relief.PUFFY))
    parts.append(Part((seat,), Paint.BODY, Relief.PUFFY))
    return Figure(parts, (0, lerp(seat_y + depth, 1, 0.55), 0.18))


def _chair_back(shape: Sequence[float], half: float, low: float) -> list[Part]:
    kind, top = int(shape[5] * 3.999), lerp(0.92, 1.02, shape[5] * 4 % 1)
    posts = [
        Part((ribbon([(side * half * 0.9, low - 0.06), (side * half, top)], 0.045),), Paint.HARDWARE, Relief.PUFFY)
        for side in (-1, 1)
    ]
    if kind == 0:
        return [*posts, Part((box(-half, low + 0.06, half, top, 0.08),), Paint.BODY, Relief.PUFFY)]
    if kind == 1:
        rails = [box(-half, y, half, y + 0.1, 0.03) for y in np.linspace(low + 0.06, top - 0.1, 3)]
        return [*posts, *(Part((rail,), Paint.BODY, Relief.PUFFY) for rail in rails)]
    if kind == 2:
        middle = (low + top) / 2 + 0.02
        hoop = ellipse(0, middle, half * 1.05, (top - low) / 2)
        return [
            *(
                Part((box(side * half * 0.4 - 0.02, low - 0.06, side * half * 0.4 + 0.02, low + 0.1),), Paint.HARDWARE)
                for side in (-1, 1)
            ),
            Part((hoop,), Paint.HARDWARE, Relief.PUFFY),
            Part((ellipse(0, middle, half * 0.92, (top - low) / 2 - 0.03),), Paint.BODY, Relief.PUFFY),
        ]
    slats = [box(x - 0.022, low - 0.05, x + 0.022, top - 0.05) for x in np.linspace(-half * 0.7, half * 0.7, 5)]
    return [
        *posts,
        *(Part((slat,), Paint.TRIM) for slat in slats),
        Part((box(-half * 1.08, top - 0.17, half * 1.08, top, 0.06),), Paint.BODY, Relief.PUFFY),
    ]


def armchair(shape: Sequence[float]) -> Figure:
    half, top = lerp(0.34, 0.5, shape[0]), lerp(0.68, 0.98, shape[1])
    arm, arm_y = lerp(0.09, 0.16, shape[2]), lerp(0.42, 0.58, shape[3])
    leg, corner = lerp(0.05, 0.16, shape[4]), lerp(0.04, 0.22, shape[5])
    seat_y = leg + 0.26
    inner = half - arm * 0.8
    parts = [
        Part(
            (ribbon([(side * half * 0.8, leg + 0.05), (side * half * (0.8 + 0.1 * shape[4]), 0)], 0.055, 0.035),),
            Paint.HARDWARE,
        )
        for side in (-1, 1)
    ]
    parts.append(Part((box(-half * 0.88, leg, half * 0.88, top, corner),), Paint.BODY, Relief.PUFFY))
    if shape[5] > 0.6:
        parts.append(
            Part((polygon((-0.006, seat_y), (0.006, seat_y), (0.006, top - 0.02), (-0.006, top - 0.02)),), Paint.HOLLOW)
        )
    parts.append(Part((box(-half * 0.95, leg, half * 0.95, leg + 0.17, 0.03),), Paint.BODY, Relief.PUFFY))
    cushions = 2 if half > 0.42 else 1
    edges = np.linspace(-inner, inner, cushions + 1)
    parts += [
        Part(
            (box(left, leg + 0.13, right, seat_y + 0.02, 0.05),),
            Paint.SECOND if shape[1] > 0.5 else Paint.BODY,
            Relief.PUFFY,
        )
        for left, right in pairwise(edges.tolist())
    ]
    side_arm = box(half - arm, leg, half + 0.02, arm_y, min(corner, 0.07))
    parts += [Part((outline,), Paint.BODY, Relief.PUFFY) for outline in (side_arm, mirrored(side_arm))]
    if shape[3] > 0.5:
        pillow = box(-0.13, seat_y - 0.01, 0.13, seat_y + 0.22, 0.05)
        parts.append(Part((pillow,), Paint.TRIM, Relief.PUFFY))
    return Figure(parts, (0, lerp(seat_y, top, 0.6), 0.16))


def table(shape: Sequence[float]) -> Figure:
    half, height = lerp(0.4, 0.52, shape[0]), lerp(0.36, 0.72, shape[1])
    depth = lerp(0.1, 0.17, shape[2])
    round_top = shape[3] > 0.5
    if round_top:
        top = ellipse(0, height, half, depth)
    else:
        top = polygon(
            (-half, height - depth),
            (half, height - depth),
            (half * 0.78, height + depth),
            (-half * 0.78, height + depth),
        )
    parts = _table_legs(shape, half, height - depth * (0.2 if round_top else 0.8))
    parts.append(Part((top - (0, 0.045),), Paint.TRIM))
    if not round_top and shape[4] > 0.5:
        apron = box(-half * 0.9, height - depth - 0.15, half * 0.9, height - depth - 0.02)
        parts.append(Part((apron,), Paint.SECOND))
        parts.append(Part((ellipse(0, height - depth - 0.09, 0.025, 0.025),), Paint.HARDWARE, Relief.PUFFY))
    parts.append(Part((top,), Paint.BODY))
    return Figure(parts, (0, height, depth * 0.9))


def _table_legs(shape: Sequence[float], half: float, top: float) -> list[Part]:
    if shape[3] > 0.75:
        foot = smooth(
            [(-half * 0.5, 0), (half * 0.5, 0), (half * 0.4, 0.05), (0.05, 0.09), (-0.05, 0.09), (-half * 0.4, 0.05)]
        )
        stem = ribbon([(0, 0.05), (0, top)], lerp(0.06, 0.14, shape[5]), 0.09)
        return [Part((stem,), Paint.HARDWARE, Relief.ROUND), Part((foot,), Paint.HARDWARE, Relief.PUFFY)]
    width, splay = lerp(0.025, 0.07, shape[5]), lerp(0, 0.1, shape[4])
    legs = []
    for place, foot_y in ((0.55, 0.1), (0.8, 0.0)):
        leg = ribbon([(half * place, top), (half * place + splay, foot_y)], width, width * 0.6)
        legs += [Part((outline,), Paint.HARDWARE, Relief.PUFFY) for outline in (leg, mirrored(leg))]
    return legs


def cushion(shape: Sequence[float]) -> Figure:
    half_x, half_y = lerp(0.38, 0.52, shape[0]), lerp(0.26, 0.5, shape[1])
    pinch = lerp(0.72, 1.06, shape[2])
    kind = int(shape[3] * 2.999)
    corners: list[tuple[float, float]] = []
    for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1)):
        corners += [(x * half_x, y * half_y)] * 2
        corners.append((0, y * half_y * pinch) if x * y > 0 else (x * half_x * pinch, 0))
    body = ellipse(0, 0, half_x, half_y) if kind == 2 else smooth(corners, 3)
    parts = []
    if shape[4] > 0.5:
        parts.append(Part((body * 1.05,), Paint.TRIM, Relief.PUFFY))
    elif kind < 2:
        parts += [
            Part((ellipse(x * half_x, y * half_y, 0.06, 0.06),), Paint.TRIM, Relief.PUFFY)
            for x in (-1, 1)
            for y in (-1, 1)
        ]
    parts.append(Part((body,), Paint.BODY, Relief.PUFFY))
    if shape[5] > 0.6:
        parts.append(Part((box(-half_x * 0.96, -0.07, half_x * 0.96, 0.07),), Paint.SECOND, Relief.PUFFY))
    elif shape[5] < 0.3:
        parts += [Part((ellipse(x * half_x, 0, 0.03, 0.03),), Paint.TRIM, Relief.PUFFY) for x in (-0.4, 0, 0.4)]
    return Figure(parts, (0, 0, half_y * 0.7))
