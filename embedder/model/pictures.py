"""Training images in one memory-mapped array: decoded or rendered once, read from there in every epoch.

Shapes: P pictures, R pixels a side, N items (an item is one product in one picture).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from pinstream.errors import FatalError


class Source(IntEnum):
    """What kind of picture an item is seen in. The first three are `Domain`s; a scene shows several products."""

    CAMERA = 0
    PIN = 1
    PRODUCT = 2
    SCENE = 3


ITEM_DTYPE: Final = np.dtype([("picture", "<i4"), ("label", "<i4"), ("source", "u1"), ("box", "<f4", (4,))])
"""`box`: x, y, width, height as fractions of the picture; the whole picture is (0, 0, 1, 1)."""
Pixels = npt.NDArray[np.uint8]
Items = npt.NDArray[np.void]


@dataclass(frozen=True, eq=False)
class Pictures:
    pixels_PRR3: Pixels
    items: Items
    """[N] of `ITEM_DTYPE`; labels are 0 … classes − 1."""

    @property
    def classes(self) -> int:
        return int(self.items["label"].max()) + 1 if len(self.items) else 0

    def only(self, *sources: Source) -> Self:
        """The items of these sources, labels as they are."""
        return type(self)(self.pixels_PRR3, self.items[np.isin(self.items["source"], sources)])


class PictureWriter:
    """Fills a folder with pictures; `finish` makes it visible under its name, whole or not at all."""

    def __init__(self, folder: Path, count: int, side: int) -> None:
        self._folder = folder
        self._draft = folder.with_name(f"{folder.name}.draft-{os.getpid()}")
        self._draft.mkdir(parents=True, exist_ok=True)
        shape = (count, side, side, 3)
        self.pixels_PRR3: Pixels = np.lib.format.open_memmap(
            self._draft / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape
        )

    def finish(self, items: Items, about: dict[str, Any]) -> Pictures:
        np.save(self._draft / "items.npy", items)
        (self._draft / "about.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
        del self.pixels_PRR3
        if self._folder.exists():
            shutil.rmtree(self._draft)
        else:
            self._draft.rename(self._folder)
        return open_pictures(self._folder)


def open_pictures(folder: Path) -> Pictures:
    """Raises FatalError if the folder holds no finished pictures."""
    try:
        pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        items = np.load(folder / "items.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FatalError(f"picture cache {str(folder)!r} can't be read: {error}; remove it") from error
    if items.dtype != ITEM_DTYPE or pixels.ndim != 4:
        raise FatalError(f"picture cache {str(folder)!r} is of another version: remove it")
    return Pictures(pixels, items)
