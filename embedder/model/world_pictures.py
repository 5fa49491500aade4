"""The generated world as training and evaluation images, rendered once on all cores.

Whoever trains or evaluates names worlds by seed and range of products; `check_disjoint` refuses an overlap.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from embedder.model.pictures import ITEM_DTYPE, Items, Pictures, PictureWriter, Pixels, Source, open_pictures
from pinstream.errors import FatalError
from pinstream.events import Domain
from producers.world import Placed, World

_DOMAINS: Final = {Source.CAMERA: Domain.CAMERA, Source.PIN: Domain.PIN, Source.PRODUCT: Domain.PRODUCT}
_CHUNK: Final = 64
MIN_VISIBLE: Final = 0.5
"""A product of a scene that is hidden more than this is no item."""


class WorldPart(BaseModel):
    """Products `first` … `last` − 1 of the world with this seed, and how often each is seen in which domain."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(ge=0, lt=2**32)
    first: int = Field(default=0, ge=0)
    last: int = Field(ge=2)
    camera_views: int = Field(default=5, ge=0)
    pin_views: int = Field(default=4, ge=0)
    product_views: int = Field(default=2, ge=0)
    scenes: int = Field(default=0, ge=0)
    """Pictures with two to four of these products."""
    first_view: int = Field(default=0, ge=0)


class _Job(BaseModel):
    part: int
    source: Source
    index: int
    """Product, or number of the scene."""
    view: int


def check_disjoint(training: Sequence[WorldPart], held_out: Sequence[WorldPart]) -> None:
    """Raises FatalError if a product is in both."""
    for ours in training:
        for theirs in held_out:
            if ours.seed == theirs.seed and max(ours.first, theirs.first) < min(ours.last, theirs.last):
                raise FatalError(
                    f"world {ours.seed} products {theirs.first} to {theirs.last} are held out and also trained on "
                    f"({ours.first} to {ours.last}): choose ranges without a common product"
                )


def render_world(parts: Sequence[WorldPart], side: int, cache: Path, *, workers: int | None = None) -> Pictures:
    """Pictures of these products, from `cache` or rendered now (~10 ms each). Labels count products over all parts.

    Blocking, with a process per core. The same parts give the same bytes.
    """
    described = [part.model_dump() for part in parts]
    key = hashlib.sha256(repr((described, side)).encode()).hexdigest()[:16]
    folder = cache / f"world-{key}"
    if folder.exists():
        return open_pictures(folder)
    jobs = list(_jobs(parts))
    writer = PictureWriter(folder, len(jobs), side)
    starts = range(0, len(jobs), _CHUNK)
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        chunks = pool.map(
            _render, (jobs[start : start + _CHUNK] for start in starts), [parts] * len(starts), [side] * len(starts)
        )
        items: list[Items] = []
        for start, (pixels, found) in zip(starts, chunks, strict=True):
            writer.pixels_PRR3[start : start + len(pixels)] = pixels
            found["picture"] += start
            items.append(found)
    return writer.finish(np.concatenate(items), {"parts": described, "side": side})


def _jobs(parts: Sequence[WorldPart]) -> Iterator[_Job]:
    for number, part in enumerate(parts):
        views = ((Source.CAMERA, part.camera_views), (Source.PIN, part.pin_views), (Source.PRODUCT, part.product_views))
        for index in range(part.first, part.last):
            for source, count in views:
                for view in range(part.first_view, part.first_view + count):
                    yield _Job(part=number, source=source, index=index, view=view)
        for scene in range(part.first_view, part.first_view + part.scenes):
            yield _Job(part=number, source=Source.SCENE, index=scene, view=0)


def _render(jobs: Sequence[_Job], parts: Sequence[WorldPart], side: int) -> tuple[Pixels, Items]:
    """In a worker process: pixels [n, R, R, 3] and items whose `picture` counts from 0."""
    cv2.setNumThreads(1)
    starts = np.cumsum([0, *(part.last - part.first for part in parts)])
    pixels = np.empty((len(jobs), side, side, 3), np.uint8)
    items: list[tuple[int, int, int, tuple[float, ...]]] = []
    for row, job in enumerate(jobs):
        part = parts[job.part]
        world = World(part.seed, part.last, side)
        if job.source is Source.SCENE:
            frame = world.scene_rgb(job.index, range(part.first, part.last))
            shown: Iterable[Placed] = [placed for placed in frame.products if placed.visible >= MIN_VISIBLE]
        else:
            frame = world.render_rgb(job.index, _DOMAINS[job.source], job.view)
            shown = frame.products[:1]
        pixels[row] = frame.rgb
        for placed in shown:
            label = int(starts[job.part]) + placed.product - part.first
            box = placed.box
            items.append((row, label, int(job.source), (box.x, box.y, box.width, box.height)))
    return pixels, np.array(items, dtype=ITEM_DTYPE)
