"""Where a task's training images come from: pictures in the cache, or WebDataset shards as they stream by.

Both give the whole batch of a step, the same in every process and after every resume.
"""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import webdataset
from PIL import Image

from embedder.model.pictures import ITEM_DTYPE, Pictures, Pixels, Source
from embedder.model.readers import WHOLE, decode_picture
from embedder.model.sampling import BalancedSampler
from pinstream.errors import FatalError

SHUFFLE_BUFFER: Final = 1000
"""Samples of a stream among which the next one is drawn."""
_IMAGE_KEYS: Final = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a batch, before augmentation."""

    picture: Pixels
    item: np.void


class TaskSource(Protocol):
    """Batches by step. One thread at a time."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> int: ...
    def batch(self, step: int, rows: Sequence[int]) -> list[Sample]:
        """These rows of the step's batch. Blocks while it reads."""


class PictureSource:
    """Class-balanced batches from pictures in the cache."""

    def __init__(
        self, name: str, pictures: Pictures, *, batch_size: int, per_class: int, seed: int, number: int
    ) -> None:
        self.name = name
        self.classes = pictures.classes
        self._pictures = pictures
        labels_N = pictures.items["label"].astype(np.int64)
        self._sampler = BalancedSampler(labels_N, batch_size, per_class, seed, number)

    def batch(self, step: int, rows: Sequence[int]) -> list[Sample]:
        items = self._pictures.items[self._sampler.batch(step)[list(rows)]]
        return [Sample(self._pictures.pixels_PRR3[item["picture"]], item) for item in items]


class ShardSource:
    """Batches from a stream of shards, shuffled within a buffer and repeated for ever. Not class-balanced.

    After a resume the stream is read again up to its place, without decoding.
    """

    def __init__(self, name: str, shards: str, classes: int, *, batch_size: int, side: int, seed: int) -> None:
        self.name = name
        self.classes = classes
        self._shards = shards
        self._batch_size = batch_size
        self._side = side
        self._seed = seed
        self._next_step = 0
        self._stream: Iterator[dict[str, Any]] | None = None

    def batch(self, step: int, rows: Sequence[int]) -> list[Sample]:
        """Raises FatalError if a shard is missing or a sample has no image or no class."""
        if self._stream is None or step < self._next_step:
            self._stream, self._next_step = self._open(), 0
        raw: list[dict[str, Any]] = []
        while self._next_step <= step:
            raw = [next(self._stream) for _ in range(self._batch_size)]
            self._next_step += 1
        return [self._sample(raw[row]) for row in rows]

    def _open(self) -> Iterator[dict[str, Any]]:
        epoch = 0
        while True:
            dataset = webdataset.WebDataset(self._shards, shardshuffle=False, handler=webdataset.reraise_exception)
            shuffled = dataset.shuffle(SHUFFLE_BUFFER, rng=random.Random(f"{self._seed}/{epoch}"))
            count = 0
            try:
                for sample in shuffled:
                    count += 1
                    yield sample
            except (OSError, tarfile.TarError) as error:
                raise FatalError(f"shards {self._shards!r} can't be read: {error}") from error
            if not count:
                raise FatalError(f"shards {self._shards!r} hold no samples, expected tar files of images and classes")
            epoch += 1

    def _sample(self, raw: dict[str, Any]) -> Sample:
        key = str(raw.get("__key__", "?"))
        encoded = next((raw[suffix] for suffix in _IMAGE_KEYS if suffix in raw), None)
        try:
            label = int(raw["cls"])
        except (KeyError, ValueError) as error:
            raise FatalError(f"sample {key!r} has no number in .cls, expected its class") from error
        if encoded is None or not 0 <= label < self.classes:
            raise FatalError(
                f"sample {key!r} has class {label} and {'no' if encoded is None else 'an'} image, expected an image "
                f"and a class below {self.classes}"
            )
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                picture = decode_picture(image, self._side)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise FatalError(f"sample {key!r} is not an image that can be read: {error}") from error
        item = np.array([(0, label, int(Source.PRODUCT), WHOLE)], ITEM_DTYPE)[0]
        return Sample(picture, item)
