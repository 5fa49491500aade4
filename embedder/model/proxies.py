"""Per-task heads whose weights are the proxies: normalized softmax with a temperature (arXiv 1811.12649).

For few classes the loss is pytorch-metric-learning's. For very many, a step compares with a sample of the proxies:
those of the batch's classes and random others, so memory for logits and gradients is bounded by the sample and only
the sampled rows are updated.

Shapes: B images, D dimensions, C classes, K sampled classes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own custom
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss
from torch import Tensor, nn

from pinstream.errors import FatalError

DEFAULT_TEMPERATURE: Final = 0.05


class FullHead(nn.Module):
    """Every image is compared with every proxy."""

    def __init__(self, classes: int, dims: int, temperature: float) -> None:
        super().__init__()
        self.loss = NormalizedSoftmaxLoss(classes, dims, temperature)

    def forward(self, embedding_BD: Tensor, labels_B: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean loss of the batch, in float32 (the library would cast its proxies to a half type otherwise)."""
        del rng
        loss: Tensor = self.loss(embedding_BD.float(), labels_B)
        return loss


class SampledHead(nn.Module):
    """Every image is compared with `sample` proxies, its own among them. Gradients are sparse: K rows."""

    def __init__(self, classes: int, dims: int, temperature: float, sample: int) -> None:
        super().__init__()
        if not 0 < sample < classes:
            raise FatalError(f"proxies_per_step is {sample}, expected 1 to {classes - 1} for {classes} classes")
        self.proxies = nn.Embedding(classes, dims, sparse=True)
        self.temperature = temperature
        self.sample = sample

    def forward(self, embedding_BD: Tensor, labels_B: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean loss of the batch over the sampled proxies; the same `rng` state draws the same sample."""
        sampled_K = sample_classes(labels_B.cpu().numpy(), self.proxies.num_embeddings, self.sample, rng)
        places_B = torch.from_numpy(np.searchsorted(sampled_K, labels_B.cpu().numpy())).to(labels_B.device)
        rows_KD = self.proxies(torch.from_numpy(sampled_K).to(labels_B.device))
        cosines_BK = F.normalize(embedding_BD.float()) @ F.normalize(rows_KD).T
        return F.cross_entropy(cosines_BK / self.temperature, places_B)


def make_head(
    classes: int, dims: int, *, temperature: float = DEFAULT_TEMPERATURE, proxies_per_step: int | None = None
) -> FullHead | SampledHead:
    """`proxies_per_step` None or ≥ `classes`: every proxy in every step."""
    if proxies_per_step is None or proxies_per_step >= classes:
        return FullHead(classes, dims, temperature)
    return SampledHead(classes, dims, temperature, proxies_per_step)


def sample_classes(
    labels_B: npt.NDArray[np.int64], classes: int, sample: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """K different classes in ascending order: all of the batch's, then random ones up to `sample`.

    A batch of more classes than `sample` keeps them all: a class without its proxy could not learn.
    """
    present = np.unique(labels_B)
    missing = sample - len(present)
    if missing <= 0:
        return present
    drawn = rng.choice(classes, size=min(classes, sample), replace=False)
    others = np.setdiff1d(drawn, present, assume_unique=True)
    return np.sort(np.concatenate([present, rng.permutation(others)[:missing]]))
