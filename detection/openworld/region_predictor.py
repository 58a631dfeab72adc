"""The last layers of the second stage: what a region is, and how its box is to be moved. Grows with the classes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detection.structures import FIRST_KNOWN
from sslcore.random import hash_seed

_CLASSIFY, _REGRESS = 0, 1  # streams of initial weights
MASKED = -1e11
"""Logit of a class that is not introduced yet: its probability is 0 in every softmax, and so is every gradient."""

_SPREAD = {_CLASSIFY: 0.01, _REGRESS: 0.001}  # Fast R-CNN, section 2.3


class RegionPredictor(nn.Module):
    """Logits of background, unknown and each known class, and deltas of the region's box.

    Initial weights of an output are a function of (seed, output) alone: a predictor that grew is initialised like one
    that knew all its classes from the start.

    With `classes` it has outputs for classes to come from the start, as ORE's code has for all 80; their logits are
    `MASKED` until `grow` brings the classes, and a loss moves none of their weights (weight decay does, there as here).
    The original masks in its training loss only, so that untrained logits take their part of the softmax at inference;
    here they are masked there, too, as in the works that built on it. Its labels are the classes in the order of tasks,
    then unknown and background, where here these two come first; which row is whose changes nothing else.

    Args:
        dim: length of a region's embedding, d.
        known: number of known classes, K; at least 1.
        classes: number of classes that there are outputs for from the start, C; None: the known ones.
        per_class_boxes: deltas for each known class beside the class-agnostic ones.
        seed: of the initial weights.

    Attributes:
        known: K.
        classes: C, at least K; equal to it unless some are masked.
        classify: linear, d to 2 + C.
        regress: linear, d to 4 (1 + C), or to 4.
    """

    def __init__(
        self, dim: int, known: int, *, classes: int | None = None, per_class_boxes: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        if dim < 1 or known < 1:
            raise ValueError(f"a predictor needs features and at least one known class, not dim={dim}, known={known}")
        self.dim, self.known, self.seed, self.per_class_boxes = dim, known, seed, per_class_boxes
        self.classes = max(known, classes or 0)
        self.classify = self._linear(FIRST_KNOWN + self.classes, _CLASSIFY)
        self.regress = self._linear(4 * self.columns, _REGRESS)

    @property
    def columns(self) -> int:
        """Boxes a region: b."""
        return 1 + self.classes if self.per_class_boxes else 1

    def forward(self, features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n b 4"]]:
        """(n, 2 + C) logits and (n, b, 4) deltas; see `boxes.decode` and `Regions.boxes` for the columns."""
        logits = self.classify(features)
        if self.known < self.classes:
            later = torch.arange(logits.shape[1], device=logits.device) >= FIRST_KNOWN + self.known
            logits = logits.masked_fill(later, MASKED)
        return logits, self.regress(features).unflatten(1, (self.columns, 4))

    @torch.no_grad()
    def grow(self, classes: int) -> None:
        """Take on new classes; the weights of the old ones stay as they are, bit for bit.

        Outputs that there are already are no longer masked. For more classes than these, outputs are added: the layers
        then get new parameters, so make the optimiser after growing.

        Args:
            classes: how many.
        """
        if classes < 0:
            raise ValueError(f"a predictor cannot grow by {classes} classes")
        self.known += classes
        self.classes = max(self.classes, self.known)
        self.classify = self._continued(self.classify, FIRST_KNOWN + self.classes, _CLASSIFY)
        self.regress = self._continued(self.regress, 4 * self.columns, _REGRESS)

    def _continued(self, old: nn.Linear, outputs: int, stream: int) -> nn.Linear:
        if outputs == old.out_features:
            return old
        new = self._linear(outputs, stream).to(old.weight)
        for parameter, before in zip(new.parameters(), old.parameters(), strict=True):
            parameter[: len(before)] = before
            parameter.requires_grad_(before.requires_grad)
        return new

    def _linear(self, outputs: int, stream: int) -> nn.Linear:
        layer = nn.utils.skip_init(nn.Linear, self.dim, outputs)
        rows = [
            torch.randn(self.dim, generator=torch.Generator().manual_seed(hash_seed(self.seed, stream, row)))
            for row in range(outputs)
        ]
        with torch.no_grad():
            layer.weight.copy_(torch.stack(rows) * _SPREAD[stream])
            layer.bias.zero_()
        return layer

    def extra_repr(self) -> str:
        return f"known={self.known}, classes={self.classes}, per_class_boxes={self.per_class_boxes}"
