"""What a view needs to know of its images, and the normalisation at its end."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel, of pixel values in [0, 1]."""


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation as lists of one or three numbers; ValueError otherwise."""
    mean, std = [float(m) for m in mean], [float(s) for s in std]
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise ValueError(f"mean and std must both have 1 or 3 values, one a channel, not {len(mean)} and {len(std)}")
    if min(std) <= 0:
        raise ValueError(f"std must be positive, not {std}")
    return mean, std


def check_images(images: Tensor, mean: Sequence[float]) -> None:
    """ValueError unless the images have a usable type, a channel for each mean, and pixels."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images must be uint8, or floating point in [0, 1], not {images.dtype}")
    if images.shape[1] != len(mean):
        raise ValueError(f"images have {images.shape[1]} channels but mean and std {len(mean)}; give one a channel")
    if 0 in images.shape[2:]:
        raise ValueError(f"images must have at least one pixel, not the shape {tuple(images.shape)}")


def check_crops(crops: Tensor, size: int) -> None:
    """ValueError unless the crops are as large as the view."""
    if crops.shape[-2:] != (size, size):
        raise ValueError(f"crops must be {size} pixels a side as the view is, not {tuple(crops.shape)}")


def white(images: Tensor) -> float:
    """The value of white: 255 in uint8, 1 in floating point."""
    return 255.0 if images.dtype == torch.uint8 else 1.0


def normalise_into(
    out: Float[Tensor, "n c h w"], images: Num[Tensor, "n c h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "n c h w"]:
    """(images - mean) / std, channel by channel, where mean and std are in the units of `images`.

    Numbers and not tensors: a small tensor made on the host would have to be copied to the device, and waited for.
    """
    for channel, (m, s) in enumerate(zip(mean, std, strict=True)):
        torch.sub(images[:, channel], m, out=out[:, channel]).div_(s)
    return out
