"""Pins of the generated world: which image each one shows, and the stream of creates, updates and deletes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from pinstream.events import Domain, Flag, PinEvent
from producers.pin_source import data_uri, delete_event, image_event
from producers.world import World

DOMAIN_CYCLE: Final = (
    Domain.PRODUCT,
    Domain.PIN,
    Domain.PIN,
    Domain.PIN,
    Domain.CAMERA,
)
"""Of five Pins in a row of one product: one from the shop, three styled, one photo."""


@dataclass(frozen=True, slots=True)
class GeneratedPin:
    """Which product a Pin shows, where and in which view; the ground truth of a search."""

    pin_id: int
    product: int
    domain: Domain
    view: int

    def updated(self) -> GeneratedPin:
        """The same product in another view: what an update shows."""
        return GeneratedPin(self.pin_id, self.product, self.domain, self.view + UPDATE_VIEWS)


UPDATE_VIEWS: Final = 1_000_000
"""Views from here on are those of updates, so that none repeats."""


def generated_pin(pin_id: int, products: int) -> GeneratedPin:
    """Pin ids from 1 on go round the products, and with each round on in the cycle of domains."""
    turn, product = divmod(pin_id - 1, products)
    return GeneratedPin(pin_id, product, DOMAIN_CYCLE[turn % len(DOMAIN_CYCLE)], turn)


def generated_event(world: World, pin: GeneratedPin, images_dir: Path | None) -> PinEvent:
    """An upsert of the Pin, rendered now; the image goes into the event, or into a file under `images_dir`."""
    jpeg = world.render(pin.product, pin.domain, pin.view).jpeg
    if images_dir is None:
        uri = data_uri(jpeg)
    else:
        images_dir.mkdir(parents=True, exist_ok=True)
        path = (images_dir / f"{pin.pin_id}-{pin.view}.jpg").resolve()
        path.write_bytes(jpeg)
        uri = path.as_uri()
    flags = (Flag.SHOPPABLE,) if pin.domain is Domain.PRODUCT else ()
    return image_event(pin.pin_id, jpeg, uri, pin.domain, flags)


def chosen_pins(count: int, updates: int, deletes: int, seed: int) -> tuple[list[int], list[int]]:
    """Which of the Pins 1 … count are updated and which are deleted; a Pin may be both, first the one."""
    rng = np.random.default_rng([seed, count, updates, deletes])
    updated = rng.choice(count, size=min(updates, count), replace=False) + 1
    deleted = rng.choice(count, size=min(deletes, count), replace=False) + 1
    return updated.tolist(), deleted.tolist()


def generated_events(
    world: World, *, count: int, updates: int = 0, deletes: int = 0, images_dir: Path | None = None
) -> Iterator[PinEvent]:
    """Create Pins 1 … count, then update some of them, then delete some. Renders as it goes."""
    updated, deleted = chosen_pins(count, updates, deletes, world.seed)
    for pin_id in range(1, count + 1):
        yield generated_event(world, generated_pin(pin_id, world.products), images_dir)
    for pin_id in updated:
        yield generated_event(world, generated_pin(pin_id, world.products).updated(), images_dir)
    for pin_id in deleted:
        yield delete_event(pin_id)
