"""Real models that are good or bad in known ways, made from the one that ships; and workers that are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedder.image_input import ImageInput
from embedder.model.artifact import Artifact, NewArtifact, Tensors, compute_fingerprint, write_artifact
from embedder.model.program import load_program
from embedder.torch_encoder import TorchEncoder
from pinstream.events import Box

Bytes = npt.NDArray[np.uint8]


def as_good(tensors: Tensors, number: int) -> Tensors:
    """Another model with the same codes: a power of two changes no sign."""
    return {**tensors, "project.weight": tensors["project.weight"] * np.float32(2**number)}


def random_weights(tensors: Tensors) -> Tensors:
    random = np.random.default_rng(0)
    return {
        name: random.normal(0, array.std() + 1e-3, array.shape).astype(array.dtype) if array.ndim > 1 else array
        for name, array in tensors.items()
    }


def swapped_channels(tensors: Tensors) -> Tensors:
    """A network that was trained on BGR and is fed RGB."""
    return {
        name: np.ascontiguousarray(array[:, ::-1]) if array.ndim == 4 and array.shape[1] == 3 else array
        for name, array in tensors.items()
    }


def half_dead(tensors: Tensors) -> Tensors:
    """The second half of the bits never fires."""
    weights = tensors["project.weight"].copy()
    weights[len(weights) // 2 :] = 0
    return {**tensors, "project.weight": weights}


def derive(
    base: Artifact, path: Path, change: Callable[[Tensors], Tensors], *, golden_of_base: bool = False
) -> Artifact:
    """The base with other weights.

    Args:
        golden_of_base: the golden codes are those from before the change, as when an export goes wrong after training;
            else they are the changed model's own, and nothing of the artifact shows that it is bad.
    """
    tensors = change(base.tensors)
    manifest = base.manifest
    encoder = TorchEncoder.of_program(
        load_program(base.program, tensors),
        bits=base.bits,
        preprocessing=manifest.preprocessing,
        fingerprint=compute_fingerprint(base.bits, manifest.preprocessing, tensors, base.program),
        device="cpu",
        max_batch_size=len(base.golden_images),
    )
    new = NewArtifact(
        name=path.name,
        bits=base.bits,
        preprocessing=manifest.preprocessing,
        architecture=manifest.architecture,
        exported=manifest.exported,
        training={},
        metrics={},
        tensors=tensors,
        program=base.program,
        golden_images=base.golden_images,
        golden_codes=base.golden_codes if golden_of_base else encoder.encode(base.golden_images),
    )
    return write_artifact(path, new)


class OtherBits:
    """An embed worker's encoder whose codes are not those of its model."""

    def __init__(self, encoder: TorchEncoder, bits: int, change: Callable[[Bytes], Bytes]) -> None:
        self.bits = bits
        self.input_size = encoder.input_size
        self._encoder = encoder
        self._change = change

    def encode(self, images_BHWC: Bytes) -> Bytes:
        return np.ascontiguousarray(self._change(self._encoder.encode(images_BHWC)))


class SwappedInput:
    """An embed worker's image input that decodes BGR where the model expects RGB."""

    def __init__(self, image_input: ImageInput) -> None:
        self._image_input = image_input

    def __call__(self, image_bytes: bytes, box: Box | None) -> Bytes:
        return np.ascontiguousarray(self._image_input(image_bytes, box)[:, :, ::-1])


def other_bit_order(code_BW: Bytes) -> Bytes:
    """Most significant bit first, as numpy packs unless it is told otherwise."""
    return np.packbits(np.unpackbits(code_BW, axis=1, bitorder="little"), axis=1, bitorder="big")


def first_half(code_BW: Bytes) -> Bytes:
    return code_BW[:, : code_BW.shape[1] // 2]
