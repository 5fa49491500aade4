"""Embeds one part at a time with the embed worker's own stages: fetch and decode in a pool, encode in micro-batches.

So retries, time-outs, the code cache, batches too large for the device and images that break one are as in a replay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from consumers.image_fetch import ImageFetcher
from embedder.breaker import Breaker
from embedder.encode_stage import EncodeStage, ImageEncoder
from embedder.fetch_stage import FetchStage
from embedder.pin_work import ImageArray, Outcome, PinWork
from embedder.redis_code_cache import RedisCodeCache
from pinstream.clock import SystemClock
from pinstream.codes import Fingerprint
from pinstream.errors import FatalError
from pinstream.events import Box
from pinstream.kafka_clients import redis_url
from pinstream.settings import Settings

_LOOK_S: Final = 0.2
_ASKED_AT_ONCE: Final = 1000

ImageInput = Callable[[bytes, Box | None], ImageArray]


class LoadModel(Protocol):
    """Picklable: sent to the machines that embed."""

    def __call__(self, settings: Settings) -> tuple[ImageEncoder, ImageInput, Fingerprint]:
        """Load and check the model on this machine. Blocks. Raises FatalError, CorruptStateError."""


class LoadArtifact:
    """Loads the artifact from where its generation says it is, and runs its golden inputs on this machine's device.

    Args:
        path: of the artifact; the same on every machine.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, settings: Settings) -> tuple[ImageEncoder, ImageInput, Fingerprint]:
        """Raises FatalError: on this device more bits differ than the artifact allows."""
        from pathlib import Path  # noqa: PLC0415 (all of this runs on the machines that embed)

        from embedder.image_input import ImageInput as ArtifactInput  # noqa: PLC0415
        from embedder.model.artifact import load_artifact  # noqa: PLC0415
        from embedder.model.verify import verify_artifact  # noqa: PLC0415
        from embedder.torch_encoder import TorchEncoder  # noqa: PLC0415

        embed = settings.embed
        verified = verify_artifact(Path(self.path), device=embed.device, precision=embed.precision)
        if not verified.holds:
            raise FatalError(f"{verified.sentence()}: choose another embed.device or embed.precision")
        artifact = load_artifact(Path(self.path))
        encoder = TorchEncoder(
            artifact, device=embed.device, precision=embed.precision, max_batch_size=embed.max_batch_size
        )
        image_input = ArtifactInput(artifact.manifest.preprocessing, settings.fetch.max_pixels)
        return encoder, image_input, artifact.fingerprint


class PartEmbedder:
    """Not thread-safe. Its threads, daemons, live as long as the process.

    Raises:
        FatalError: the model is not `model`, or the settings name impossible hosts or buckets.
    """

    def __init__(self, settings: Settings, model: Fingerprint, load: LoadModel) -> None:
        encoder, image_input, found = load(settings)
        if found != model:
            raise FatalError(f"the model on this machine is {found.short}, expected {model.short}: copy that one here")
        embed = settings.embed
        self.bits = encoder.bits
        self._bound = embed.max_in_flight
        self._room = threading.Semaphore(embed.max_in_flight)
        self._failure: BaseException | None = None
        self._breaker = Breaker(embed.breaker_bad_in_a_row)
        self._cache = RedisCodeCache(redis_url(settings), model, encoder.bits, settings.redis.timeout_s)
        self._fetcher = ImageFetcher(settings.fetch)
        self._encode = EncodeStage(
            encoder,
            self._cache,
            SystemClock(),
            max_batch_size=embed.max_batch_size,
            max_batch_delay_s=embed.max_batch_delay_ms / 1000,
            on_done=lambda works: self._room.release(len(works)) if works else None,
            on_fatal=self._fail,
        )
        self._fetch = FetchStage(
            self._fetcher,
            image_input,
            threads=embed.fetch_threads,
            on_ready=self._encode.submit,
            on_done=lambda _work: self._room.release(),
            on_fatal=self._fail,
        )
        self._encode.start()
        self._fetch.start()

    def embed(self, works: Sequence[PinWork]) -> None:
        """Finish all of these parsed upserts of one part, each with a code or an error. Blocks.

        Raises:
            FatalError: the breaker: too many bad records in a row; or a broken device.
            PinstreamError: whatever else would stop an embed worker.
        """
        self._look_up(works)
        for work in works:
            if not work.done:
                self._take_room()
                self._fetch.submit(work)
        for _ in range(self._bound):
            self._take_room()
        self._room.release(self._bound)
        self._breaker = self._breaker.after(works)

    def _look_up(self, works: Sequence[PinWork]) -> None:
        """Answer what the cache knows of images that are named by their content."""
        asked = [(work, key) for work in works if (key := work.cache_key) is not None]
        for start in range(0, len(asked), _ASKED_AT_ONCE):
            some = asked[start : start + _ASKED_AT_ONCE]
            for (work, _), code in zip(some, self._cache.lookup([key for _, key in some]), strict=True):
                work.looked_up = True
                if code is not None:
                    work.finish(Outcome.CACHED, code)

    def _take_room(self) -> None:
        while not self._room.acquire(timeout=_LOOK_S):
            if self._failure is not None:
                raise self._failure

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
