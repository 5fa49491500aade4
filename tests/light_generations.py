"""Generations with models that need no torch and agree in nothing: a code is a hash of the model and the pixels.

A query image that was embedded by one generation's model and searched in another's index finds nothing at distance 0.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from embedder.worker import EmbedWorker
from index_sync.search_service import QueryEncoder
from index_sync.worker import IndexWorker
from pinstream.codes import Fingerprint
from pinstream.events import Box
from pinstream.settings import Settings
from rollout.controller import Controller
from rollout.front_door import FrontDoor
from rollout.generation import Generation
from rollout.http_front import add_front
from rollout.start_plan import plan_at_start
from tests.light_worker import BITS, SIZE, image_input, run_until_told


class SaltedEncoder:
    """As `HashEncoder`, different for each model."""

    bits = BITS
    input_size = SIZE

    def __init__(self, model: str) -> None:
        self._salt = model.encode()

    def encode(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        digests = [hashlib.sha256(self._salt + image.tobytes()).digest() for image in images_BHWC]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, BITS // 8)


def load_model(generation: Generation) -> QueryEncoder:
    encoder = SaltedEncoder(generation.model)

    def encode(image_bytes: bytes, box: Box | None) -> npt.NDArray[np.uint8]:
        code_W: npt.NDArray[np.uint8] = encoder.encode(image_input(image_bytes, box)[np.newaxis])[0]
        return code_W

    return encode


def named(settings: Settings, model: Fingerprint) -> Settings:
    """Settings of one generation's workers, which have names of their own."""
    embed = settings.embed.model_copy(update={"instance_id": f"embed-{model.short}"})
    index = settings.index.model_copy(update={"instance_id": f"index-{model.short}-{settings.index.replica}"})
    return settings.model_copy(update={"embed": embed, "index": index})


@contextmanager
def workers(settings: Settings, model: Fingerprint) -> Iterator[tuple[EmbedWorker, IndexWorker]]:
    """One embed and one index worker of this generation, in threads."""
    own = named(settings, model)
    embed = EmbedWorker(own, SaltedEncoder(model.hex), image_input, model)
    index = IndexWorker(own, model, BITS, None)
    threads = [threading.Thread(target=worker.run) for worker in (embed, index)]
    for thread in threads:
        thread.start()
    try:
        yield embed, index
    finally:
        for worker in (embed, index):
            worker.stop()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a worker did not stop"


@contextmanager
def front_door(settings: Settings, name: str = "") -> Iterator[FrontDoor]:
    front = FrontDoor(settings, load_model, name)
    add_front(front, settings)
    front.start()
    try:
        yield front
    finally:
        front.close()


def make(role: str, name: str, settings: Settings) -> EmbedWorker | IndexWorker | FrontDoor | Controller:
    """`name`: of the front door, or the worker's model."""
    if role == "front":
        front = FrontDoor(settings, load_model, name)
        add_front(front, settings)
        return front
    if role == "controller":
        return Controller(settings)
    model = Fingerprint(name)
    if role == "embed":
        plan = plan_at_start(settings, model)
        return EmbedWorker(named(settings, model), SaltedEncoder(name), image_input, model, plan=plan)
    return IndexWorker(named(settings, model), model, BITS, None)


def main() -> int:
    """`python -m tests.light_generations front|controller|embed|index NAME`, with settings in the environment."""
    return run_until_told(lambda settings: make(sys.argv[1], sys.argv[2], settings))


if __name__ == "__main__":
    sys.exit(main())
