"""The same searches by an untrained network of the model's shape: what the training is worth.

Exact, in this process and not through the pipeline: nobody serves such a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import faiss
import numpy as np
import numpy.typing as npt
import torch

from embedder.image_input import ImageInput
from embedder.model.artifact import Artifact
from embedder.model.unified import create_unified
from embedder.torch_encoder import TorchEncoder
from pinstream.cli.demo.searches import APPLICATIONS
from pinstream.events import Box
from producers.generated_pins import GeneratedPin
from producers.world import World

_BATCH: Final = 64
_MAX_PIXELS: Final = 4_000_000


def untrained_p_at_1(
    artifact: Artifact, world: World, pins: Mapping[int, GeneratedPin], images_dir: Path, count: int
) -> dict[str, float]:
    """Application → P@1 among the same Pins, asked the same `count` queries. Blocks for ~3 ms a Pin."""
    torch.manual_seed(0)
    network = create_unified(
        artifact.manifest.architecture.backbone, bits=artifact.bits, input_size=artifact.input_size
    )
    network.eval()
    network.fuse()
    encoder = TorchEncoder.of_program(
        network,
        bits=artifact.bits,
        preprocessing=artifact.manifest.preprocessing,
        fingerprint=artifact.fingerprint,
        device="cpu",
        max_batch_size=_BATCH,
    )
    image_input = ImageInput(artifact.manifest.preprocessing, _MAX_PIXELS)

    def embed(images: list[tuple[bytes, Box | None]]) -> npt.NDArray[np.uint8]:
        batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        return np.concatenate([encoder.encode(np.stack([image_input(*image) for image in batch])) for batch in batches])

    code_NW = embed([((images_dir / f"{pin_id}-{pin.view}.jpg").read_bytes(), None) for pin_id, pin in pins.items()])
    found = {}
    for application in APPLICATIONS:
        queries = list(application.queries(world, count))
        rows = [row for row, pin in enumerate(pins.values()) if pin.domain in application.domains]
        products = np.array([pin.product for pin in pins.values()])[rows]
        code_QW = embed([(query.jpeg, query.box) for query in queries])
        first_Q = faiss.knn_hamming(code_QW, np.ascontiguousarray(code_NW[rows]), 1)[1][:, 0]
        found[application.name] = float(np.mean(products[first_Q] == [query.product for query in queries]))
    return found
