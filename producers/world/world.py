"""A generated world of Pins with known answers: every image says which products it shows, and where.

    world = World(seed=7, products=400)
    image = world.render(12, Domain.CAMERA, view=0)   # image.jpeg, image.products[0].box
    look = world.scene(view=3)                        # two to four products in a styled picture

The same (seed, product, domain, view) gives the same bytes in any order and in any process, on the same versions of
NumPy, OpenCV and simplejpeg.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from pinstream.events import DOMAIN_NUMBER, Domain
from producers.world import catalog, photo, studio, styled
from producers.world.canvas import Canvas, Placed
from producers.world.catalog import LINE_SIZE, Product
from producers.world.pixels import Pixels
from producers.world.streams import Stream, stream

MIN_IMAGE_SIZE = 64
SCENE_PRODUCTS = (2, 4)
"""Fewest and most products of a scene."""


@dataclass(frozen=True, slots=True)
class RenderedImage:
    jpeg: bytes
    domain: Domain
    products: tuple[Placed, ...]
    """Every product of the catalogue that is in the image, the one it was made for first. Other things stand around
    too, but none of them is in the catalogue."""


@dataclass(frozen=True, slots=True)
class RenderedFrame:
    """The same before compression."""

    rgb: Pixels
    """uint8 [image_size, image_size, 3]."""
    domain: Domain
    products: tuple[Placed, ...]
    masks: tuple[npt.NDArray[np.bool_], ...]
    """Where each product is seen, bool [image_size, image_size]."""
    jpeg_quality: int

    def encode(self) -> RenderedImage:
        """Compress as the domain does: a catalogue image carefully, a phone's photo hard."""
        jpeg = simplejpeg.encode_jpeg(self.rgb, quality=self.jpeg_quality, colorsubsampling="420")
        return RenderedImage(jpeg, self.domain, self.products)


class World:
    """`products` products seen in three domains. Holds no images: thread-safe, and free to make again.

    Raises:
        ValueError: `products` < 1, `image_size` < 64, or the seed is outside 0 … 2^32-1.
    """

    def __init__(self, seed: int, products: int, image_size: int = 256) -> None:
        if products < 1:
            raise ValueError(f"products is {products}, expected at least 1")
        if image_size < MIN_IMAGE_SIZE:
            raise ValueError(f"image_size is {image_size}, expected at least {MIN_IMAGE_SIZE} pixels")
        stream(seed, Stream.VIEW)
        self.seed = seed
        self.products = products
        self.image_size = image_size

    def product(self, index: int) -> Product:
        """Return product `index`; raises IndexError outside the world."""
        if not 0 <= index < self.products:
            raise IndexError(f"product {index} is not in a world of {self.products}, expected 0 to {self.products - 1}")
        return catalog.product(self.seed, index)

    def split(self, held_out: float = 0.25) -> tuple[range, range]:
        """Return (training, held-out) products. No line of look-alikes is in both.

        Raises:
            ValueError: a part would be empty.
        """
        lines = -(-self.products // LINE_SIZE)
        kept = lines - round(lines * held_out)
        if not 0 < kept < lines:
            raise ValueError(
                f"held_out is {held_out} of {lines} lines of {LINE_SIZE}, expected a share that leaves lines in both"
            )
        return range(kept * LINE_SIZE), range(kept * LINE_SIZE, self.products)

    def render(self, index: int, domain: Domain, view: int) -> RenderedImage:
        """Return view `view` (0 … 2^32-1) of a product in a domain as a JPEG."""
        return self.render_rgb(index, domain, view).encode()

    def render_rgb(self, index: int, domain: Domain, view: int) -> RenderedFrame:
        """As `render`, uncompressed and with masks."""
        thing = self.product(index)
        rng = stream(self.seed, Stream.VIEW, index, DOMAIN_NUMBER[domain], view)
        if domain is Domain.PRODUCT:
            canvas, quality = studio.shoot(rng, thing, self.image_size)
        elif domain is Domain.PIN:
            canvas, quality = styled.pin(rng, self.seed, thing, self.image_size)
        else:
            canvas, quality = photo.snap(rng, self.seed, thing, self.image_size)
        return _frame(canvas, domain, quality)

    def scene(self, view: int, among: range | None = None) -> RenderedImage:
        """Return a styled picture of two to four products `among` these (default: all), chosen by seed and view."""
        return self.scene_rgb(view, among).encode()

    def scene_rgb(self, view: int, among: range | None = None) -> RenderedFrame:
        """As `scene`, uncompressed and with masks.

        Raises:
            ValueError: `among` has fewer than two products.
        """
        among = range(self.products) if among is None else among
        fewest, most = SCENE_PRODUCTS
        if len(among) < fewest:
            raise ValueError(f"a scene is chosen among {len(among)} products, expected at least {fewest}")
        rng = stream(self.seed, Stream.SCENE, view)
        count = min(int(rng.integers(fewest, most + 1)), len(among))
        things = [self.product(among[place]) for place in rng.choice(len(among), count, replace=False).tolist()]
        canvas, quality = styled.scene(rng, things, self.image_size)
        return _frame(canvas, Domain.PIN, quality)


def _frame(canvas: Canvas, domain: Domain, quality: int) -> RenderedFrame:
    rgb: Pixels = cv2.convertScaleAbs(np.maximum(canvas.rgb, 0), alpha=255).astype(np.uint8, copy=False)
    products, masks = canvas.placed()
    return RenderedFrame(rgb, domain, products, masks, quality)
