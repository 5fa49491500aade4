"""The outlines of what people wear and carry: bag, shoe, shirt, dress, hat. All about one high or wide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from producers.world.outline import (
    Figure,
    Outline,
    Paint,
    Part,
    Path,
    Relief,
    box,
    ellipse,
    lerp,
    mirrored,
    polygon,
    ribbon,
    smooth,
)


def _symmetric(right: Path, rounds: int = 1) -> Outline:
    """Close a right half, given from top to bottom, with its mirror image."""
    half = np.asarray(right, dtype=np.float64)
    return smooth(np.concatenate([half, half[::-1] * (-1.0, 1.0)]), rounds)


def bag(shape: Sequence[float]) -> Figure:
    top, bottom = lerp(0.26, 0.42, shape[0]), lerp(0.3, 0.46, shape[1])
    height, rise = lerp(0.42, 0.7, shape[2]), lerp(0.2, 0.42, shape[3])
    grip = top * lerp(0.35, 0.7, shape[4])
    body = _symmetric([(top, height), (bottom, 0.06), (bottom * 0.94, 0)])
    handle = ribbon(
        [(-grip, height - 0.06), (-grip * 1.05, height + rise), (grip * 1.05, height + rise), (grip, height - 0.06)],
        0.05,
    )
    parts = [Part((handle,), Paint.TRIM, Relief.PUFFY), Part((body,), Paint.BODY, Relief.PUFFY)]
    if shape[5] > 0.55:
        low = height * lerp(0.3, 0.6, shape[5] * 3 % 1)
        flap = _symmetric([(top * 1.01, height + 0.01), (lerp(top, bottom, 0.5), low + 0.1), (0.08, low)])
        parts += [
            Part((flap,), Paint.SECOND, Relief.PUFFY),
            Part((box(-0.045, low - 0.035, 0.045, low + 0.035, 0.01),), Paint.HARDWARE, Relief.PUFFY),
        ]
        return Figure(parts, (0, low * 0.45, low * 0.5))
    if shape[5] > 0.25:
        pocket = box(-bottom * 0.55, height * 0.1, bottom * 0.55, height * 0.48, 0.04)
        parts += [Part((pocket,), Paint.SECOND, Relief.PUFFY)]
    parts += [
        Part((ellipse(side * grip, height - 0.06, 0.03, 0.03),), Paint.HARDWARE, Relief.PUFFY) for side in (-1, 1)
    ]
    return Figure(parts, (0, height * 0.7, height * 0.3))


def shoe(shape: Sequence[float]) -> Figure:
    """A side view, the toe to the right: from a low sneaker to a boot, with a flat sole or a heel."""
    ankle, sole = lerp(0.3, 0.8, shape[0] ** 1.5), lerp(0.05, 0.11, shape[1])
    heel = max(0.0, lerp(-0.12, 0.16, shape[2]))
    shaft, toe = lerp(-0.12, 0.0, shape[3]), lerp(0.15, 0.24, shape[4])
    floor = sole + heel
    upper = smooth(
        [
            (-0.48, floor), (-0.5, floor + 0.15), (-0.45, floor + ankle), (shaft, floor + ankle * 0.95),
            (shaft + 0.05, floor + min(ankle, 0.3)), (0.25, sole + toe + 0.03), (0.5, sole + toe * 0.8), (0.52, sole),
            (0.1, sole),
        ]
    )  # fmt: skip
    base = polygon(
        (-0.5, heel), (-0.5, floor + 0.02), (-0.05, floor * 0.8 + 0.02), (0.15, sole + 0.02), (0.54, sole + 0.02),
        (0.54, 0), (0.1, 0), (-0.15, heel),
    )  # fmt: skip
    parts = [Part((upper,), Paint.BODY, Relief.PUFFY)]
    if shape[5] > 0.5:
        cap = smooth([(0.3, sole), (0.28, sole + toe * 0.9), (0.48, sole + toe * 0.75), (0.52, sole)])
        parts.append(Part((cap,), Paint.SECOND, Relief.PUFFY))
    if ankle > 0.42:
        cuff = floor + ankle
        band = polygon((-0.46, cuff - 0.1), (shaft, cuff - 0.13), (shaft - 0.01, cuff), (-0.45, cuff))
        parts.append(Part((band,), Paint.TRIM, Relief.PUFFY))
    if heel > 0.03:
        parts.append(Part((polygon((-0.5, 0), (-0.5, floor), (-0.3, floor), (-0.34, 0)),), Paint.HARDWARE))
    else:
        parts += _laces((shaft + 0.03, floor + min(ankle, 0.3) * 0.92), (0.24, sole + toe + 0.02))
    parts.append(Part((base,), Paint.LIGHT if shape[1] > 0.6 else Paint.TRIM))
    return Figure(parts, (-0.26, floor + 0.17, 0.18))


def _laces(start: tuple[float, float], end: tuple[float, float]) -> list[Part]:
    laces = []
    for share in (0.1, 0.4, 0.7):
        x, y = lerp(start[0], end[0], share), lerp(start[1], end[1], share)
        laces.append(Part((ribbon([(x + 0.03, y + 0.01), (x - 0.06, y - 0.07)], 0.028, rounds=1),), Paint.LIGHT))
    return laces


def shirt(shape: Sequence[float]) -> Figure:
    chest, hem = lerp(0.24, 0.31, shape[0]), lerp(0.22, 0.36, shape[1])
    length, sleeve = lerp(0.05, 0.3, shape[2]), lerp(0.2, 0.62, shape[3] ** 1.3)
    neck, depth = lerp(0.08, 0.14, shape[4]), lerp(0.04, 0.17, shape[5])
    out, down = 0.5 * sleeve + 0.07, sleeve * 0.85
    arm = polygon((0.25, 0.965), (chest + out, 0.93 - down), (chest + out - 0.15, 0.87 - down), (chest - 0.04, 0.68))
    cuff = polygon(
        (chest + out, 0.93 - down),
        (chest + out - 0.15, 0.87 - down),
        (chest + out - 0.14, 0.91 - down),
        (chest + out - 0.01, 0.97 - down),
    )
    colour = Paint.SECOND if shape[1] > 0.6 else Paint.BODY
    parts = [Part((outline,), colour, Relief.PUFFY) for outline in (smooth(arm, 1), mirrored(smooth(arm, 1)))]
    parts += [Part((outline,), Paint.TRIM) for outline in (cuff, mirrored(cuff))]
    body = _symmetric(
        [(neck, 1), (0.27, 0.96), (chest, 0.72), (hem * 0.9 + 0.02, 0.4), (hem, length), (hem * 0.9, length - 0.01)]
    )
    parts.append(Part((body,), Paint.BODY, Relief.PUFFY))
    parts += _neckline(neck, depth, pointed=shape[0] > 0.55)
    if shape[2] > 0.55:
        parts += [
            Part((ellipse(0, y, 0.016, 0.016),), Paint.DARK) for y in np.arange(0.92 - depth, length + 0.08, -0.13)
        ]
    elif shape[4] > 0.5:
        parts.append(Part((box(0.06, 0.62, 0.19, 0.77, 0.02),), Paint.SECOND))
    return Figure(parts, (0 if shape[4] <= 0.5 else -0.11, 0.62, 0.2))


def _neckline(neck: float, depth: float, pointed: bool) -> list[Part]:
    """A collar and what is seen inside it."""
    return [
        Part((_cut(neck + 0.035, depth + 0.036, pointed),), Paint.TRIM),
        Part((_cut(neck, depth, pointed),), Paint.HOLLOW),
    ]


def _cut(neck: float, depth: float, pointed: bool) -> Outline:
    if pointed:
        return polygon((-neck, 1.0), (neck, 1.0), (0, 1 - depth * 1.5))
    turn = np.linspace(np.pi, 2 * np.pi, 20)
    return np.stack([neck * np.cos(turn), 1 + depth * np.sin(turn)], axis=1)


def dress(shape: Sequence[float]) -> Figure:
    waist, waist_y = lerp(0.1, 0.16, shape[0]), lerp(0.55, 0.72, shape[1])
    hem, low = lerp(0.18, 0.42, shape[2]), lerp(0.0, 0.26, shape[3])
    bust, neck = waist + 0.06, lerp(0.05, 0.1, shape[4])
    skirt = _symmetric(
        [
            (waist, waist_y), (waist, waist_y), (lerp(waist, hem, 0.65), lerp(waist_y, low, 0.6)),
            (hem, low), (hem / 2, low - 0.02),
        ]
    )  # fmt: skip
    bodice = _symmetric(
        [
            (neck + 0.02, 1), (bust * 0.95, 0.97), (bust * 0.85, 0.87), (bust, 0.8),
            (waist, waist_y - 0.01), (waist, waist_y - 0.01),
        ]
    )  # fmt: skip
    parts = []
    if shape[5] > 0.4:
        drop = lerp(0.08, 0.4, (shape[5] - 0.4) / 0.6)
        cuff = bust + drop * 0.3, 0.87 - drop
        sleeve = smooth([(bust * 0.8, 0.985), (cuff[0] + 0.1, cuff[1] + 0.03), cuff, (bust * 0.85, 0.8)], 1)
        parts += [Part((outline,), Paint.BODY, Relief.PUFFY) for outline in (sleeve, mirrored(sleeve))]
    parts.append(Part((skirt,), Paint.BODY, Relief.PUFFY))
    parts.append(Part((bodice,), Paint.SECOND if shape[4] > 0.6 else Paint.BODY, Relief.PUFFY))
    parts += _neckline(neck, lerp(0.05, 0.14, shape[0]), pointed=shape[1] > 0.5)
    if shape[1] > 0.3:
        parts.append(
            Part((box(-waist * 1.04, waist_y - 0.03, waist * 1.04, waist_y + 0.03),), Paint.TRIM, Relief.PUFFY)
        )
    if shape[3] < 0.4:
        inset = lerp(waist, hem, 0.93)
        edge = low + (waist_y - low) * 0.08
        parts.append(Part((polygon((-hem, low), (hem, low), (inset, edge), (-inset, edge)),), Paint.TRIM))
    return Figure(parts, (0, lerp(low, waist_y, 0.45), 0.18))


def hat(shape: Sequence[float]) -> Figure:
    crown, height = lerp(0.2, 0.3, shape[0]), lerp(0.24, 0.46, shape[1])
    band = lerp(0.06, 0.13, shape[4])
    top = crown * lerp(0.7, 1.0, shape[2])
    dome = smooth(
        [(-crown, -0.04), (-crown, 0.05), (-top, height), (top, height), (crown, 0.05), (crown, -0.04)], closed=False
    )
    if shape[5] > 0.55:
        reach = lerp(0.2, 0.36, shape[3])
        peak = smooth(
            [(crown * 0.1, 0.02), (crown, 0.06), (crown + reach, -0.02), (crown + reach, -0.07), (crown * 0.3, -0.06)]
        )
        return Figure(
            [
                Part((dome,), Paint.BODY, Relief.PUFFY),
                Part((ellipse(0, height * 0.88, 0.035, 0.03),), Paint.TRIM, Relief.PUFFY),
                Part(
                    (polygon((-crown, -0.04), (crown, -0.04), (crown, band * 0.6), (-crown, band * 0.6)),), Paint.SECOND
                ),
                Part((peak,), Paint.TRIM, Relief.PUFFY),
            ],
            (0, height * 0.5, height * 0.42),
        )
    brim, droop = lerp(0.38, 0.54, shape[3]), lerp(0.05, 0.1, shape[2])
    ring = polygon((-crown * 1.01, 0.0), (crown * 1.01, 0.0), (crown * 0.97, band), (-crown * 0.97, band))
    return Figure(
        [
            Part((ellipse(0, -0.02, brim, droop),), Paint.BODY, Relief.PUFFY),
            Part((dome,), Paint.BODY, Relief.ROUND),
            Part((ring,), Paint.TRIM, Relief.ROUND),
        ],
        (0, lerp(band, height, 0.5), height * 0.4),
    )
