"""Asks golden and live queries of the new generation and of the live one, in turns. Blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from embedder.image_input import ImageInput, QueryEncoder
from embedder.model.artifact import Artifact
from embedder.torch_encoder import TorchEncoder
from index_sync.search_protocol import MAX_K, Filters, encode_code
from pinstream.errors import BadRecordError, FatalError
from pinstream.events import Box
from pinstream.settings import ProfilesSettings, Settings
from rollout.generation import Application
from rollout.golden import GoldenQuery
from rollout.http_nodes import GenerationNodes
from rollout.query_result import Answer, QueryResult
from rollout.query_sample import LiveQuery

BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Side:
    """One generation, as queries are asked of it: its model here, its workers there."""

    artifact: Artifact
    encoder: TorchEncoder
    image_input: ImageInput
    encode: QueryEncoder
    nodes: GenerationNodes


def load_side(settings: Settings, artifact: Artifact, nodes: GenerationNodes) -> Side:
    """With the model on the device of the settings. Raises FatalError: no such device."""
    encoder = TorchEncoder(
        artifact, device=settings.embed.device, precision=settings.embed.precision, max_batch_size=BATCH
    )
    image_input = ImageInput(artifact.manifest.preprocessing, settings.fetch.max_pixels)
    return Side(artifact, encoder, image_input, QueryEncoder(image_input, encoder), nodes)


class QueryRuns:
    """Not thread-safe.

    Args:
        live: what serves each application now, where that is not the new generation itself.

    Raises:
        FatalError: from every method: a golden image can't be read or decoded.
        RetryableError: from every method: a generation does not answer.
    """

    def __init__(
        self, new: Side, live: Mapping[Application, Side], profiles: ProfilesSettings, k: int, max_bytes: int
    ) -> None:
        self._new = new
        self._live = live
        self._profiles = profiles
        self._k = k
        self._max_bytes = max_bytes
        self._asked = 0

    def golden(
        self, queries: Sequence[GoldenQuery], living: Callable[[frozenset[int]], frozenset[int]]
    ) -> list[QueryResult]:
        """Args: `living` keeps those of the expected Pins that live now."""
        found = []
        for query in queries:
            image_bytes = _read(query.image, self._max_bytes)
            profile = getattr(self._profiles, query.application.value)
            body = self._body(Filters(domains=profile.domains, flags=profile.flags), max(self._k, profile.k))
            try:
                new, live = self._both(
                    query.application, partial(_by_image, image_bytes=image_bytes, box=query.box, body=body)
                )
            except BadRecordError as error:
                raise FatalError(f"golden image {query.image} can't be embedded: {error}") from error
            assert new is not None
            found.append(
                QueryResult(
                    name=query.name,
                    application=query.application,
                    expected=living(query.expected),
                    new=new,
                    live=live,
                    image=image_bytes,
                    box=query.box,
                    pin_id=None,
                )
            )
        return found

    def sampled(self, queries: Sequence[LiveQuery]) -> list[QueryResult]:
        """Queries by a Pin; those whose Pin is not in both generations (any more) are passed over."""
        found = []
        for query in queries:
            filters = Filters(domains=query.domains, flags=query.flags)
            body = {**self._body(filters, max(self._k, query.k)), "pin_id": query.pin_id}
            new, live = self._both(query.application, partial(_by_pin, body=body))
            if new is not None and (live is not None or query.application not in self._live):
                found.append(
                    QueryResult(
                        name=f"pin {query.pin_id}",
                        application=query.application,
                        expected=frozenset(),
                        new=new,
                        live=live,
                        image=None,
                        box=None,
                        pin_id=query.pin_id,
                    )
                )
        return found

    def _body(self, filters: Filters, k: int) -> dict[str, Any]:
        return {"k": min(k, MAX_K), "domains": list(filters.domains), "flags": list(filters.flags)}

    def _both(
        self, application: Application, ask: Callable[[Side], Answer | None]
    ) -> tuple[Answer | None, Answer | None]:
        """Every other query asks the live generation first. The first query of all is asked twice, to warm up."""
        live = self._live.get(application)
        if not self._asked:
            for side in (self._new, *self._live.values()):
                ask(side)
        self._asked += 1
        if live is None:
            return ask(self._new), None
        if self._asked % 2:
            new = ask(self._new)
            return new, ask(live)
        before = ask(live)
        return ask(self._new), before


def bits_that_differ(side: Side, images: Sequence[tuple[bytes, Box | None]], code_NW: Any) -> list[int]:
    """How many bits of each of these codes differ from what the model gives here for its image; −1: not decodable."""
    counts = []
    for (image_bytes, box), code_W in zip(images, code_NW, strict=True):
        try:
            counts.append(int(np.bitwise_count(side.encode(image_bytes, box) ^ code_W).sum()))
        except BadRecordError:
            counts.append(-1)
    return counts


def _by_pin(side: Side, body: dict[str, Any]) -> Answer | None:
    return _search(side, body, time.perf_counter())


def _by_image(side: Side, image_bytes: bytes, box: Box | None, body: dict[str, Any]) -> Answer | None:
    started_s = time.perf_counter()
    return _search(side, {**body, "code": encode_code(side.encode(image_bytes, box))}, started_s)


def _search(side: Side, body: dict[str, Any], started_s: float) -> Answer | None:
    found = side.nodes.search(body)
    if found is None:
        return None
    return Answer(tuple((hit.pin_id, hit.distance) for hit in found.hits), time.perf_counter() - started_s)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise FatalError(f"golden image {path} has {size} bytes, expected at most {max_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise FatalError(f"golden image {path} can't be read: {error.strerror}") from error
