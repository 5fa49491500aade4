"""The applications of a visual search and the domains that they cross: what is trained together, and what is evaluated.

Flashlight: a crop of a Pin → Pins. Lens: a camera photo → Pins and products. Shop the Look: a product's crop of a
scene → products. A folder of labelled images is evaluated with each image as query among the others, unless its set
says which are queries (In-Shop).

Shapes: Q queries, N indexed items, S pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedder.model.artifact import Preprocessing
from embedder.model.augment import BOX_MARGIN
from embedder.model.pictures import Items, Pictures, Source
from embedder.model.preprocess import prepare


@dataclass(frozen=True, slots=True)
class View:
    """Items, and how each becomes an image: its box cut out, or the picture whole."""

    pictures: Pictures
    items: Items
    crop: bool

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        labels: npt.NDArray[np.int64] = self.items["label"].astype(np.int64)
        return labels

    def image(self, number: int) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3], before preprocessing."""
        item = self.items[number]
        picture = self.pictures.pixels_PRR3[item["picture"]]
        return _cut_box(picture, item["box"]) if self.crop else np.asarray(picture)

    def batches(self, preprocessing: Preprocessing, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """uint8 [size or fewer, S, S, 3], in order."""
        for start in range(0, len(self.items), size):
            numbers = range(start, min(start + size, len(self.items)))
            yield np.stack([prepare(self.image(number), preprocessing) for number in numbers])


@dataclass(frozen=True, slots=True)
class Application:
    name: str
    queries: View
    index: View
    same_items: bool = False
    """Queries are the indexed items themselves; an item never counts as its own answer."""


def world_applications(pictures: Pictures) -> list[Application]:
    """The three applications among these pictures. Flashlight asks with the second half of each product's Pins."""
    camera, pin, product, scene = (pictures.only(source).items for source in Source)
    order = _order_within_label(pin["label"])
    asked = order >= max(1, (order.max() + 1) // 2) if len(pin) else np.zeros(0, bool)
    return [
        Application("flashlight", View(pictures, pin[asked], crop=True), View(pictures, pin[~asked], crop=False)),
        Application(
            "lens",
            View(pictures, camera, crop=False),
            View(pictures, np.concatenate([pin, product]), crop=False),
        ),
        Application("shop_the_look", View(pictures, scene, crop=True), View(pictures, product, crop=False)),
    ]


def folder_application(name: str, pictures: Pictures) -> Application:
    """The set's queries ask its gallery; in a set without queries every image asks, and all the others answer."""
    queries, gallery = pictures.only(Source.CAMERA).items, pictures.only(Source.PRODUCT).items
    if len(queries) and len(gallery):
        return Application(name, View(pictures, queries, crop=False), View(pictures, gallery, crop=False))
    view = View(pictures, pictures.items, crop=False)
    return Application(name, view, view, same_items=True)


def domain_pairs(pictures: Pictures) -> list[Application]:
    """Every query domain against every index domain, whole pictures: the domain-shift matrix."""
    views = {
        source.name.lower(): View(pictures, pictures.only(source).items, crop=False)
        for source in (Source.CAMERA, Source.PIN, Source.PRODUCT)
    }
    return [
        Application(f"{asked}→{indexed}", views[asked], views[indexed], same_items=asked == indexed)
        for asked in views
        for indexed in views
    ]


def _order_within_label(labels_N: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """0, 1, 2, … for the first, second, third item of each label."""
    seen: dict[int, int] = {}
    order = np.empty(len(labels_N), np.int64)
    for row, label in enumerate(labels_N.tolist()):
        order[row] = seen.get(label, 0)
        seen[label] = int(order[row]) + 1
    return order


def _cut_box(picture: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    height, width = picture.shape[:2]
    x, y, box_width, box_height = box.tolist()
    left = max(0, round((x - BOX_MARGIN * box_width) * width))
    top = max(0, round((y - BOX_MARGIN * box_height) * height))
    right = min(width, max(left + 1, round((x + (1 + BOX_MARGIN) * box_width) * width)))
    bottom = min(height, max(top + 1, round((y + (1 + BOX_MARGIN) * box_height) * height)))
    return picture[top:bottom, left:right]
