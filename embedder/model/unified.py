"""The unified embedding: backbone → pooling → LayerNorm without affine → linear without bias if dimensions differ.

A bit of a code is `x > 0`. After arXiv 1811.12649, whose code binarizes the same way.

Shapes: B images, S pixels, F features of the backbone, D = bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedder.model.backbone import PinNet, create_backbone
from pinstream.codes import check_bits


class UnifiedEmbedding(nn.Module):
    """Images float32 [B, 3, S, S], normalized → embeddings [B, D], not L2-normalized (the sign needs no length)."""

    def __init__(self, backbone: nn.Module, bits: int, input_size: int) -> None:
        """Raises FatalError if `bits` can't be a code's length. Runs the backbone once, to see its width."""
        super().__init__()
        check_bits(bits)
        self.backbone = backbone
        self.bits = bits
        self.input_size = input_size
        self.feature_dims = _feature_dims(backbone, input_size)
        self.norm = nn.LayerNorm(self.feature_dims, elementwise_affine=False)
        self.project: nn.Module = nn.Identity()
        if self.feature_dims != bits:
            self.project = nn.Linear(self.feature_dims, bits, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        embedding_BD: Tensor = self.embed_and_locate(x_BCHW)[0]
        return embedding_BD

    def embed_and_locate(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `forward`, and the boxes [B, L, 4] of a backbone with a localizer, the last ones those it embeds."""
        features_BF, box_BL4 = self._features(x_BCHW)
        return self.project(features_BF), box_BL4

    def features(self, x_BCHW: Tensor) -> Tensor:
        """[B, F], normalized: what is projected."""
        return self._features(x_BCHW)[0]

    def _features(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        box_BL4: Tensor | None = None
        if isinstance(self.backbone, PinNet):
            features_BF, box_BL4 = self.backbone.embed_and_locate(x_BCHW)
        else:
            features_BF = _pool(self.backbone(x_BCHW))
        return self.norm(features_BF), box_BL4

    def fuse(self) -> None:
        """Fold what folds, for inference."""
        if isinstance(self.backbone, PinNet):
            self.backbone.fuse()


def create_unified(backbone: str, *, bits: int, input_size: int, pretrained: bool = False) -> UnifiedEmbedding:
    """The network by its backbone's name, weights drawn from torch's generator unless `pretrained`.

    Raises:
        FatalError: unknown backbone, or impossible `bits`.
    """
    return UnifiedEmbedding(create_backbone(backbone, pretrained=pretrained, input_size=input_size), bits, input_size)


def _pool(features: Tensor) -> Tensor:
    """[B, F, h, w] → mean over h and w; [B, F] as it is."""
    return features.mean(dim=(2, 3)) if features.ndim == 4 else features


def _feature_dims(backbone: nn.Module, input_size: int) -> int:
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        dims = _pool(backbone(torch.zeros(1, 3, input_size, input_size))).shape[1]
    backbone.train(training)
    return int(dims)
