"""Actor and critic of an agent that acts from pixels.

The critic owns the encoder. The actor reads the output of the critic's convolutions with a head of its own and sends no
gradient through them: Yarats et al., "Improving Sample Efficiency in Model-Free Reinforcement Learning from Images",
AAAI 2021, whose networks CURL's code shares.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sslcore.augment import center_crop_frames
from sslcore.memory import MomentumEncoder
from sslcore.nn import PixelEncoder, pixel_head

LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


class PixelActor(nn.Module):
    """From the output of the critic's convolutions to a squashed Gaussian over actions in [-1, 1].

    Args:
        conv_dim: length of what the convolutions give, flat.
        feature_dim: length of the features that the actor's own head makes of it.
        net_arch: widths of the hidden layers.
        action_dim: number of actions, A.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, conv_dim: int, feature_dim: int, net_arch: Sequence[int], action_dim: int) -> None:
        super().__init__()
        self.head = pixel_head(conv_dim, feature_dim)
        self.net = mlp(feature_dim, net_arch, 2 * action_dim)

    def forward(self, conv_features: Float[Tensor, "n p"]) -> tuple[Float[Tensor, "n a"], Float[Tensor, "n a"]]:
        """Mean and logarithm of the standard deviation, before squashing, each (n, A)."""
        return self.distribution(self.head(conv_features))

    def distribution(self, features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n a"], Float[Tensor, "n a"]]:
        """What `forward` gives, of features that the head has already made."""
        mean, raw = self.net(features).chunk(2, dim=1)
        return mean, LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) / 2 * (raw.tanh() + 1)


def squashed_sample(
    mean: Float[Tensor, "n a"], log_std: Float[Tensor, "n a"], noise: Float[Tensor, "n a"]
) -> tuple[Float[Tensor, "n a"], Float[Tensor, "n 1"]]:
    """Actions tanh(mean + std * noise) and the logarithm of their density.

    Haarnoja et al., "Soft Actor-Critic", ICML 2018, appendix C.

    Args:
        mean, log_std: (n, A) of the Gaussian.
        noise: (n, A) standard normal numbers.

    Returns:
        (n, A) actions in [-1, 1] and their (n, 1) log densities, differentiable in mean and log_std.
    """
    action = torch.tanh(mean + log_std.exp() * noise)
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    # 1e-6 as in the published code: the derivative of tanh underflows where actions saturate.
    return action, (gaussian - torch.log((1 - action.square()).relu() + 1e-6)).sum(1, keepdim=True)


class TwinQ(nn.Module):
    """Two networks from features and actions to returns; the smaller of the two is believed."""

    def __init__(self, feature_dim: int, net_arch: Sequence[int], action_dim: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList([mlp(feature_dim + action_dim, net_arch, 1) for _ in range(2)])

    def forward(
        self, features: Float[Tensor, "n d"], actions: Float[Tensor, "n a"]
    ) -> tuple[Float[Tensor, "n 1"], ...]:
        """(n, d) features and (n, A) actions in [-1, 1] to one (n, 1) return from each network."""
        x = torch.cat([features, actions], dim=1)
        return tuple(network(x) for network in self.networks)


class PixelCritic(nn.Module):
    """An encoder and two Q networks on its features.

    Attributes:
        encoder: from (n, c, size, size) frames to (n, d) features.
        q: the two networks.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, encoder: nn.Module, q: nn.Module, size: int) -> None:
        super().__init__()
        self.encoder, self.q, self.size = encoder, q, size

    def forward(
        self, obs: Shaped[Tensor, "n c h w"], actions: Float[Tensor, "n a"]
    ) -> tuple[Float[Tensor, "n 1"], ...]:
        """Returns of (n, c, h, w) frames and (n, A) actions in [-1, 1]; larger frames are cropped at the centre."""
        return self.q(self.encoder(center_crop_frames(obs, self.size)), actions)


def pixel_critic(
    in_channels: int,
    size: int,
    action_dim: int,
    *,
    feature_dim: int,
    conv_width: int,
    conv_layers: int,
    net_arch: Sequence[int],
) -> PixelCritic:
    """A critic with random weights.

    Raises:
        ValueError: frames of this size are too small for so many convolutions.
    """
    encoder = PixelEncoder(in_channels, feature_dim, layers=conv_layers, width=conv_width, size=size)
    return PixelCritic(encoder, TwinQ(feature_dim, net_arch, action_dim), size)


def target_critic(critic: PixelCritic) -> PixelCritic:
    """The critic that follows another one slowly; its encoder is also the key encoder of the contrastive loss.

    Encoder and Q networks have momenta of their own, which the algorithm gives at each update (it owns `tau`).
    """
    encoder, q = MomentumEncoder(critic.encoder, momentum=1.0), MomentumEncoder(critic.q, momentum=1.0)
    return PixelCritic(encoder, q, critic.size)


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear layers with relu between them, orthogonal and without offset at first."""
    widths = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
