"""The policy of CURL: actor, critic, target critic and the contrastive loss's matrix, in one module.

Laskin, Srinivas and Abbeel, "CURL: Contrastive Unsupervised Representations for Reinforcement Learning", ICML 2020,
sections 4.2 to 4.5.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, UInt8
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import get_device
from torch import Tensor

from rl import archive
from rl.curl.networks import PixelActor, pixel_critic, squashed_sample, target_critic
from rl.described import describe, restore
from sslcore.augment import center_crop_frames
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import ConfigError
from sslcore.nn import Bilinear
from sslcore.random import hash_seed

_OWN = ("net_arch", "features_dim", "conv_width", "conv_layers")
_ENCODER_IS_FIXED = "the critic's encoder serves the actor, without gradient, and the contrastive loss"
_NOT_HERE = {
    "share_features_extractor": f"{_ENCODER_IS_FIXED}, so that there is nothing to choose",
    "features_extractor_class": f"{_ENCODER_IS_FIXED}; shape it by features_dim, conv_width and conv_layers",
    "features_extractor_kwargs": f"{_ENCODER_IS_FIXED}; shape it by features_dim, conv_width and conv_layers",
    "use_sde": "its actor draws each action's noise anew",
}


class CURLPolicy(BasePolicy):
    """Actor, critic and target critic of SAC on one encoder, and the W of q^T W k.

    Acting and evaluation crop frames at the centre, so that `predict` and `EvalCallback` take whole observations.

    Args:
        observation_space: uint8 images (k*c, h, w), the frames of a stack one after the other.
        action_space: a Box.
        lr_schedule: learning rate by the share of training that remains.
        image_size: side of the square that the networks see, at most h and w.
        net_arch: widths of the hidden layers, or {"pi": ..., "qf": ...} for actor and critic apart.
        features_dim: length of the features, 50 in CURL.
        conv_width, conv_layers: channels and number of the convolutions.

    Attributes:
        critic: owns the encoder (`critic.encoder`).
        critic_target: follows the critic; its encoder is the key encoder of the contrastive loss.
        actor: reads the critic's convolutions without sending them a gradient.
        similarity: W.

    Raises:
        ConfigError: the spaces, or an argument, do not suit CURL.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *,
        image_size: int = 84,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        features_dim: int = 50,
        conv_width: int = 32,
        conv_layers: int = 4,
        **others: Any,
    ) -> None:
        check_policy_kwargs(others)
        channels = check_spaces(observation_space, action_space, image_size)
        super().__init__(observation_space, action_space, squash_output=True)
        self.image_size = image_size
        self.net_arch = [1024, 1024] if net_arch is None else net_arch
        self.features_dim, self.conv_width, self.conv_layers = features_dim, conv_width, conv_layers
        self._build(channels, math.prod(action_space.shape or ()), lr_schedule)
        self.noise = torch.Generator()  # of actions; on the CPU, so that it can be stored and restored anywhere
        self.seed_noise(int(torch.randint(1 << 62, ())))

    def _build(self, channels: int, action_dim: int, lr_schedule: Schedule) -> None:
        actor_arch, critic_arch = get_actor_critic_arch(self.net_arch)
        try:
            self.critic = pixel_critic(
                channels,
                self.image_size,
                action_dim,
                feature_dim=self.features_dim,
                conv_width=self.conv_width,
                conv_layers=self.conv_layers,
                net_arch=critic_arch,
            )
        except ValueError as error:
            raise ConfigError(f"image_size and policy_kwargs do not fit together: {error}") from error
        self.critic_target = target_critic(self.critic)
        conv_dim = self.critic.encoder.head[0].in_features  # type: ignore[union-attr, index]
        self.actor = PixelActor(conv_dim, self.features_dim, actor_arch, action_dim)
        self.similarity = Bilinear(self.features_dim)
        rate = lr_schedule(1)
        self.actor.optimizer = torch.optim.Adam(self.actor.parameters(), lr=rate)
        self.critic.optimizer = torch.optim.Adam(self.critic.parameters(), lr=rate)

    def view(self, obs: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c {self.image_size} {self.image_size}"]:
        """What the networks see of whole observations when nothing is to be learned: the centre."""
        return center_crop_frames(obs, self.image_size)

    def forward(self, obs: UInt8[Tensor, "n c h w"], deterministic: bool = False) -> Float[Tensor, "n a"]:
        """(n, c, h, w) observations to (n, A) actions in [-1, 1]: the most likely ones, or drawn."""
        encoder: Any = self.critic.encoder
        mean, log_std = self.actor(encoder.conv_features(self.view(obs)))
        if deterministic:
            return torch.tanh(mean)
        noise = torch.randn(mean.shape, generator=self.noise).to(mean.device)
        return squashed_sample(mean, log_std, noise)[0]

    def obs_to_tensor(self, observation: Any) -> tuple[PyTorchObs, bool]:
        """As stable-baselines3's, which `predict` calls, but floats are not taken for bytes.

        Raises:
            ValueError: it is no array of uint8, or of another shape.
        """
        if not isinstance(observation, np.ndarray) or observation.dtype != np.uint8:
            array = isinstance(observation, np.ndarray)
            found = f"an array of {observation.dtype}" if array else f"a {type(observation).__name__}"
            raise ValueError(
                f"CURL's policy was given {found}, and sees arrays of uint8 from 0 to 255, which it scales itself: "
                "give observations as the environment returns them"
            )
        return super().obs_to_tensor(observation)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self(observation, deterministic)

    def seed_noise(self, seed: int) -> None:
        """Start the noise of drawn actions anew."""
        self.noise.manual_seed(hash_seed(seed, _ACTING))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "image_size": self.image_size,
            **{name: getattr(self, name) for name in _OWN},
        }

    def save(self, path: str | Path | io.BufferedIOBase) -> None:  # type: ignore[override]
        """Write the policy alone, in the form of `CURL.save`: JSON and safetensors in a zip.

        Raises:
            CheckpointError: it cannot be written.
        """
        about = {"policy": describe(self._get_constructor_parameters())}
        archive.write(path, archive.Archive(about, {"policy": self.state_dict()}), suffix="")

    @classmethod
    def load(cls, path: str | Path | io.BufferedIOBase, device: torch.device | str = "auto") -> "CURLPolicy":  # type: ignore[override]
        """The policy that `save` wrote, or the one of an agent that `CURL.save` wrote.

        Raises:
            CheckpointError: the file is damaged, foreign or needs unpickling.
        """
        found = archive.read(path)
        with archive.reading(path):
            arguments = restore(found.about["policy"])
            policy = cls(**arguments, lr_schedule=cls._dummy_schedule)
            policy.load_state_dict(found.state["policy"])
        return policy.to(get_device(device))


