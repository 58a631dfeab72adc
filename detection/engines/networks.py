"""Backbone and feature pyramid of a detector, built from `sslcore`'s networks so that pretrained ones fit.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017. The pyramid and the frozen batch norm are
torchvision's.
"""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detection.engines.settings import NetworkSettings
from sslcore.errors import ConfigError
from sslcore.nn import Backbone, build_backbone
from sslcore.settings import BackboneSettings

SIZE_DIVISIBLE = 32
"""Images are padded to multiples of this, so that every map halves the one before it exactly."""


class PyramidNetwork(nn.Module):
    """Images to maps of equal depth, each of half the resolution of the one before it.

    `tiny` gives its maps at strides 4, 8 and 16, not the one at stride 2, which alone would cost more than the others
    together; ResNets give C2 to C5. One more anchor size than maps adds a subsampled level on top, as torchvision's and
    detectron2's pyramids have it.

    Args:
        settings: `name`, `width`, `pyramid`, `anchors` (only how many), `norm` and `frozen_stages` are read.

    Attributes:
        strides: pixels of the image that one step in each map spans, finest first.
        pooled: how many of the maps regions are pooled from: all but the subsampled one.

    Raises:
        ConfigError: as many anchor sizes, or frozen stages, as the network cannot have.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        architecture = architecture_of(settings)
        backbone = build_backbone(architecture.name, width=architecture.width)
        first = 1 if settings.name == "tiny" else 0
        self.levels = tuple(range(first, len(backbone.strides)))
        strides = [backbone.strides[level] for level in self.levels]
        self.pooled = len(strides)
        subsampled = _subsampled(settings, strides)
        self.strides = (*strides, 2 * strides[-1]) if subsampled else tuple(strides)
        self.backbone = backbone
        self.pyramid = FeaturePyramidNetwork(
            [backbone.channels[level] for level in self.levels],
            settings.pyramid,
            extra_blocks=LastLevelMaxPool() if subsampled else None,
        )
        _freeze(backbone, settings)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> "OrderedDict[str, Tensor]":
        """(n, 3, h, w) normalised images, sides divisible by 32, to maps (n, c, h / stride, w / stride) by name."""
        maps = self.backbone.feature_maps(images)
        return self.pyramid(OrderedDict((str(level), maps[level]) for level in self.levels))


def architecture_of(settings: NetworkSettings) -> BackboneSettings:
    """The backbone that a detector of these settings has: what pretrained weights must be of."""
    name = settings.name.removesuffix("_fpn").removesuffix("_c4")
    return BackboneSettings(name=name, width=settings.width)  # type: ignore[arg-type]


def _subsampled(settings: NetworkSettings, strides: list[int]) -> bool:
    """Whether there is a level above the backbone's maps."""
    given, levels = len(settings.anchors), len(strides)
    if given not in (levels, levels + 1):
        raise ConfigError(
            f"network.anchors has {given} sizes, but {settings.name} has {levels} levels (strides "
            f"{', '.join(map(str, strides))}), or {levels + 1} with a subsampled one on top: give as many sizes"
        )
    return given == levels + 1


# --- what is not trained -------------------------------------------------------------------------------------------


def _freeze(backbone: Backbone, settings: NetworkSettings) -> None:
    stages = _stages(backbone)
    if settings.frozen_stages > len(stages):
        raise ConfigError(
            f"network.frozen_stages is {settings.frozen_stages}, but {settings.name} has {len(stages)} stages: give at "
            f"most {len(stages)}"
        )
    frozen = tuple(prefix for stage in stages[: settings.frozen_stages] for prefix in stage)
    for name, parameter in backbone.named_parameters():
        if name.startswith(frozen):
            parameter.requires_grad_(False)
    for name, module in list(backbone.named_modules()):
        # Live statistics would go on changing what a frozen stage computes.
        if isinstance(module, nn.BatchNorm2d) and (settings.norm == "frozen" or name.startswith(frozen)):
            backbone.set_submodule(name, _frozen(module))


def _stages(backbone: Backbone) -> list[tuple[str, ...]]:
    """Names that the parts frozen together begin with, first to last: of ResNets the stem and then C2 to C5."""
    if backbone.name == "tiny":
        return [(f"stages.{i}.",) for i in range(len(backbone.strides))]
    return [("conv1", "bn1"), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)]


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    """The same norm with fixed statistics and scales; the weights' names stay."""
    frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    frozen.load_state_dict(norm.state_dict())
    return frozen
