"""Gaussian blur, a standard deviation of its own for each sample."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sslcore.augment.resize import apply_matrices


def gaussian_blur(
    images: Float[Tensor, "n c h w"], sigma: Float[Tensor, " n"], *, radius: int
) -> Float[Tensor, "n c h w"]:
    """Blur with a kernel of 2 * radius + 1 pixels and reflected borders, as torchvision's `gaussian_blur`.

    The blur of a side is a banded matrix. Two matrix multiplications for all samples are faster than depthwise
    convolutions up to about 100 pixels and for few samples, slower for many of 224 pixels: `benchmarks/augment.py`.

    Args:
        images: (n, c, h, w), any range of values.
        sigma: (n,) standard deviations in pixels; 0 leaves the image as it is.
        radius: pixels on either side that count; the kernel's sum is 1 whatever is cut off.
    """
    rows, columns = (blur_matrix(sigma, side, radius) for side in images.shape[-2:])
    return apply_matrices(images, rows, columns)


def blur_radius(largest_sigma: float) -> int:
    """Four standard deviations hold all but 6e-5 of a Gaussian."""
    return math.ceil(4 * largest_sigma)


def blur_matrix(sigma: Float[Tensor, " n"], side: int, radius: int) -> Float[Tensor, "n {side} {side}"]:
    """Row i holds the kernel around pixel i; what falls over the border is added where its reflection lies."""
    device = sigma.device
    offset = torch.arange(-radius, radius + 1, device=device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(min=1e-3)[:, None]) ** 2)
    # What float32 would round away anyway; denormal numbers among it would make the products ten times as slow.
    kernel = kernel.masked_fill(kernel < 1e-8, 0.0)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)

    # Reflection without repeating the border pixel has the period 2 * (side - 1); one pixel reflects into itself.
    period = max(1, 2 * (side - 1))
    place = (torch.arange(side, device=device)[:, None] + offset).remainder(period)
    place = torch.minimum(place, period - place).clamp(max=side - 1)
    matrix = torch.zeros(len(sigma), side, side, device=device)
    index, source = place.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, side, -1)
    return matrix.scatter_add_(2, index, source)
