"""Changes of colour, a factor of its own for each sample. Images are floating point in [0, 1], one or three channels.

The formulas are torchvision's: blends with black, with the mean grey and with the own grey for brightness, contrast and
saturation, and a rotation in HSV for hue. Two things differ from its ColorJitter. Brightness, contrast and saturation
are one linear map, clamped once behind the three: they commute but for clamping, so their order carries nothing. And
hue always comes after them. Functions that end in an underscore work in place, as torch's do: a pass over memory is
what these changes cost.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from sslcore.augment.select import change_some_


def adjust_colour_(
    images: Float[Tensor, "n c h w"],
    brightness: Float[Tensor, " n"],
    contrast: Float[Tensor, " n"],
    saturation: Float[Tensor, " n"],
    *,
    peak: float = 1.0,
) -> Float[Tensor, "n c h w"]:
    """Scale brightness, then blend with the image's mean grey (contrast) and with its own grey (saturation), in place.

    Args:
        images: values in [0, peak].
        brightness, contrast, saturation: (n,) factors; 1 changes nothing, 0 gives black, flat grey, grayscale.
        peak: value of white, for images not yet divided by 255.

    Returns:
        `images`, now in [0, 1].
    """
    gain = brightness * contrast / peak
    grey = luma(images)
    mean_grey = grey.mean(dim=(2, 3))[:, 0]
    grey.mul_(_by_sample(gain * (1 - saturation))).add_(_by_sample((1 - contrast) * brightness * mean_grey / peak))
    return images.mul_(_by_sample(gain * saturation)).add_(grey).clamp_(0, 1)


def adjust_hue_(images: Float[Tensor, "n c h w"], turn: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Turn the hue of HSV by `turn` (n,), in [-0.5, 0.5] of the colour circle, in place. One channel has none.

    The highest and the lowest channel of a pixel keep their values; only which is which, and the middle one, change.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(dim=1)
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - low
    # With channels scaled to 0..1 between a pixel's lowest and highest, 1 - red + green + blue is the distance from red
    # round the circle, in sixths, on either side, and the larger of green and blue tells the side. No case distinction:
    # torch.where costs ten times what arithmetic does on a CPU. Grey pixels have no hue, and any will do.
    distance = (green + blue).sub_(red).sub_(low).div_(chroma.clamp(min=1e-12)).add_(1)
    circle = distance.copysign_(green - blue).div_(6).add_((1 + turn)[:, None, None])
    sixths = circle.frac_().mul_(6)

    # A channel is full within one sixth of its own hue (red 0, green 2, blue 4) and fades to nothing over the next.
    torch.addcmul(low, chroma, (sixths - 3).abs_().sub_(1).clamp_(0, 1), out=red)
    torch.addcmul(high, chroma, (sixths - 2).abs_().sub_(1).clamp_(0, 1), value=-1, out=green)
    torch.addcmul(high, chroma, sixths.sub_(4).abs_().sub_(1).clamp_(0, 1), value=-1, out=blue)
    return images


def grayscale_(images: Float[Tensor, "n c h w"], chosen: Bool[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Give the chosen images their grey in all channels, in place."""
    if images.shape[1] == 1:
        return images
    return change_some_(images, chosen, lambda some, _: luma(some).expand_as(some))


def solarize_(images: Float[Tensor, "n c h w"], chosen: Bool[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Invert the values above one half of the chosen images, in place: min(x, 1 - x)."""
    return change_some_(images, chosen, lambda some, _: torch.minimum(some, 1 - some))


def luma(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
    """The grey of each pixel, as a new tensor."""
    return images.clone() if images.shape[1] == 1 else rgb_to_grayscale(images)


def _by_sample(factors: Tensor) -> Tensor:
    return factors[:, None, None, None]
