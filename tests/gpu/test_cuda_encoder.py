"""The encoder on a CUDA device against the codes of the CPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedder.model.artifact import default_artifact_path, load_artifact
from embedder.torch_encoder import TorchEncoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MAX_DIFFERING_SHARE = 0.005


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_codes_are_those_of_the_cpu_within_the_bound(precision: str) -> None:
    artifact = load_artifact(default_artifact_path())
    encoder = TorchEncoder(artifact, device="cuda", precision=precision, max_batch_size=64)  # type: ignore[arg-type]
    codes = encoder.encode(artifact.golden_images)
    differing = np.bitwise_count(codes ^ artifact.golden_codes).sum() / (8 * codes.size)
    assert differing <= MAX_DIFFERING_SHARE


def test_a_code_does_not_depend_on_its_batch() -> None:
    artifact = load_artifact(default_artifact_path())
    encoder = TorchEncoder(artifact, device="cuda", max_batch_size=64)
    alone = [encoder.encode(image[np.newaxis])[0] for image in artifact.golden_images]
    assert np.array_equal(encoder.encode(artifact.golden_images), np.stack(alone))
