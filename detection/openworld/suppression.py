"""Which boxes stay: of one class, and across known and unknown."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import batched_nms, nms

from detection.openworld.boxes import iou as overlap
from detection.structures import UNKNOWN


@torch.no_grad()
def suppress(
    boxes: Float[Tensor, "n 4"],
    labels: Int[Tensor, " n"],
    scores: Float[Tensor, " n"],
    *,
    iou: float,
    sure: float,
    doubtful: float,
) -> Int[Tensor, " m"]:
    """Of two boxes of one label that overlap by more than `iou` the one with the lower score goes, as in Faster R-CNN.

    Across known and unknown, what a known box claims decides, its probability: one that is sure suppresses the unknown
    boxes around it, and one that is doubtful goes where an unknown box stays. Between both either stays, for the scores
    of known and unknown boxes are not of one kind: where the higher one won, many known objects went under unknown
    boxes, and the prior had to be low (docs/results/openworld.md). A box that is suppressed suppresses nothing.

    Args:
        boxes: (n, 4).
        labels: (n,) in the label space.
        scores: (n,); of equal ones the earlier box stays.
        iou: in [0, 1].
        sure: score of a known box from which on it suppresses unknown ones.
        doubtful: score of a known box below which unknown ones suppress it; at most `sure`.

    Returns:
        Indices of what stays, by falling score.
    """
    known, unknown = (labels != UNKNOWN).nonzero()[:, 0], (labels == UNKNOWN).nonzero()[:, 0]
    known = known[batched_nms(boxes[known], scores[known], labels[known], iou)]
    if len(unknown):
        claim, meets = scores[known], overlap(boxes[unknown], boxes[known]) > iou
        free = (~(meets & (claim >= sure)).any(dim=1)).nonzero()[:, 0]
        free = free[nms(boxes[unknown[free]], scores[unknown[free]], iou)]
        stays = (claim >= doubtful) | ~meets[free].any(dim=0)
        known, unknown = known[stays], unknown[free]
    rows = torch.cat([known, unknown]).sort().values  # of equal scores the earlier is first
    return rows[scores[rows].sort(descending=True, stable=True).indices]


@torch.no_grad()
def strongest(labels: Int[Tensor, " n"], scores: Float[Tensor, " n"], count: int) -> Int[Tensor, " m"]:
    """At most `count` rows by falling score, of which known and unknown each have half a claim.

    The scores of known and unknown boxes are not of one kind. Up to count // 2 of the best known boxes and as many of
    the best unknown ones stay in any case; the remaining places go to the highest scores of either.
    """
    order = scores.sort(descending=True, stable=True).indices
    if len(order) <= count:
        return order
    unknown = labels[order] == UNKNOWN
    rank = torch.where(unknown, unknown.cumsum(0), (~unknown).cumsum(0))
    claimed = rank <= count // 2
    chosen = (~claimed).to(torch.uint8).sort(stable=True).indices[:count]
    return order[chosen.sort().values]
