"""The encoder reproduces the golden codes, whatever company an image comes in."""

import numpy as np
import pytest

from embedder.model.artifact import default_artifact_path, load_artifact
from embedder.torch_encoder import TorchEncoder, choose_device
from pinstream.errors import FatalError

ARTIFACT = load_artifact(default_artifact_path())


@pytest.fixture(scope="module")
def encoder() -> TorchEncoder:
    return TorchEncoder(ARTIFACT, device="cpu", max_batch_size=70)


def test_golden_inputs_give_golden_codes(encoder: TorchEncoder) -> None:
    assert encoder.bits == ARTIFACT.bits
    assert encoder.fingerprint == ARTIFACT.fingerprint
    codes = encoder.encode(ARTIFACT.golden_images)
    if ARTIFACT.manifest.exported.device.endswith("AVX2"):  # elsewhere kernels may round otherwise: see `verify`
        assert np.bitwise_count(codes ^ ARTIFACT.golden_codes).sum() <= codes.size * 8 // 1000
    assert len(np.unique(codes, axis=0)) == len(codes)


def test_a_code_does_not_depend_on_its_batch(encoder: TorchEncoder) -> None:
    rng = np.random.default_rng(0)
    size = encoder.input_size
    images = rng.integers(0, 256, (67, size, size, 3), dtype=np.uint8)
    together = encoder.embed(images)  # to the last bit of the floats: codes alone would hide nearly every difference
    for batch_size in (1, 2, 3, 7, 8, 13, 31, 32, 33):
        parts = [encoder.embed(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        assert np.array_equal(np.concatenate(parts), together), batch_size
    order = rng.permutation(len(images))
    assert np.array_equal(encoder.embed(images[order]), together[order])


def test_codes_are_the_signs_of_the_embeddings(encoder: TorchEncoder) -> None:
    signs = encoder.embed(ARTIFACT.golden_images) > 0
    packed = np.packbits(signs, axis=1, bitorder="little")
    assert np.array_equal(packed, encoder.encode(ARTIFACT.golden_images))


def test_bf16_is_close() -> None:
    codes = TorchEncoder(ARTIFACT, device="cpu", precision="bf16", max_batch_size=16).encode(ARTIFACT.golden_images)
    assert np.bitwise_count(codes ^ ARTIFACT.golden_codes).sum() <= 0.005 * codes.size * 8


@pytest.mark.parametrize("shape", [(1, 95, 96, 3), (1, 96, 96, 4), (71, 96, 96, 3)])
def test_wrong_batches_are_refused(encoder: TorchEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        encoder.encode(np.zeros(shape, np.uint8))


def test_no_images_give_no_codes(encoder: TorchEncoder) -> None:
    size = encoder.input_size
    assert encoder.encode(np.zeros((0, size, size, 3), np.uint8)).shape == (0, encoder.bits // 8)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(FatalError, match="device is"):
        choose_device(device)
