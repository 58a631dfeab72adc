"""Changing some samples of a batch."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Rows = Tensor | slice


def change_some_(
    images: Float[Tensor, "n c h w"], chosen: Bool[Tensor, " n"], change: Callable[[Tensor, Rows], Tensor]
) -> Float[Tensor, "n c h w"]:
    """Replace the chosen images by `change(images, rows)`, in place; `rows` picks the same samples of other tensors.

    On a CPU only the chosen are changed. Elsewhere all are, and the others thrown away: to learn how many are chosen
    would wait for the device.
    """
    if images.device.type == "cpu":
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            images[rows] = change(images[rows], rows)
        return images
    return _change_all_(images, chosen, change)


def _change_all_(images: Tensor, chosen: Tensor, change: Callable[[Tensor, Rows], Tensor]) -> Tensor:
    changed = change(images, slice(None))
    return images.copy_(torch.where(chosen[:, None, None, None], changed, images))
