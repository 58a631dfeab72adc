"""What pseudo-unknowns really lie on; for measuring only, with annotations that training never sees."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import box_iou

from detection.openworld.sampling import OBJECT_IOU, RegionSample

KINDS = ("unknown", "old", "current", "distractor", "background")
"""What a region may lie on: an object of no task so far; one of an earlier task, unlabelled now; a labelled one of the
current task; a pasted piece that is no object; none of these."""


@dataclass(frozen=True)
class Purity:
    """How many pseudo-unknowns lie on what, and how many of as many random proposals. Adds up over images and steps.

    Attributes:
        chosen, random: counts in the order of `KINDS`.
    """

    chosen: tuple[int, ...] = (0,) * len(KINDS)
    random: tuple[int, ...] = (0,) * len(KINDS)

    def __add__(self, other: "Purity") -> "Purity":
        return Purity(_added(self.chosen, other.chosen), _added(self.random, other.random))

    def to_dict(self) -> dict[str, Any]:
        """Counts and shares by kind, and how many times the random proposals' share of unknown objects is reached.

        Shares and the ratio are None where there is nothing to divide by.
        """
        shares = {name: _share(getattr(self, name)) for name in ("chosen", "random")}
        of_unknown = [shares[name][KINDS[0]] for name in ("chosen", "random")]
        return {
            **{name: dict(zip(KINDS, getattr(self, name))) for name in ("chosen", "random")},
            **{f"{name}_share": share for name, share in shares.items()},
            "times_random": of_unknown[0] / of_unknown[1] if of_unknown[0] is not None and of_unknown[1] else None,
        }


def _added(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b))


def _share(counts: Iterable[int]) -> dict[str, float | None]:
    counts = list(counts)
    total = sum(counts)
    return {kind: count / total if total else None for kind, count in zip(KINDS, counts)}


def purity(sample: RegionSample, boxes: Float[Tensor, "g 4"], kinds: Int[Tensor, " g"]) -> Purity:
    """What the pseudo-unknowns of an image lie on, and what as many random proposals do.

    Args:
        sample: of one image, from `OpenWorldHead.label`.
        boxes: (g, 4) everything that is in the image, labelled or not, in the sample's pixels.
        kinds: (g,) index into `KINDS` of each.

    Returns:
        Counts. A region lies on the box that it overlaps best, if by an IoU of at least `OBJECT_IOU`.

    Raises:
        ValueError: `kinds` is not one per box.
    """
    if kinds.shape != boxes.shape[:1]:
        raise ValueError(f"kinds must be one per box, ({len(boxes)},), not {tuple(kinds.shape)}")
    chosen = _counts(sample.boxes[sample.pseudo], boxes, kinds)
    # Where fewer were chosen than wanted, the first random ones: those are in random order.
    return Purity(chosen, _counts(sample.random[: sum(chosen)], boxes, kinds))


def _counts(regions: Tensor, boxes: Tensor, kinds: Tensor) -> tuple[int, ...]:
    regions = regions[(regions[:, 2:] > regions[:, :2]).all(dim=1)]
    background = len(KINDS) - 1
    if len(boxes) == 0 or len(regions) == 0:
        return (0,) * background + (len(regions),)
    best, which = box_iou(regions, boxes.to(regions)).max(dim=1)
    found = torch.where(best >= OBJECT_IOU, kinds.to(regions.device)[which], background)
    return tuple(found.bincount(minlength=len(KINDS)).tolist())
