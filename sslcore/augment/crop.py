"""Boxes of random resized crops, drawn as torchvision does (Szegedy et al., "Going Deeper with Convolutions", 2015).

Ten tries of an area and an aspect ratio; the first that fits is placed anywhere, and if none fits, the largest central
box of an allowed ratio is taken. The same numbers give the same box in the batched and in the scalar form, so loader
workers can crop files one at a time and a batch in memory still sees the same views.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Range = tuple[int | float, int | float]

TRIES = 10
DRAWS = 2 * TRIES + 2  # area and ratio a try, then the two places


def crop_boxes(
    draws: Float[Tensor, "n 22"], height: int, width: int, *, scale: Range, ratio: Range
) -> Int[Tensor, "n 4"]:
    """Boxes for n images of one size.

    Args:
        draws: (n, 22) uniform numbers in [0, 1).
        height, width: of the images, in pixels.
        scale: range of the box's share of the image area, drawn uniformly.
        ratio: range of width / height, drawn uniformly on a logarithmic scale.

    Returns:
        (n, 4) int64 top, left, height, width; at least one pixel, inside the image.
    """
    draws = draws.double()  # so that rounding to pixels agrees with plain Python
    area = (scale[0] + (scale[1] - scale[0]) * draws[:, :TRIES]) * (height * width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[:, TRIES : 2 * TRIES])
    tried = torch.stack([torch.sqrt(area / aspect).round(), torch.sqrt(area * aspect).round()], dim=-1)

    limits = torch.stack([torch.full_like(area, height), torch.full_like(area, width)], dim=-1)
    fits = ((tried >= 1) & (tried <= limits)).all(dim=-1)
    first = fits.to(torch.uint8).argmax(dim=1)
    chosen = tried.gather(1, first[:, None, None].expand(-1, 1, 2))[:, 0]
    fallback_h, fallback_w = _largest_central(height, width, ratio)
    found = fits.any(dim=1)
    h = torch.where(found, chosen[:, 0], fallback_h)
    w = torch.where(found, chosen[:, 1], fallback_w)

    top = torch.where(found, torch.floor(draws[:, -2] * (height - h + 1)), (height - fallback_h) // 2)
    left = torch.where(found, torch.floor(draws[:, -1] * (width - w + 1)), (width - fallback_w) // 2)
    return torch.stack([top, left, h, w], dim=1).long()


def crop_box(draws: list[float], height: int, width: int, *, scale: Range, ratio: Range) -> tuple[int, int, int, int]:
    """`crop_boxes` for one image in plain Python: (top, left, height, width)."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, ratio_draw in zip(draws[:TRIES], draws[TRIES : 2 * TRIES], strict=True):
        area = (scale[0] + (scale[1] - scale[0]) * area_draw) * (height * width)
        aspect = math.exp(low + (high - low) * ratio_draw)
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= h <= height and 1 <= w <= width:
            return math.floor(draws[-2] * (height - h + 1)), math.floor(draws[-1] * (width - w + 1)), h, w
    h, w = _largest_central(height, width, ratio)
    return (height - h) // 2, (width - w) // 2, h, w


def _largest_central(height: int, width: int, ratio: Range) -> tuple[int, int]:
    if width < ratio[0] * height:
        return max(1, min(height, round(width / ratio[0]))), width
    if width > ratio[1] * height:
        return height, max(1, min(width, round(height * ratio[1])))
    return height, width
