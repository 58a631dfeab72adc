"""The encoder of agents that act from pixels.

Laskin et al., "CURL: Contrastive Unsupervised Representations for Reinforcement Learning", ICML 2020, in the form of
its published code: layer norm and no tanh after the last layer, where the paper's pseudo-code has one.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sslcore.nn.backbones import Backbone


class PixelEncoder(Backbone):
    """Four 3x3 convolutions without padding, the first with stride 2, then one linear layer and layer norm.

    Initialised as in CURL: orthogonal linear layer, delta-orthogonal convolutions (only the centre tap is not zero).

    Args:
        in_channels: channels of a frame stack; 9 for three RGB frames.
        feature_dim: length of a feature vector, d.
        layers: number of convolutions.
        width: channels of each convolution.
        size: side of the square frames, 84 after CURL's crop. The linear layer sees every position, so that an encoder
            works for one size only.
        tanh: squash the features after layer norm.

    Attributes:
        convs: the convolutions; an actor may share them and have a `head` of its own.
        head: linear layer, layer norm (and tanh).

    Raises:
        ValueError: the frames are too small for the convolutions.
    """

    name = "pixel_encoder"

    def __init__(
        self,
        in_channels: int = 9,
        feature_dim: int = 50,
        layers: int = 4,
        width: int = 32,
        size: int = 84,
        *,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"a pixel encoder needs at least one convolution, not {layers}")
        side = (size - 3) // 2 + 1 - 2 * (layers - 1)
        if side < 1:
            raise ValueError(f"frames of {size} pixels are too small for {layers} convolutions without padding")
        self.dim, self.size, self.in_channels = feature_dim, size, in_channels
        self.channels = (width,) * layers
        self.strides = (2,) * layers
        convs: list[nn.Module] = []
        for i in range(layers):
            conv = nn.Conv2d(width if i else in_channels, width, 3, stride=1 if i else 2)
            _delta_orthogonal_(conv)
            convs += [conv, nn.ReLU()]
        self.convs = nn.Sequential(*convs)
        self.head = pixel_head(width * side * side, feature_dim, tanh=tanh)

    def feature_maps(self, x: Shaped[Tensor, "n c h w"]) -> list[Tensor]:
        """The maps after each convolution."""
        x = self._as_float(x)
        maps = []
        for layer in self.convs:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps

    def conv_features(self, x: Shaped[Tensor, "n c h w"]) -> Float[Tensor, "n p"]:
        """(n, c, size, size) frames to the flat output of the convolutions, which actor and critic share."""
        return self.convs(self._as_float(x)).flatten(1)

    def forward(self, x: Shaped[Tensor, "n c h w"], *, detach: bool = False) -> Float[Tensor, "n d"]:
        """(n, c, size, size) frames to (n, d) features.

        Args:
            x: bytes, which are divided by 255, or floats, which are taken as they are.
            detach: no gradient to the convolutions; CURL's actor learns only its own head.

        Raises:
            ValueError: the frames are not of the size that the encoder was made for.
        """
        features = self.conv_features(x)
        return self.head(features.detach() if detach else features)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return next(self.parameters()).dtype

    def _as_float(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(
                f"this encoder was made for frames of {self.size} x {self.size}, not {x.shape[-2]} x {x.shape[-1]}: "
                "crop them, or build it with size=..."
            )
        return x if x.is_floating_point() else x.to(self.dtype) / 255


def pixel_head(in_dim: int, feature_dim: int, *, tanh: bool = False) -> nn.Sequential:
    """What follows the convolutions: linear layer (orthogonal, no offset at first), layer norm, tanh if asked for."""
    linear = nn.Linear(in_dim, feature_dim)
    nn.init.orthogonal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.LayerNorm(feature_dim), *([nn.Tanh()] if tanh else []))


@torch.no_grad()
def _delta_orthogonal_(conv: nn.Conv2d) -> None:
    """Xiao et al., ICML 2018: an orthogonal map at the centre tap, zero elsewhere, with relu's gain."""
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    middle = conv.kernel_size[0] // 2
    nn.init.orthogonal_(conv.weight[:, :, middle, middle], gain=nn.init.calculate_gain("relu"))
