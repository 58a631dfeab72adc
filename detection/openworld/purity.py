"""What pseudo-unknowns really lie on; for measuring only, with annotations that training never sees."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from detection.openworld.boxes import iou
from detection.openworld.sampling import OBJECT_IOU, RegionSample, filled_up

KINDS = ("unknown", "old", "current", "distractor", "background")
"""What a region may lie on: an object of no task so far; one of an earlier task, unlabelled now; a labelled one of the
current task; a pasted piece that is no object; none of these."""
UNKNOWN_KIND, OLD, CURRENT, DISTRACTOR, BACKGROUND_KIND = range(5)


@torch.no_grad()
def purity_counts(
    samples: Sequence[RegionSample], boxes: Float[Tensor, "n g 4"], kinds: Int[Tensor, "n g"]
) -> Int[Tensor, "2 5"]:
    """What the pseudo-unknowns of a batch lie on, and what as many random proposals do, by `KINDS`.

    Counts add up over steps. Nothing is read back from a device.

    Args:
        samples: of n images, at least one, from `OpenWorldHead.label`.
        boxes: (n, g, 4) everything that is in the images, labelled or not, in the samples' pixels; boxes without area
            where an image has fewer than g.
        kinds: (n, g) index into `KINDS` of each.

    Raises:
        ValueError: `boxes` is not one row per image, or `kinds` not one per box.
    """
    if len(samples) != len(boxes):
        raise ValueError(f"boxes must be one row per image, {len(samples)}, not {len(boxes)}")
    if kinds.shape != boxes.shape[:2]:
        raise ValueError(f"kinds must be one per box, {tuple(boxes.shape[:2])}, not {tuple(kinds.shape)}")
    chosen, pseudo = filled_up([sample.boxes for sample in samples]), filled_up([sample.pseudo for sample in samples])
    random = filled_up([sample.boxes[:0] if sample.random is None else sample.random() for sample in samples])
    # Where fewer were chosen than wanted, the first random ones: those are in random order.
    as_many = torch.arange(random.shape[1], device=random.device) < pseudo.sum(dim=1, keepdim=True)
    as_many &= (random[..., 2:] > random[..., :2]).all(dim=-1)
    counted = torch.cat([pseudo, as_many], dim=1)[..., None]
    on = _lies_on(torch.cat([chosen, random], dim=1), boxes.to(chosen), kinds.to(chosen.device)).mul_(counted)
    return torch.stack([part.sum(dim=(0, 1)) for part in on.split([chosen.shape[1], random.shape[1]], dim=1)])


def _lies_on(
    regions: Float[Tensor, "n s 4"], truth: Float[Tensor, "n g 4"], kinds: Int[Tensor, "n g"]
) -> Int[Tensor, "n s 5"]:
    """One-hot kind of the box that each region overlaps best, if by an IoU of at least `OBJECT_IOU`."""
    where = torch.full(regions.shape[:2], BACKGROUND_KIND, device=regions.device)
    if truth.shape[1] and regions.shape[1]:
        overlap, which = iou(truth, regions).max(dim=1)
        where = torch.where(overlap >= OBJECT_IOU, kinds.gather(1, which), where)
    return one_hot(where, len(KINDS))


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
