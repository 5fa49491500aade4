"""The real workers with a model that needs no torch: the code of an image is a hash of its pixels.

So a worker starts in a second, and an oracle knows every code. Run as `python -m tests.light_worker embed|index MODEL`.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from embedder.decode import decode_image
from embedder.worker import EmbedWorker
from index_sync.worker import IndexWorker
from pinstream.codes import Fingerprint
from pinstream.errors import PinstreamError
from pinstream.events import Box
from pinstream.logs import set_up_logs
from pinstream.settings import Settings, load_settings
from rollout.start_plan import plan_at_start

BITS = 256
SIZE = 16


class HashEncoder:
    """Codes that no two different images share; the same on every machine."""

    bits = BITS
    input_size = SIZE

    def encode(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images_BHWC]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, BITS // 8)


def image_input(image_bytes: bytes, box: Box | None) -> npt.NDArray[np.uint8]:
    """Decodes as the real one does; the images of these tests are SIZE × SIZE already."""
    rgb = decode_image(image_bytes, max_pixels=10_000_000, target_size=SIZE, box=box)
    out = np.zeros((SIZE, SIZE, 3), np.uint8)
    height, width = min(SIZE, rgb.shape[0]), min(SIZE, rgb.shape[1])
    out[:height, :width] = rgb[:height, :width]
    return out


def expected_code(image_bytes: bytes, box: Box | None = None) -> bytes:
    """The code that the worker must publish for this image."""
    return HashEncoder().encode(image_input(image_bytes, box)[np.newaxis])[0].tobytes()


def make_worker(role: str, model: Fingerprint, settings: Settings) -> EmbedWorker | IndexWorker:
    if role == "embed":
        return EmbedWorker(settings, HashEncoder(), image_input, model, plan=plan_at_start(settings, model))
    return IndexWorker(settings, model, BITS, encode_query)


def encode_query(image_bytes: bytes, box: Box | None) -> npt.NDArray[np.uint8]:
    return np.frombuffer(expected_code(image_bytes, box), np.uint8)


class Runs(Protocol):
    def run(self) -> None: ...
    def stop(self) -> None: ...


def run_until_told(make: Callable[[Settings], Runs]) -> int:
    """What a process of ours does: the environment's settings, one part, until SIGTERM; returns the exit status."""
    settings = load_settings()
    set_up_logs(settings)
    try:
        part = make(settings)
        signal.signal(signal.SIGTERM, lambda *_: part.stop())
        part.run()
    except PinstreamError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    return run_until_told(lambda settings: make_worker(sys.argv[1], Fingerprint(sys.argv[2]), settings))


if __name__ == "__main__":
    sys.exit(main())
