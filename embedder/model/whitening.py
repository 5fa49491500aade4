"""Within-class whitening of the last layer: directions in which images of one class differ count less.

What training has not seen differs most where seen classes already differ within themselves: light, surroundings, pose.
The projection is multiplied with the inverse square root of the classes' mean covariance, so it stays one linear layer
without a bias ("learned whitening", arXiv 1711.02512, in closed form). Pure; deterministic on a CPU.

Shapes: N images, F features, D bits.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from pinstream.errors import FatalError

SHRINKAGE: Final = 0.3
"""Share of the mean variance that is added to every direction: the covariance of few images is uncertain."""
_TINY: Final = 1e-9
"""Relative to the largest: an eigenvalue below it is none."""


def whitened_projection(weight_DF: Tensor, features_NF: Tensor, labels_N: Tensor) -> Tensor:
    """The projection that takes the place of `weight_DF`, of its shape and type. Lengths of embeddings change.

    Args:
        features_NF: what the projection is given for images of the training set.
        labels_N: their classes.

    Raises:
        FatalError: no class has two images.
    """
    weight, features = weight_DF.double(), features_NF.double()
    root_FF = _power(weight.T @ weight, 0.5)
    embedded_NF = torch.nn.functional.normalize(features @ root_FF)
    classes, label_N, count_C = torch.unique(labels_N, return_inverse=True, return_counts=True)
    if len(classes) == len(label_N):
        raise FatalError(f"whitening saw {len(label_N)} images of as many classes, expected some of the same one")
    mean_CF = torch.zeros(len(classes), embedded_NF.shape[1], dtype=torch.double)
    mean_CF.index_add_(0, label_N, embedded_NF)
    apart_NF = embedded_NF - (mean_CF / count_C[:, None])[label_N]
    within_FF = apart_NF.T @ apart_NF / (len(label_N) - len(classes))
    within_FF += SHRINKAGE * within_FF.diagonal().mean() * torch.eye(len(within_FF), dtype=torch.double)
    # weight · root⁻¹ has orthonormal columns: the directions whose signs are the bits stay the trained ones.
    projected_DF = weight @ _power(weight.T @ weight, -0.5) @ _power(within_FF, -0.5) @ root_FF
    whitened_DF: Tensor = (projected_DF * (weight.norm() / projected_DF.norm())).to(weight_DF.dtype)
    return whitened_DF


def _power(symmetric_FF: Tensor, exponent: float) -> Tensor:
    """Of a positive semidefinite matrix; directions without an extent stay without one."""
    value_F, vector_FF = torch.linalg.eigh(symmetric_FF)
    is_there_F = value_F > _TINY * value_F.max()
    power_F = torch.where(is_there_F, value_F.clamp(min=torch.finfo(value_F.dtype).tiny) ** exponent, 0.0)
    raised_FF: Tensor = (vector_FF * power_F) @ vector_FF.T
    return raised_FF
