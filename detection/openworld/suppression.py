"""One suppression across known classes and unknown: an object gets one verdict."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detection.openworld.boxes import iou as overlap
from detection.structures import UNKNOWN

_BLOCK = 512  # rows that are compared with each other at once


@torch.no_grad()
def suppress(
    boxes: Float[Tensor, "n 4"],
    labels: Int[Tensor, " n"],
    scores: Float[Tensor, " n"],
    *,
    iou: float,
    strongest_only: int | None = None,
) -> Int[Tensor, " m"]:
    """Greedy: of two boxes that overlap by more than `iou`, and contend, the one with the lower score goes.

    Boxes of one class contend, as in Faster R-CNN, and an unknown box contends with everything: a known box suppresses
    the unknown boxes around it, and an unknown box the less certain claims that it is something known. Boxes of two
    different known classes do not contend. A box that is suppressed suppresses nothing.

    Args:
        boxes: (n, 4).
        labels: (n,) in the label space.
        scores: (n,); of equal ones the earlier box stays.
        iou: in [0, 1].
        strongest_only: leave off once nothing that follows can be among so many `strongest`.

    Returns:
        Indices of what stays, by falling score. Exact for any n; memory grows with n, not with its square.
    """
    order = scores.sort(descending=True, stable=True).indices
    kept = order[:0]
    for block in order.split(_BLOCK):
        alive = torch.ones_like(block, dtype=torch.bool)
        if len(kept):
            alive = ~_beats(boxes, labels, kept, block, iou).any(dim=0)
        kept = torch.cat([kept, block[_greedy(_beats(boxes, labels, block, block, iou).triu(1), alive)]])
        if strongest_only is not None and _enough(labels[kept], strongest_only):
            break
    return kept


def _enough(labels: Tensor, count: int) -> bool:
    unknown = int((labels == UNKNOWN).sum())
    return len(labels) >= count and min(unknown, len(labels) - unknown) >= count // 2


def _beats(boxes: Tensor, labels: Tensor, winners: Tensor, losers: Tensor, iou: float) -> Bool[Tensor, "a b"]:
    """Whether each of the winners, if it stays, suppresses each of the losers."""
    a, b = labels[winners, None], labels[losers]
    contend = (a == b).logical_or_(a == UNKNOWN).logical_or_(b == UNKNOWN)
    return (overlap(boxes[winners], boxes[losers]) > iou).logical_and_(contend)


def _greedy(beats: Bool[Tensor, "n n"], alive: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """What stays of rows by falling score, where row i suppresses column j > i if it stays itself.

    Whether a row stays is settled once it is for all that beat it: each round settles one link of the longest chain,
    of which there are few, where a loop would take a step for each row.
    """
    matrix = beats.to(torch.float32)
    stays = alive
    while True:
        new = alive & (stays.to(torch.float32) @ matrix == 0)
        if torch.equal(new, stays):
            return new
        stays = new


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
