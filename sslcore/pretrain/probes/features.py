"""Features of a frozen backbone over a data set."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sslcore.errors import DataError


class Features(NamedTuple):
    """Features of N images with what is known of them.

    Attributes:
        features: (N, d) float32.
        labels: (N,) int64 classes, or None where the data has none.
        ids: (N,) int64 positions in the data set; images that could not be read are missing.
    """

    features: Float[Tensor, "N d"]
    labels: Int[Tensor, " N"] | None
    ids: Int[Tensor, " N"]


def embed(
    backbone: nn.Module,
    batches: Iterable[tuple[Tensor, Any, Any]],
    device: str | torch.device = "cpu",
    *,
    keep_on: str = "cpu",
) -> Features:
    """Pooled features of every batch, in evaluation mode and without gradients.

    Every module's own training flag is put back afterwards, also after an error: a backbone may well hold frozen parts
    that were in evaluation mode already. The backbone is left on `device`.

    Args:
        backbone: (n, c, h, w) float images to (n, d) features.
        batches: (images, labels or None, ids), as `sslcore.pretrain.data.iterate_eval` yields.
        device: where the backbone runs.
        keep_on: where the features are collected; "cpu" spares the device's memory.

    Raises:
        DataError: there is no image.
    """
    flags = [(module, module.training) for module in backbone.modules()]
    parts: list[Tensor] = []
    labels: list[Tensor] = []
    ids: list[Tensor] = []
    backbone.to(device).eval()
    try:
        for images, targets, names in batches:
            with torch.inference_mode():
                parts.append(backbone(images.to(device, non_blocking=True)).flatten(1).float().to(keep_on))
            if targets is not None:
                labels.append(torch.as_tensor(targets).to(keep_on).long())
            ids.append(torch.as_tensor(names).to(keep_on).long())
    finally:
        for module, flag in flags:
            module.training = flag
    if not parts:
        raise DataError("there is no image to embed: the data set is empty or none of its files can be read")
    # Joined outside inference mode: the result is an ordinary tensor, which a linear probe can be trained on.
    return Features(torch.cat(parts), torch.cat(labels) if labels else None, torch.cat(ids))
