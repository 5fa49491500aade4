"""Random Pin events with inline images: creates, updates, deletes, repeats of an image, and bad records among them."""

from __future__ import annotations

import hashlib
import random
import time

import numpy as np
import simplejpeg

from pinstream.events import Domain, Image, Op, PinEvent
from producers.pin_source import data_uri
from tests.light_worker import SIZE

BAD_VALUES = (b"{", b'{"pin_id": 1}', b"", b"not json at all", b'{"pin_id":1,"op":"upsert","event_time":1}')


def jpeg(number: int) -> bytes:
    """A small JPEG of noise, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(pixels, quality=90)


class Workload:
    """(key, value) pairs for the Pins topic. Deterministic by its seed."""

    def __init__(self, seed: int, pins: int, images: int = 50, bad_share: float = 0.03) -> None:
        self._random = random.Random(seed)
        self._pins = pins
        self._images = [jpeg(i) for i in range(images)]
        self._bad_share = bad_share

    def next(self) -> tuple[bytes, bytes | None]:
        pin_id = self._random.randint(1, self._pins)
        key = b"%d" % pin_id
        kind = self._random.random()
        if kind < self._bad_share:
            return key, self._random.choice(BAD_VALUES)
        if kind < self._bad_share + 0.08:
            return key, None
        if kind < self._bad_share + 0.15:
            return key, PinEvent(pin_id=pin_id, op=Op.DELETE, event_time=_now_ms()).value()
        return key, self._upsert(pin_id).value()

    def _upsert(self, pin_id: int) -> PinEvent:
        image = self._random.choice(self._images)
        signature = hashlib.sha256(image).hexdigest() if self._random.random() < 0.5 else None
        if self._random.random() < 0.02:
            signature = "00" * 32  # a lie: the image's bytes have another
        return PinEvent(
            pin_id=pin_id,
            op=Op.UPSERT,
            event_time=_now_ms(),
            image=Image(uri=data_uri(image), signature=signature),
            domain=self._random.choice(list(Domain)),
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
