"""The one place where the label space meets detectron2's order of classes.

Here background is 0, unknown 1 and the K known classes follow; there the known classes are 0 to K - 1, unknown is K (an
object like others, and `thing_classes` ends with it), and background comes last, K + 1.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from detection.structures import BACKGROUND, FIRST_KNOWN, UNKNOWN

IGNORED = -1
"""Class of ground-truth boxes that are neither object nor background; what detectron2 ignores elsewhere, too."""

KNOWN_BEFORE = -2
"""Class of boxes that the previous task's model calls known: no label, but nothing unknown either."""


def to_classes(labels: Int[Tensor, " n"], known: int) -> Int[Tensor, " n"]:
    """Labels as detectron2 numbers classes, for K known ones; negative labels become `IGNORED`."""
    others = torch.where(labels == UNKNOWN, known, torch.where(labels == BACKGROUND, known + 1, IGNORED))
    return torch.where(labels >= FIRST_KNOWN, labels - FIRST_KNOWN, others)


def to_labels(classes: Int[Tensor, " n"], known: int) -> Int[Tensor, " n"]:
    """The inverse of `to_classes`; negative classes become `IGNORED`."""
    others = torch.where(classes == known, UNKNOWN, torch.where(classes == known + 1, BACKGROUND, IGNORED))
    return torch.where((classes >= 0) & (classes < known), classes + FIRST_KNOWN, others)


def thing_classes(label_names: Sequence[str]) -> list[str]:
    """Names in detectron2's order, from `TaskSet.label_names`."""
    return [*label_names[FIRST_KNOWN:], label_names[UNKNOWN]]
