"""Changes of colour, a factor of its own for each sample. Images are floating point in [0, 1], one or three channels.

Brightness, contrast, saturation and grayscale are torchvision's formulas, and hue is the same rotation in HSV. Two
things differ from its ColorJitter: brightness, contrast and saturation are one matrix (they commute but for clamping,
so their order carries nothing), clamped once behind the three; and hue always comes after them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, with the digits torchvision uses


def adjust_colour(
    images: Float[Tensor, "n c h w"],
    *,
    brightness: Float[Tensor, " n"],
    contrast: Float[Tensor, " n"],
    saturation: Float[Tensor, " n"],
    peak: float = 1.0,
) -> Float[Tensor, "n c h w"]:
    """Scale brightness, then blend with the image's mean grey (contrast) and with its own grey (saturation).

    Args:
        images: values in [0, peak].
        brightness, contrast, saturation: (n,) factors; 1 changes nothing, 0 gives black, flat grey, grayscale.
        peak: value of white, for images not yet divided by 255.

    Returns:
        New images in [0, 1].
    """
    c = images.shape[1]
    pixels = images.flatten(2)
    luma = _luma(images)
    mean_grey = pixels.mean(dim=2) @ luma
    gain = brightness * contrast / peak
    # saturation * identity + (1 - saturation) * luma in every row, all times the gain
    eye = torch.eye(c, device=images.device)
    matrix = gain[:, None, None] * (saturation[:, None, None] * eye + (1 - saturation)[:, None, None] * luma)
    offset = (1 - contrast) * brightness * mean_grey / peak
    return torch.baddbmm(offset[:, None, None], matrix, pixels).clamp_(0, 1).view_as(images)


def adjust_hue(images: Float[Tensor, "n c h w"], turn: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Turn the hue of HSV by `turn` (n,), in [-0.5, 0.5] of the colour circle. One channel is returned as it is.

    The largest and the smallest channel of a pixel (V and V - C) stay; only which is which, and the middle one, change.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(dim=1)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(low)
    # With channels scaled to 0..1 between a pixel's lowest and highest, 1 - red + green + blue is the distance from red
    # round the circle, in sixths, on either side, and the larger of green and blue tells the side. No case distinction:
    # torch.where costs ten times what arithmetic does on a CPU. Grey pixels have no hue, and any will do.
    distance = (green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=1e-12)).add_(1)
    circle = torch.copysign(distance, green - blue).div_(6).add_((1 + turn)[:, None, None])
    sixths = circle.frac_().mul_(6)

    turned = torch.empty_like(images, memory_format=torch.contiguous_format)
    # A channel is full within one sixth of its own hue (red 0, green 2, blue 4) and fades to nothing over the next.
    torch.addcmul(low, chroma, (sixths - 3).abs_().sub_(1).clamp_(0, 1), out=turned[:, 0])
    torch.addcmul(low, chroma, (sixths - 2).abs_().neg_().add_(2).clamp_(0, 1), out=turned[:, 1])
    torch.addcmul(low, chroma, (sixths - 4).abs_().neg_().add_(2).clamp_(0, 1), out=turned[:, 2])
    return turned


def grayscale(images: Float[Tensor, "n c h w"], weight: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Blend each image with its grey: weight 1 gives grayscale in all channels, 0 the image itself."""
    return _mix_channels(images, weight, scale=[1.0] * images.shape[1], shift=[0.0] * images.shape[1])


def grayscale_and_normalise(
    images: Float[Tensor, "n c h w"], weight: Float[Tensor, " n"], mean: list[float], std: list[float]
) -> Float[Tensor, "n c h w"]:
    """(grayscale(images, weight) - mean) / std in one pass."""
    return _mix_channels(images, weight, [1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)])


def solarize(
    images: Float[Tensor, "n c h w"], weight: Float[Tensor, " n"], mean: list[float], std: list[float]
) -> Float[Tensor, "n c h w"]:
    """Invert values above one half, of normalised images with weight 1 (0: none), in place.

    Above one half 1 - x is the smaller of the two, below it x is: min(x, 1 - x), here in units of (x - mean) / std.
    """
    total = torch.tensor([(1 - 2 * m) / s for m, s in zip(mean, std, strict=True)], device=images.device)
    inverted = torch.where(weight[:, None] > 0, total, torch.inf)[:, :, None, None] - images
    return torch.minimum(images, inverted, out=images)


def _mix_channels(images: Tensor, grey: Tensor, scale: list[float], shift: list[float]) -> Tensor:
    n, c = images.shape[:2]
    mixing = torch.eye(c, device=images.device).lerp(_luma(images).expand(c, c), grey[:, None, None])
    matrix = torch.tensor(scale, device=images.device)[:, None] * mixing
    offset = torch.tensor(shift, device=images.device)[:, None].expand(n, c, 1)
    return torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images)


def _luma(images: Tensor) -> Tensor:
    weights = LUMA if images.shape[1] == 3 else (1.0,)
    return torch.tensor(weights, device=images.device)
