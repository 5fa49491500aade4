"""The last layer is whitened within classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from embedder.model.whitening import whitened_projection
from pinstream.errors import FatalError

FEATURES, BITS, CLASSES = 12, 64, 400


def seen(classes: int, each: int, seed: int) -> tuple[Tensor, Tensor]:
    """Classes that differ evenly in every direction; images of one differ ten times as much in the first three."""
    generator = torch.Generator().manual_seed(seed)
    centre_CF = torch.randn(classes, FEATURES, generator=generator)
    label_N = torch.arange(classes).repeat_interleave(each)
    spread_F = torch.tensor([1.5] * 3 + [0.15] * (FEATURES - 3))
    return centre_CF[label_N] + torch.randn(len(label_N), FEATURES, generator=generator) * spread_F, label_N


def precision_at_1(weight_DF: Tensor, features_NF: Tensor, label_N: Tensor) -> float:
    embedded_ND = normalize(features_NF @ weight_DF.T)
    cosine_NN = embedded_ND @ embedded_ND.T
    cosine_NN.fill_diagonal_(-2)
    return float((label_N[cosine_NN.argmax(dim=1)] == label_N).float().mean())


@pytest.fixture
def weight_DF() -> Tensor:  # noqa: N802 (a matrix, as everywhere)
    return torch.randn(BITS, FEATURES, generator=torch.Generator().manual_seed(1))


def test_classes_that_were_not_seen_are_told_apart_better(weight_DF: Tensor) -> None:
    whitened_DF = whitened_projection(weight_DF, *seen(CLASSES, 4, seed=2))
    assert whitened_DF.shape == weight_DF.shape
    assert whitened_DF.dtype == weight_DF.dtype
    others = seen(CLASSES, 4, seed=3)
    assert precision_at_1(whitened_DF, *others) > precision_at_1(weight_DF, *others) + 0.1


def test_classes_that_spread_evenly_change_nothing_but_lengths(weight_DF: Tensor) -> None:
    orthonormal_DF = torch.linalg.qr(weight_DF).Q
    features_NF = torch.randn(40_000, FEATURES, generator=torch.Generator().manual_seed(4))
    whitened_DF = whitened_projection(orthonormal_DF, features_NF, torch.arange(40_000) // 20_000)
    cosine_D = torch.nn.functional.cosine_similarity(whitened_DF, orthonormal_DF, dim=1)
    assert (cosine_D > 0.99).all()


def test_fewer_bits_than_features() -> None:
    weight_DF = torch.randn(8, FEATURES, generator=torch.Generator().manual_seed(5))
    whitened_DF = whitened_projection(weight_DF, *seen(50, 4, seed=6))
    assert whitened_DF.isfinite().all()
    assert whitened_DF.shape == weight_DF.shape


def test_classes_of_one_image_say_nothing(weight_DF: Tensor) -> None:
    with pytest.raises(FatalError, match="5 images of as many classes"):
        whitened_projection(weight_DF, torch.randn(5, FEATURES), torch.arange(5))
