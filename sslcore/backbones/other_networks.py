"""Networks that `build_backbone` does not build: torchvision's, and none at all."""

from collections.abc import Mapping
from typing import Any

import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from sslcore.errors import CheckpointError


class Pixels(nn.Module):
    """The pixels themselves as features: what every backbone must beat."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.name = "pixels"
        self.dim = channels * size * size

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return x.flatten(1)


class TorchvisionBackbone(nn.Module):
    """A classification network of torchvision without its last linear layer.

    Args:
        name: as in `torchvision.models.get_model`.
        in_channels: must be 3.

    Raises:
        CheckpointError: the network has no linear layer at its end, or the images do not have three channels.
    """

    def __init__(self, name: str, in_channels: int = 3) -> None:
        super().__init__()
        if in_channels != 3:
            raise CheckpointError(f"torchvision's {name} takes images of 3 channels, not {in_channels}")
        network = torchvision.models.get_model(name, weights=None)
        ends = [
            (path, layer)
            for path, layer in network.named_modules()
            if isinstance(layer, nn.Linear) and path.split(".")[0] in ("fc", "classifier", "head", "heads")
        ]
        if not ends:
            raise CheckpointError(
                f"torchvision's {name} does not end in a linear layer, so it is not clear what its features are"
            )
        path, layer = ends[-1]
        network.set_submodule(path, nn.Identity())
        self.network = network
        self.name = name
        self.dim = layer.in_features

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        return self.network(x)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Under torchvision's own names."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Under torchvision's own names."""
        return self.network.load_state_dict(state_dict, strict, assign)
