"""What `bench.rollout_swap` sends and asks, and how it tells what must come of it: Pins with a history, and searches.

The models are hashes: every code is known here, and two models agree in nothing. So a search's distances say by which
model its image was embedded, and by which model the codes were that it was compared with.
"""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from pinstream.events import Domain, Flag, Image, Op, PinEvent
from pinstream.settings import Settings
from producers.kafka_pins import PinProducer
from producers.pin_source import data_uri, delete_event, now_ms
from tests.light_generations import SaltedEncoder
from tests.light_worker import image_input
from tests.workload import jpeg

SEEN_WITHIN_S: Final = 30.0
"""A version of a Pin that was replaced longer ago than this is no answer any more."""
APPLICATIONS: Final = ("lens", "flashlight", "shop_the_look")
WHOLE: Final = {"x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0}
DELETED, NEW = 0.15, 0.15
"""Of the live events; the others are updates."""


class World:
    """Images, their codes under each model, and which image each Pin had when. One thread writes; any may read after.

    Args:
        images: how many different ones; several Pins may show the same.
    """

    def __init__(self, images: int, models: Sequence[str]) -> None:
        self.jpegs = [jpeg(number) for number in range(images)]
        self.uris = [data_uri(content) for content in self.jpegs]
        self.number = {uri: image for image, uri in enumerate(self.uris)}
        pixels_NHWC = np.stack([image_input(content, None) for content in self.jpegs])
        self.codes = {model: [row.tobytes() for row in SaltedEncoder(model).encode(pixels_NHWC)] for model in models}
        self._whole = {model: [int.from_bytes(code) for code in codes] for model, codes in self.codes.items()}
        self.versions: dict[int, list[tuple[float, int | None]]] = {}
        """Pin → (sent, image; None: deleted), in order."""

    def event(self, pin_id: int, image: int | None) -> PinEvent:
        """The next version of a Pin, noted as sent now."""
        self.versions.setdefault(pin_id, []).append((time.monotonic(), image))
        if image is None:
            return delete_event(pin_id)
        return PinEvent(
            pin_id=pin_id,
            op=Op.UPSERT,
            event_time=now_ms(),
            image=Image(uri=self.uris[image]),
            domain=Domain.PRODUCT if pin_id % 2 else Domain.PIN,
            flags=(Flag.SHOPPABLE,) if pin_id % 4 == 1 else (),
        )

    def distance(self, model: str, one: int, other: int) -> int:
        """Bits between the codes of two images."""
        codes = self._whole[model]
        return (codes[one] ^ codes[other]).bit_count()

    def could_be(self, model: str, image: int, hit: dict[str, Any], began_s: float, ended_s: float) -> bool:
        """Whether a version that the Pin had around then is so far from the query's image, by this model."""
        versions = self.versions.get(hit["pin_id"], [])
        replaced = [sent_s for sent_s, _ in versions[1:]] + [float("inf")]
        return any(
            shown is not None
            and sent_s <= ended_s
            and until_s >= began_s - SEEN_WITHIN_S
            and self.distance(model, image, shown) == hit["distance"]
            for (sent_s, shown), until_s in zip(versions, replaced, strict=True)
        )


@dataclass
class LivePins:
    """Creates, updates and deletes at a steady rate until told to stop. A thread of its own."""

    settings: Settings
    world: World
    pins: int
    rate_per_s: float
    sent: int = 0
    seconds: float = 0.0

    def run(self, stop: threading.Event) -> None:
        chance, newest, began_s = random.Random(5), self.pins, time.monotonic()
        with PinProducer(self.settings) as producer:
            while not stop.wait(max(0.0, began_s + self.sent / self.rate_per_s - time.monotonic())):
                kind = chance.random()
                if kind < NEW:
                    newest += 1
                pin_id = newest if kind < NEW else chance.randint(1, newest)
                deletes = NEW <= kind < NEW + DELETED
                producer.send(self.world.event(pin_id, None if deletes else chance.randrange(len(self.world.jpegs))))
                self.sent += 1
        self.seconds = time.monotonic() - began_s


@dataclass(frozen=True, slots=True)
class Answer:
    image: int
    began_s: float
    ended_s: float
    generation: str
    hits: list[dict[str, Any]]


@dataclass
class Searches:
    """One client of the front door, in a thread of its own; the three applications in turn."""

    url: str
    world: World
    rate_per_s: float
    seed: int
    answers: list[Answer] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        chance, number, began_s = random.Random(self.seed), 0, time.monotonic()
        with httpx.Client(timeout=10, trust_env=False) as client:
            while not stop.wait(max(0.0, began_s + number / self.rate_per_s - time.monotonic())):
                self._ask(client, chance.randrange(len(self.world.jpegs)), APPLICATIONS[number % 3])
                number += 1

    def _ask(self, client: httpx.Client, image: int, application: str) -> None:
        body: dict[str, Any] = {
            "application": application,
            "image": base64.b64encode(self.world.jpegs[image]).decode(),
            "k": 10,
            "allow_partial": False,
        }
        if application != "lens":
            body["box"] = WHOLE
        began_s = time.monotonic()
        try:
            answer = client.post(f"{self.url}/v1/search", json=body)
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return
        if answer.status_code != httpx.codes.OK:
            self.failed.append(f"{answer.status_code} {answer.text[:300]}")
            return
        found = answer.json()
        self.answers.append(Answer(image, began_s, time.monotonic(), found["generation"], found["hits"]))

    def mixed(self) -> list[str]:
        """The answers that are not wholly of the generation that they name."""
        return [
            f"{answer.generation[:12]} answered pin {hit['pin_id']} at {hit['distance']} bits"
            for answer in self.answers
            for hit in [_wrong(self.world, answer)]
            if hit is not None
        ]


def _wrong(world: World, answer: Answer) -> dict[str, Any] | None:
    if answer.generation not in world.codes or not answer.hits:
        return {"pin_id": 0, "distance": -1}
    return next(
        (
            hit
            for hit in answer.hits
            if not world.could_be(answer.generation, answer.image, hit, answer.began_s, answer.ended_s)
        ),
        None,
    )
