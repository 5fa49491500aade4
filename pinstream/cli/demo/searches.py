"""Visual searches of the three applications, from images that are not in the index, judged by the generated world."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from pinstream.events import Box, Domain
from producers.generated_pins import GeneratedPin
from producers.world import World

QUERY_VIEWS = 5_000_000
"""Views from here on are nobody's Pin."""


@dataclass(frozen=True, slots=True)
class Query:
    jpeg: bytes
    box: Box | None
    """Search for this part of it; None: for the whole image."""
    product: int


@dataclass(frozen=True, slots=True)
class Application:
    """One product surface: what is asked, and among which Pins is searched."""

    name: str
    what: str
    domains: tuple[Domain, ...]
    queries: Callable[[World, int], Iterator[Query]]


@dataclass(frozen=True, slots=True)
class Example:
    query: Query
    hits: tuple[tuple[GeneratedPin, int], ...]
    """Found Pins with their distance, nearest first."""


@dataclass(slots=True)
class Score:
    application: Application
    asked: int = 0
    first_right: int = 0
    examples: list[Example] = field(default_factory=list)

    @property
    def p_at_1(self) -> float:
        return self.first_right / max(1, self.asked)


def _lens(world: World, count: int) -> Iterator[Query]:
    for i in range(count):
        product = i % world.products
        image = world.render(product, Domain.CAMERA, QUERY_VIEWS + i)
        yield Query(image.jpeg, None, product)


def _flashlight(world: World, count: int) -> Iterator[Query]:
    for i in range(count):
        product = (7 * i + 3) % world.products
        image = world.render(product, Domain.PIN, QUERY_VIEWS + i)
        yield Query(image.jpeg, image.products[0].box, product)


def _shop_the_look(world: World, count: int) -> Iterator[Query]:
    made = 0
    for view in range(count):
        scene = world.scene(QUERY_VIEWS + view)
        for placed in scene.products:
            yield Query(scene.jpeg, placed.box, placed.product)
            made += 1
            if made == count:
                return


APPLICATIONS = (
    Application("Lens", "a camera photo → Pins and products", (Domain.PIN, Domain.PRODUCT), _lens),
    Application("Flashlight", "a part of a Pin → Pins", (Domain.PIN,), _flashlight),
    Application("Shop the Look", "a part of a scene → products", (Domain.PRODUCT,), _shop_the_look),
)


def run_searches(
    url: str, world: World, pins: Mapping[int, GeneratedPin], count: int, examples: int = 8, k: int = 5
) -> list[Score]:
    """Ask the index over HTTP; a first hit of the same product is right. Blocks.

    Args:
        pins: what each Pin in the index shows now.

    Raises:
        httpx.HTTPStatusError: a search failed.
    """
    scores = []
    with httpx.Client(base_url=url, timeout=30) as client:
        for application in APPLICATIONS:
            score = Score(application)
            for query in application.queries(world, count):
                hits = _ask(client, query, application.domains, k, pins)
                score.asked += 1
                score.first_right += bool(hits) and hits[0][0].product == query.product
                if len(score.examples) < examples:
                    score.examples.append(Example(query, hits))
            scores.append(score)
    return scores


def _ask(
    client: httpx.Client, query: Query, domains: tuple[Domain, ...], k: int, pins: Mapping[int, GeneratedPin]
) -> tuple[tuple[GeneratedPin, int], ...]:
    body = {
        "image": base64.b64encode(query.jpeg).decode(),
        "box": query.box.model_dump() if query.box is not None else None,
        "k": k,
        "domains": domains,
        "allow_partial": False,
    }
    answer = client.post("/v1/search", json=body).raise_for_status().json()
    return tuple((pins[hit["pin_id"]], hit["distance"]) for hit in answer["hits"])
