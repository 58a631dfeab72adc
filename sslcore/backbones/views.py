"""Views for a backbone that may have been trained on images of another number of colour channels than the data's."""

from typing import Any

import torch
from jaxtyping import Num
from torch import Tensor

from sslcore.augment import EvalView, RandomView

# ITU-R BT.601, as in Pillow's and torchvision's conversion to grey.
_LUMA = (0.299, 0.587, 0.114)


def match_channels(images: Num[Tensor, "n c h w"], channels: int) -> Num[Tensor, "n k h w"]:
    """Grey images repeated to three channels, colour images turned grey, others as they are.

    Args:
        images: (n, c, h, w), uint8 or floating point, c 1 or 3.
        channels: 1 or 3.
    """
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    weights = torch.tensor(_LUMA, device=images.device)[:, None, None]
    grey = (images * weights).sum(1, keepdim=True)
    return grey if images.is_floating_point() else grey.round().to(images.dtype)


class MatchingEvalView(EvalView):
    """`EvalView` that first brings images to as many channels as it has means."""

    def forward(self, images: Tensor) -> Tensor:
        """See `EvalView.forward`; c may be 1 or 3."""
        return super().forward(match_channels(images, len(self.mean)))

    def finish(self, crops: Tensor) -> Tensor:
        """See `EvalView.finish`; c may be 1 or 3."""
        return super().finish(match_channels(crops, len(self.mean)))


class MatchingRandomView(RandomView):
    """`RandomView` that first brings images to as many channels as it has means."""

    def forward(self, images: Tensor, **where: Any) -> Tensor:
        """See `RandomView.forward`; c may be 1 or 3."""
        return super().forward(match_channels(images, len(self.mean)), **where)

    def finish(self, crops: Tensor, **where: Any) -> Tensor:
        """See `RandomView.finish`; c may be 1 or 3."""
        return super().finish(match_channels(crops, len(self.mean)), **where)
