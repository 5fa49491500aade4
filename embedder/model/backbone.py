"""Backbones: images [B, 3, S, S] → feature maps [B, F, h, w] or features [B, F]. Ours, or any of timm or torchvision.

Shapes: B images, S pixels, C channels, F features.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from embedder.model.localizer import Localizer, clip, crop
from pinstream.errors import FatalError

PINNET: Final = "pinnet"
_STEM_CHANNELS: Final = 24
_STAGE_CHANNELS: Final = (32, 64, 128, 256)
_LOCALIZER_CHANNELS: Final = (16, 32, 64, 96)
_CROP_SHARE: Final = 0.6
"""Pixels of the crop that is embedded, as a share of the picture's."""
_JITTER: Final = 0.06
"""How far an edge of the crop is moved in training, as a share of the crop."""


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions around a shortcut; the first one strides."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1: nn.Module = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        self.shortcut_norm: nn.Module = nn.BatchNorm2d(channels_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = torch.relu(self.norm1(self.conv1(x_BCHW)))
        y_BCHW = self.norm2(self.conv2(y_BCHW))
        return torch.relu(y_BCHW + self.shortcut_norm(self.shortcut(x_BCHW)))

    def fuse(self) -> None:
        self.conv1, self.norm1 = _fold(self.conv1, self.norm1)
        self.conv2, self.norm2 = _fold(self.conv2, self.norm2)
        self.shortcut, self.shortcut_norm = _fold(self.shortcut, self.shortcut_norm)


class PinNet(nn.Module):
    """The default: looks for the subject, then embeds it with a small residual network whose widths suit a CPU. Once it
    is trained, it looks at the picture and its mirror image, and pools over both: a photo of a thing has no side.

    Pooled features leave a ReLU and share a large mean; `centre` takes it away per channel, so that from the first
    step images differ in direction and about half of them are above zero in each dimension.
    """

    feature_dims: Final = _STAGE_CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        look = nn.Sequential(*_stem(_LOCALIZER_CHANNELS[0]), *_residual_blocks(_LOCALIZER_CHANNELS, (2, 2, 1)))
        self.localizer = Localizer(look, _LOCALIZER_CHANNELS[-1])
        self.stages = nn.Sequential(
            *_stem(_STEM_CHANNELS), *_residual_blocks((_STEM_CHANNELS, *_STAGE_CHANNELS), (2, 2, 2, 2))
        )
        self.centre = nn.BatchNorm1d(self.feature_dims, affine=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.localizer.reset()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.embed_and_locate(x_BCHW)[0]

    def embed_and_locate(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F] and the localizer's boxes [B, L, 4]. No gradient goes from the features to the boxes."""
        box_BL4 = self.localizer(x_BCHW)
        subject_B4 = box_BL4[:, -1].detach()
        if self.training:
            subject_B4 = _jitter(subject_B4)
        size = int(x_BCHW.shape[-1] * _CROP_SHARE)
        crop_BCgg = crop(x_BCHW, clip(subject_B4), size)
        pooled_BF = self.stages(crop_BCgg).mean(dim=(2, 3))
        if not self.training:
            pooled_BF = (pooled_BF + self.stages(crop_BCgg.flip(3)).mean(dim=(2, 3))) / 2
        features_BF: Tensor = self.centre(pooled_BF)
        return features_BF, box_BL4

    def fuse(self) -> None:
        """Fold every batch norm into its convolution. For inference only; not reversible."""
        for layers in (self.localizer.stages, self.stages):
            if isinstance(layers, nn.Sequential):
                layers[0], layers[1] = _fold(layers[0], layers[1])
                for block in layers:
                    if isinstance(block, ResidualBlock):
                        block.fuse()


def _stem(channels: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()


def _residual_blocks(channels: tuple[int, ...], strides: tuple[int, ...]) -> list[ResidualBlock]:
    return [ResidualBlock(channels[i], channels[i + 1], stride) for i, stride in enumerate(strides)]


def _jitter(box_B4: Tensor) -> Tensor:
    side_B2 = (box_B4[:, 2:] - box_B4[:, :2]).abs()
    return box_B4 + (torch.rand_like(box_B4) * 2 - 1) * _JITTER * side_B2.repeat(1, 2)


def _fold(conv: nn.Module, norm: nn.Module) -> tuple[Any, nn.Module]:
    """The convolution with its batch norm in it, and what stands in the norm's place."""
    if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
        return conv, norm
    return fuse_conv_bn_eval(conv, norm), nn.Identity()


def create_backbone(name: str, *, pretrained: bool = False, input_size: int) -> nn.Module:
    """`pinnet`, `timm:NAME` or `torchvision:NAME` → a network without its classifier.

    Args:
        pretrained: fetch the library's weights (needs a network); refused for `pinnet`.

    Raises:
        FatalError: the name is unknown, its library is not installed, or weights can't be had.
    """
    if name == PINNET and not pretrained:
        return PinNet()
    library, _, model = name.partition(":")
    try:
        if library == "timm" and model:
            return _timm(model, pretrained, input_size)
        if library == "torchvision" and model:
            return _torchvision(model, pretrained)
    except ImportError as error:
        raise FatalError(f"backbone {name!r} needs {library}: install pinstream[train]") from error
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise FatalError(f"backbone {name!r} can't be made: {error}") from error
    raise FatalError(f"backbone is {name!r}, expected 'pinnet', 'timm:NAME' or 'torchvision:NAME'")


def _timm(model: str, pretrained: bool, input_size: int) -> nn.Module:
    import timm  # noqa: PLC0415  # an extra that serving does without

    sized: dict[str, Any] = {"img_size": input_size} if "vit" in model or "swin" in model else {}
    network: nn.Module = timm.create_model(model, pretrained=pretrained, num_classes=0, **sized)
    return network


def _torchvision(model: str, pretrained: bool) -> nn.Module:
    import torchvision  # noqa: PLC0415  # an extra that serving does without

    network: nn.Module = torchvision.models.get_model(model, weights="DEFAULT" if pretrained else None)
    for attribute in ("fc", "classifier", "heads", "head"):
        if isinstance(getattr(network, attribute, None), nn.Module):
            setattr(network, attribute, nn.Identity())
            return network
    raise FatalError(f"backbone 'torchvision:{model}' has no classifier that we know, expected fc, classifier or head")
