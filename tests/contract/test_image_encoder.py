"""What every image encoder promises the embed worker: the real one and the light one of the tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from embedder.encode_stage import ImageEncoder
from embedder.model.artifact import default_artifact_path, load_artifact
from embedder.torch_encoder import TorchEncoder
from pinstream.codes import check_bits
from tests.light_worker import HashEncoder

MAX_BATCH = 16


@pytest.fixture(scope="module", params=["torch", "light"])
def encoder(request: pytest.FixtureRequest) -> ImageEncoder:
    if request.param == "light":
        return HashEncoder()
    return TorchEncoder(load_artifact(default_artifact_path()), device="cpu", max_batch_size=MAX_BATCH)


def images(encoder: ImageEncoder, count: int) -> npt.NDArray[np.uint8]:
    size = encoder.input_size
    return np.random.default_rng(5).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_codes_have_the_promised_shape(encoder: ImageEncoder) -> None:
    check_bits(encoder.bits)
    codes = encoder.encode(images(encoder, 3))
    assert codes.dtype == np.uint8
    assert codes.shape == (3, encoder.bits // 8)


def test_the_same_image_has_the_same_code_whatever_comes_with_it(encoder: ImageEncoder) -> None:
    batch = images(encoder, MAX_BATCH)
    together = encoder.encode(batch)
    for size in (1, 2, 5, 9, MAX_BATCH):
        assert np.array_equal(encoder.encode(batch[:size]), together[:size])
    assert np.array_equal(encoder.encode(batch[::-1].copy())[::-1], together)


def test_different_images_have_different_codes(encoder: ImageEncoder) -> None:
    codes = encoder.encode(images(encoder, MAX_BATCH))
    assert len({code.tobytes() for code in codes}) == MAX_BATCH


def test_the_input_is_left_alone(encoder: ImageEncoder) -> None:
    batch = images(encoder, 4)
    before = batch.copy()
    encoder.encode(batch)
    assert np.array_equal(batch, before)
