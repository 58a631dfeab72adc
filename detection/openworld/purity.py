"""What pseudo-unknowns really lie on; for measuring only, with annotations that training never sees."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou

from detection.openworld.sampling import OBJECT_IOU, RegionSample

KINDS = ("unknown", "old", "current", "distractor", "background")
"""What a region may lie on: an object of no task so far; one of an earlier task, unlabelled now; a labelled one of the
current task; a pasted piece that is no object; none of these."""
UNKNOWN_KIND, OLD, CURRENT, DISTRACTOR, BACKGROUND_KIND = range(5)


@torch.no_grad()
def purity_counts(sample: RegionSample, boxes: Float[Tensor, "g 4"], kinds: Int[Tensor, " g"]) -> Int[Tensor, "2 5"]:
    """What the pseudo-unknowns of an image lie on, and what as many random proposals do, by `KINDS`.

    Counts add up over images and steps. Nothing is read back from a device.

    Args:
        sample: of one image, from `OpenWorldHead.label`.
        boxes: (g, 4) everything that is in the image, labelled or not, in the sample's pixels.
        kinds: (g,) index into `KINDS` of each.

    Raises:
        ValueError: `kinds` is not one per box.
    """
    if kinds.shape != boxes.shape[:1]:
        raise ValueError(f"kinds must be one per box, ({len(boxes)},), not {tuple(kinds.shape)}")
    # Where fewer were chosen than wanted, the first random ones: those are in random order.
    random = sample.boxes[:0] if sample.random is None else sample.random()
    as_many = torch.arange(len(random), device=random.device) < sample.pseudo.sum()
    as_many &= (random[:, 2:] > random[:, :2]).all(dim=1)
    return torch.stack([_count(sample.boxes, sample.pseudo, boxes, kinds), _count(random, as_many, boxes, kinds)])


def _count(
    regions: Float[Tensor, "n 4"], counted: Bool[Tensor, " n"], truth: Float[Tensor, "g 4"], kinds: Int[Tensor, " g"]
) -> Int[Tensor, " 5"]:
    """A region lies on the box that it overlaps best, if by an IoU of at least `OBJECT_IOU`."""
    where = torch.full((len(regions),), BACKGROUND_KIND, device=regions.device)
    if len(truth) and len(regions):
        overlap, which = box_iou(truth.to(regions), regions).max(dim=0)
        where = torch.where(overlap >= OBJECT_IOU, kinds.to(regions.device)[which], where)
    return torch.nn.functional.one_hot(where, len(KINDS)).mul(counted[:, None]).sum(dim=0)


def shares(counts: Int[Tensor, " 5"]) -> dict[str, float | None]:
    """The share of each kind, and under "count" of how many; shares of none are None."""
    total = int(counts.sum())
    values: dict[str, int] = dict(zip(KINDS, counts.tolist(), strict=True))
    return {"count": total, **{kind: value / total if total else None for kind, value in values.items()}}


def purity(counts: Int[Tensor, "2 5"]) -> dict[str, Any]:
    """Shares by kind, of the pseudo-unknowns and of random proposals, and how many times purer the former are."""
    chosen, random = (shares(row) for row in counts)
    times = chosen["unknown"] / random["unknown"] if chosen["unknown"] is not None and random["unknown"] else None
    return {"chosen": chosen, "random": random, "times_random": times}
