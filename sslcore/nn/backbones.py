"""Networks whose features are wanted, behind one small interface."""

from abc import abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

Stem = Literal["imagenet", "small"]
_RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


class Backbone(nn.Module):
    """A network from images to feature vectors.

    Attributes:
        name: what `build_backbone` calls it.
        dim: length of a feature vector, d.
        channels: channels of each map of `feature_maps`.
        strides: pixels of the image that one step in each map spans.
    """

    name: str
    dim: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """(n, c, h, w) images to (n, d) features."""

    @abstractmethod
    def feature_maps(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        """(n, c, h, w) images to the maps after each stage, finest first; for ResNets these are C2 to C5."""


def build_backbone(
    name: str,
    *,
    stem: Stem = "imagenet",
    width: int = 32,
    layers: int = 4,
    features: int = 50,
    in_channels: int = 3,
    size: int = 84,
) -> Backbone:
    """A backbone with random weights.

    Args:
        name: `"resnet18"`, `"resnet34"`, `"resnet50"`, `"tiny"` or `"pixel_encoder"`.
        stem: of ResNets: `"imagenet"` (7x7 convolution with stride 2, max-pool), or `"small"` (3x3 with stride 1, no
            pooling) for images of up to about 64 pixels.
        width: of `tiny` and `pixel_encoder`: channels of the first convolution.
        layers, features: of `pixel_encoder`: its convolutions, and the length of a feature vector.
        in_channels: channels of an image.
        size: of `pixel_encoder`: side of the images, which its last layer is made for. The others take any size.

    Raises:
        ValueError: the name or the stem is not one of these.
    """
    from sslcore.nn.pixel_encoder import PixelEncoder  # it is a Backbone itself

    if stem not in ("imagenet", "small"):
        raise ValueError(f'stem must be "imagenet" or "small", not {stem!r}')
    if name in _RESNETS:
        return ResNet(name, stem=stem, in_channels=in_channels)
    if name == "tiny":
        return TinyNet(width=width, in_channels=in_channels)
    if name == "pixel_encoder":
        return PixelEncoder(in_channels=in_channels, feature_dim=features, layers=layers, width=width, size=size)
    raise ValueError(f"there is no backbone {name!r}: choose one of {', '.join([*_RESNETS, 'tiny', 'pixel_encoder'])}")


class ResNet(TorchvisionResNet, Backbone):
    """torchvision's ResNet without its classifier; weights have torchvision's names.

    Args:
        name: `"resnet18"`, `"resnet34"` or `"resnet50"`.
        stem, in_channels: see `build_backbone`.
    """

    strides = (4, 8, 16, 32)
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module
    avgpool: nn.Module

    def __init__(self, name: str, *, stem: Stem = "imagenet", in_channels: int = 3) -> None:
        block, layers = _RESNETS[name]
        super().__init__(block, layers, num_classes=1)
        self.name = name
        self.channels = tuple(width * block.expansion for width in (64, 128, 256, 512))
        self.dim = self.channels[-1]
        del self.fc
        if stem == "small":
            self.conv1 = _resnet_conv(in_channels, kernel=3, stride=1)
            self.maxpool = nn.Identity()
            self.strides = (1, 2, 4, 8)
        elif in_channels != 3:
            self.conv1 = _resnet_conv(in_channels, kernel=7, stride=2)

    def feature_maps(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return self.avgpool(self.feature_maps(x)[-1]).flatten(1)


class TinyNet(Backbone):
    """A small residual network for training on a CPU: 149 000 weights at width 32.

    Four stages of a 3x3 convolution with stride 2 and batch norm, of widths w, w, 2w and 4w; after the second and the
    third stage a residual block of one more convolution. Features are the mean over positions, d = 4w.

    Args:
        width: channels of the first stage, w.
        in_channels: channels of an image.
    """

    name = "tiny"
    strides = (2, 4, 8, 16)

    def __init__(self, width: int = 32, in_channels: int = 3) -> None:
        super().__init__()
        self.channels = (width, width, 2 * width, 4 * width)
        self.dim = self.channels[-1]
        stages = []
        for i, (before, after) in enumerate(zip((in_channels, *self.channels), self.channels)):
            stage: list[nn.Module] = [*_conv_norm(before, after, stride=2), nn.ReLU(inplace=True)]
            if i in (1, 2):
                stage.append(_Residual(after))
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)

    def feature_maps(self, x: Float[Tensor, "n c h w"]) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return self.feature_maps(x)[-1].mean(dim=(2, 3))


class _Residual(nn.Module):
    """relu(x + norm(conv(x)))"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_conv_norm(width, width, stride=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def _conv_norm(before: int, after: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv, nn.BatchNorm2d(after)


def _resnet_conv(in_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    return conv
