"""The images of Pins: to embed them again, and as small pictures for people. Blocks; close it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final

from PIL import Image as Picture

from consumers.image_fetch import ImageFetcher
from embedder.decode import decode_image
from pinstream.errors import BadRecordError, RetryableError
from pinstream.events import Box, Image
from pinstream.settings import Settings
from rollout.generation import Application
from rollout.http_nodes import GenerationNodes
from rollout.kafka_pins import images_at
from rollout.query_result import QueryResult
from rollout.query_runs import Side
from rollout.shown_queries import shown_queries

THUMBNAIL: Final = 112
MAX_PICTURES: Final = 600
_LOCAL_SCHEMES: Final = ("data:", "file:")
"""Of Pins that are shown; a page must not make this machine ask others for pictures."""


class PinPictures:
    """Reads Pin events and fetches their images under the limits of `fetch`. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fetcher = ImageFetcher(settings.fetch)

    def __enter__(self) -> PinPictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fetcher.close()

    def images(
        self, places: Iterable[tuple[int, int]], *, only_local: bool = False
    ) -> dict[tuple[int, int], tuple[bytes, Box | None]]:
        """(partition, offset) of Pin events → their encoded image and box; those that can't be had are left out."""
        found = {}
        for place, image in images_at(self._settings, places):
            if (image_bytes := self._fetch(image, only_local=only_local)) is not None:
                found[place] = image_bytes, image.box
        return found

    def of_queries(
        self,
        queries: Sequence[QueryResult],
        new: GenerationNodes,
        live: Mapping[Application, Side],
        k: int,
    ) -> dict[int, bytes]:
        """Thumbnails of the Pins that the page shows, as far as their images are inline or in allowed folders."""
        wanted: dict[int, GenerationNodes | None] = {}
        for query in shown_queries(queries, k):
            side = live.get(query.application)
            for pin_id in query.pins_shown():
                wanted.setdefault(pin_id, side.nodes if side else None)
        places: dict[tuple[int, int], int] = {}
        for pin_id, other in list(wanted.items())[:MAX_PICTURES]:
            held = new.pin(pin_id) or (other.pin(pin_id) if other else None)
            if held is not None:
                places[held.partition, held.source_offset] = pin_id
        found = {}
        for place, (image_bytes, box) in self.images(places, only_local=True).items():
            picture = thumbnail(image_bytes, box, self._settings.fetch.max_pixels)
            if picture is not None:
                found[places[place]] = picture
        return found

    def _fetch(self, image: Image, *, only_local: bool) -> bytes | None:
        if only_local and not image.uri.startswith(_LOCAL_SCHEMES):
            return None
        try:
            return self._fetcher.fetch(image)
        except (BadRecordError, RetryableError):
            return None


def thumbnail(image_bytes: bytes, box: Box | None, max_pixels: int) -> bytes | None:
    """The image, or the box of it, as a JPEG of a few kB; None if it can't be decoded."""
    try:
        rgb = decode_image(image_bytes, max_pixels=max_pixels, target_size=THUMBNAIL, box=box)
    except BadRecordError:
        return None
    picture = Picture.fromarray(rgb)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
