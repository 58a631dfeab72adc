"""The names that other projects give the weights of a ResNet, and which ResNet has these weights."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from sslcore.errors import CheckpointError

# First convolution of the second stage's first block: every ResNet has it, and whatever stands before it is the prefix.
_NAMED = re.compile(r"^(?P<prefix>.*?)layer1\.0\.conv1\.weight$")
_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d+)\.0\.conv1\.weight$")
_SECOND_COPY = re.compile(r"momentum|encoder_k|target|teacher|ema|key")


def as_torchvision(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, dict[str, Tensor]]:
    """The prefix of a ResNet's weights and the weights under torchvision's names.

    Where a file holds two copies (query and key encoder, student and teacher), the one that was trained by gradients.
    """
    named = [match["prefix"] for key in tensors if (match := _NAMED.match(key))]
    numbered = [match["prefix"] for key in tensors if (match := _NUMBERED.match(key))]
    prefixes = named or numbered
    if not prefixes:
        raise CheckpointError(
            f"{path} holds no ResNet that can be recognised: none of its {len(tensors)} weights is called "
            f"...layer1.0.conv1.weight ({some(list(tensors))}); name the architecture if it is another network"
        )
    prefix = min(prefixes, key=lambda p: (bool(_SECOND_COPY.search(p)), len(p)))
    mine = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if not named:
        mine = {_unnumbered(key, mine): value for key, value in mine.items()}
    # Networks for small images often call the projection of a block its shortcut.
    return prefix, {key.replace(".shortcut.", ".downsample."): value for key, value in mine.items()}


def _unnumbered(key: str, weights: Mapping[str, Tensor]) -> str:
    """`4.0.conv1.weight` -> `layer1.0.conv1.weight`, as the children of a ResNet are numbered in an nn.Sequential."""
    stages = sorted(
        int(match["number"]) for name in weights if (match := _NUMBERED.match(name)) and not match["prefix"]
    )
    number, _, rest = key.partition(".")
    names = {"0": "conv1", "1": "bn1"} | {str(stage): f"layer{i}" for i, stage in enumerate(stages, start=1)}
    return f"{names.get(number, number)}.{rest}"


def which_resnet(weights: Mapping[str, Tensor], path: Path) -> str:
    """torchvision's name of the ResNet that has these weights.

    Raises:
        CheckpointError: none has.
    """
    blocks = [len({key.split(".")[1] for key in weights if key.startswith(f"layer{i}.")}) for i in range(1, 5)]
    deep = "layer1.0.conv3.weight" in weights
    names = {
        "2-2-2-2": "resnet18",
        "3-4-6-3": "resnet50" if deep else "resnet34",
        "3-4-23-3": "resnet101",
        "3-8-36-3": "resnet152",
    }
    found = names.get("-".join(map(str, blocks)))
    if found is None or "conv1.weight" not in weights:
        raise CheckpointError(
            f"{path} holds a ResNet with {', '.join(map(str, blocks))} blocks in its stages, which is none of "
            f"{', '.join(names)}; name the architecture if you know it"
        )
    return found


def first_channels(tensors: Mapping[str, Tensor]) -> int:
    """Input channels of the first convolution, 3 if there is none."""
    first = tensors.get("conv1.weight", next((t for t in tensors.values() if t.ndim == 4), None))
    return int(first.shape[1]) if first is not None and first.ndim == 4 else 3


def some(names: Sequence[str], count: int = 3) -> str:
    """The first of many names, for messages."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
