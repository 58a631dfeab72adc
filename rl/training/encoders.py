"""Encoders between pretraining and agents, in both directions.

What must be brought together: pretraining sees one frame, normalised by the mean and deviation of its images; an agent
sees k frames, from 0 to 1. Both are changes of the first convolution alone, which is linear and not padded:
normalisation goes into its weights and bias exactly, and its weights are spread over the frames of a stack, a k-th to
each (Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017, section 2.4), so that a stack of k equal
frames has the features of the one. The way back adds the weights up: a still picture, as if it had been seen k times.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl.curl import CURL
from rl.curl.buffers import frames_in_a_stack
from sslcore.backbones import LoadedBackbone, load_backbone
from sslcore.errors import ConfigError
from sslcore.nn import PixelEncoder
from sslcore.settings import BackboneSettings
from sslcore.storage import write_weights

_PREFIX = "critic.encoder."
_FIRST = "convs.0."


def description(agent: CURL) -> dict[str, Any]:
    """What `sslcore.backbones` must know to find the encoder in a checkpoint of the agent and to build it."""
    encoder: Any = agent.critic.encoder
    return {**_described(encoder, encoder.in_channels), "stack": frames_in_a_stack(agent.env), "prefix": _PREFIX}


def start_encoder(agent: CURL, source: str | Path) -> LoadedBackbone:
    """Give a new agent the weights of an encoder, to its critic and its target alike.

    Args:
        agent: before its first update.
        source: what `sslcore.backbones.load_backbone` takes: a run of `surnia pretrain` with the backbone
            pixel_encoder, a file of `export_encoder`, the run of another agent.

    Returns:
        What was loaded.

    Raises:
        CheckpointError: there is no such source, or it is damaged.
        ConfigError: it holds another network, or one of another shape; says which settings would fit.
    """
    loaded, encoder = load_backbone(source), agent.critic.encoder
    assert isinstance(encoder, PixelEncoder)
    found = loaded.backbone
    if not isinstance(found, PixelEncoder):
        raise ConfigError(
            f"agent.weights: {loaded.description} is no pixel_encoder; pretrain with backbone.name pixel_encoder"
        )
    problems = _differences(found, encoder)
    if problems:
        raise ConfigError(*problems)
    weights = dict(found.state_dict())
    first = unnormalised(weights[_FIRST + "weight"], weights[_FIRST + "bias"], loaded.mean, loaded.std)
    weights[_FIRST + "bias"] = first[1]
    weights[_FIRST + "weight"] = _for_stacks(first[0], loaded, encoder.in_channels, frames_in_a_stack(agent.env))
    encoder.load_state_dict(weights)
    agent.critic_target.encoder.update(encoder, 0.0)  # type: ignore[operator, union-attr]
    return loaded


def export_encoder(agent: CURL, path: str | Path, *, stack: int | None = None) -> Path:
    """Write an agent's encoder as a backbone for single frames, which `surnia evaluate` takes.

    Args:
        agent: any; one loaded without environment does not know its stack.
        path: the file, `*.safetensors`.
        stack: frames in an observation; None asks the agent's environment.

    Raises:
        ConfigError: the channels of an observation are no multiple of `stack`.
        CheckpointError: the file cannot be written.
    """
    encoder: Any = agent.critic.encoder
    stack = stack or frames_in_a_stack(agent.env)
    if encoder.in_channels % stack:
        raise ConfigError(f"stack: {encoder.in_channels} channels cannot be of {stack} frames")
    weights = dict(encoder.state_dict())
    weights[_FIRST + "weight"] = of_a_still(weights[_FIRST + "weight"], stack)
    about = {**_described(encoder, encoder.in_channels // stack), "prefix": ""}
    write_weights(path, weights, about)
    return Path(path)


def unnormalised(weight: Tensor, bias: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A convolution of (x - mean) / std as one of x: (out, c, 3, 3) weights and (out,) biases."""
    shift, scale = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
    scaled = weight.double() / scale
    return scaled.to(weight.dtype), (bias.double() - (scaled * shift).sum((1, 2, 3))).to(bias.dtype)


def over_frames(weight: Tensor, frames: int) -> Tensor:
    """(out, c, 3, 3) weights for one frame to (out, frames * c, 3, 3) ones that give their mean over a stack."""
    return weight.repeat(1, frames, 1, 1) / frames


def of_a_still(weight: Tensor, frames: int) -> Tensor:
    """(out, frames * c, 3, 3) weights to (out, c, 3, 3) ones that give for a picture what a stack of it would."""
    out, channels, *kernel = weight.shape
    return weight.view(out, frames, channels // frames, *kernel).sum(1)


def _for_stacks(weight: Tensor, loaded: LoadedBackbone, in_channels: int, stack: int) -> Tensor:
    """(out, in_channels, 3, 3) weights for stacks of frames, from those of `loaded`, perhaps for single frames."""
    if (loaded.stack, loaded.in_channels) == (stack, in_channels):
        return weight
    single, channels = of_a_still(weight, loaded.stack), in_channels // stack
    if single.shape[1] != channels:
        if {single.shape[1], channels} != {1, 3}:
            raise ConfigError(
                f"agent.weights: {loaded.description} takes frames of {single.shape[1]} channels, and those of "
                f"this environment have {channels}; pretrain on its frames"
            )
        # Gray shown in colour is three equal channels; colour shown in gray is their mean.
        single = single.sum(1, keepdim=True) if channels == 1 else single.expand(-1, 3, -1, -1) / 3
    return over_frames(single, stack)


def _described(encoder: PixelEncoder, in_channels: int) -> dict[str, Any]:
    settings = BackboneSettings(
        name="pixel_encoder", width=encoder.channels[0], layers=len(encoder.channels), features=encoder.dim
    )
    return {
        "method": "curl",
        "backbone": settings.model_dump(mode="json"),
        "in_channels": in_channels,
        # Bytes are divided by 255 and nothing else.
        "mean": [0.0] * in_channels,
        "std": [1.0] * in_channels,
        "size": encoder.size,
    }


def _differences(found: PixelEncoder, wanted: PixelEncoder) -> list[str]:
    pairs = (
        ("agent.image_size", found.size, wanted.size, "views.size"),
        ("agent.conv_width", found.channels[0], wanted.channels[0], "backbone.width"),
        ("agent.conv_layers", len(found.channels), len(wanted.channels), "backbone.layers"),
        ("agent.features_dim", found.dim, wanted.dim, "backbone.features"),
    )
    return [
        f"agent.weights: the encoder was made with {there}, and {name} is {here}; set {name} to {there}, or pretrain "
        f"with {theirs} {here}"
        for name, there, here, theirs in pairs
        if there != here
    ]
