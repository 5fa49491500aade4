"""Backbones: images [B, 3, S, S] → feature maps [B, F, h, w] or features [B, F]. Ours, or any of timm or torchvision.

Shapes: B images, S pixels, C channels, F features.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pinstream.errors import FatalError

PINNET: Final = "pinnet"
_STEM_CHANNELS: Final = 24
_STAGE_CHANNELS: Final = (32, 64, 128, 256)


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
    """The default: a small residual network whose widths suit a CPU (~800 images/s on one core at 96 pixels).

    Pooled features leave a ReLU and share a large mean; `centre` takes it away per channel, so that from the first
    step images differ in direction and about half of them are above zero in each dimension.
    """

    feature_dims: Final = _STAGE_CHANNELS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM_CHANNELS, 3, 2, 1, bias=False)
        self.stem_norm: nn.Module = nn.BatchNorm2d(_STEM_CHANNELS)
        channels = (_STEM_CHANNELS, *_STAGE_CHANNELS)
        self.stages = nn.Sequential(*(ResidualBlock(channels[i], channels[i + 1], 2) for i in range(4)))
        self.centre = nn.BatchNorm1d(self.feature_dims, affine=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features_BFhw = self.stages(torch.relu(self.stem_norm(self.stem(x_BCHW))))
        features_BF: Tensor = self.centre(features_BFhw.mean(dim=(2, 3)))
        return features_BF

    def fuse(self) -> None:
        """Fold every batch norm into its convolution. For inference only; not reversible."""
        self.stem, self.stem_norm = _fold(self.stem, self.stem_norm)
        for stage in self.stages:
            if isinstance(stage, ResidualBlock):
                stage.fuse()


def _fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[nn.Conv2d, nn.Module]:
    """The convolution with its batch norm in it, and what stands in the norm's place."""
    if not isinstance(norm, nn.BatchNorm2d):
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