_ACTING = 1  # the stream of random numbers


def check_policy_kwargs(given: Mapping[str, Any]) -> None:
    """Refuse what `CURLPolicy` does not take, with the reason where SAC's policies take it.

    Raises:
        ConfigError: one sentence for each.
    """
    problems = []
    for name in given:
        reason = _NOT_HERE.get(name, f"it takes {', '.join(_OWN)}{did_you_mean(name, _OWN)}")
        problems.append(f"policy_kwargs: CURLPolicy has no {name}: {reason}")
    if problems:
        raise ConfigError(*problems)


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space, image_size: int) -> int:
    """Channels of an observation.

    Raises:
        ConfigError: the observations are not stacks of uint8 images of at least image_size, or the actions no Box.
    """
    box = observation_space if isinstance(observation_space, spaces.Box) else None
    if box is None or box.dtype != "uint8" or len(box.shape) != 3:
        raise ConfigError(
            f"CURL learns from uint8 images (channels, height, width), not from {observation_space}: wrap the "
            "environment in rl.PixelStack"
        )
    if not isinstance(action_space, spaces.Box):
        raise ConfigError(f"CURL acts in a Box of continuous actions, not in {action_space}")
    channels, height, width = box.shape
    if image_size > min(height, width):
        raise ConfigError(
            f"image_size={image_size} is larger than the frames, {height} x {width}: make it smaller (about 0.84 of "
            "the frames leaves room for crops), or the frames larger"
        )
    return channels
