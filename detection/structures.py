"""The label space, and what passes between a detector's parts: plain tensors under names."""

from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BACKGROUND = 0
UNKNOWN = 1
FIRST_KNOWN = 2
"""Labels: background 0, unknown 1, then the known classes in the order in which tasks brought them."""


@dataclass
class Target:
    """What is labelled in one training image of a batch.

    Attributes:
        boxes: (g, 4) left, top, right, bottom, in pixels of the image as the network gets it.
        labels: (g,) known classes, `FIRST_KNOWN` and above; `UNKNOWN` where an oracle labels unknown objects.
        ignore: (g,) crowds and difficult objects: regions that are neither object nor background.
        key: the image's number in its set. Everything random about the image is a function of (seed, step, key), so
            that neither the order nor the number of processes changes a run.
    """

    boxes: Float[Tensor, "g 4"]
    labels: Int[Tensor, " g"]
    ignore: Bool[Tensor, " g"]
    key: int

    def to(self, device: torch.device | str) -> "Target":
        """The same on another device."""
        return Target(self.boxes.to(device), self.labels.to(device), self.ignore.to(device), self.key)

    @classmethod
    def empty(cls, key: int) -> "Target":
        """An image without a labelled object: a valid negative."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(torch.zeros(0, 4), none, none.bool(), key)


@dataclass
class Regions:
    """What the network says of the proposals of one image.

    Attributes:
        proposals: (p, 4) boxes of the region proposal network, in pixels of the image as the network gets it.
        objectness: (p,) its logits.
        boxes: (p, b, 4) refined boxes: column 0 moved by the class-agnostic deltas, which unknown objects use; column
            1 + k by those of the k-th known class. b is 1 where the network has class-agnostic deltas only.
        logits: (p, 2 + K) of the classifier, in the label space; more where classes to come have masked ones already.
        features: (p, d) region embeddings.
    """

    proposals: Float[Tensor, "p 4"]
    objectness: Float[Tensor, " p"]
    boxes: Float[Tensor, "p b 4"]
    logits: Float[Tensor, "p c"]
    features: Float[Tensor, "p d"]


@dataclass
class Detections:
    """What was found in one image, by falling score.

    Attributes:
        boxes: (n, 4) left, top, right, bottom, in pixels of the original image.
        labels: (n,) `UNKNOWN`, or a known class.
        scores: (n,) in [0, 1].
        energies: (n,) free energy of the known logits; low for what looks like a known class.
        posteriors: (n,) probability of being unknown rather than the likeliest known class.
        embeddings: (n, d) region features.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    energies: Float[Tensor, " n"]
    posteriors: Float[Tensor, " n"]
    embeddings: Float[Tensor, "n d"]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, which: Any) -> "Detections":
        """Some of them: a boolean mask, indices or a slice."""
        return Detections(*(getattr(self, field.name)[which] for field in fields(self)))

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))
