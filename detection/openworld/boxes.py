"""Box deltas and their loss, as in Faster R-CNN, with class-agnostic deltas in column 0 that unknown objects use.

Ren et al., "Faster R-CNN", NeurIPS 2015, equation 2; weights, clipping and the smooth L1 loss as torchvision has them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder

from detection.openworld.counting import mean_count
from detection.structures import FIRST_KNOWN

_NO_AREA = 1e-9  # in place of an area to divide by
_CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
_BETA = 1 / 9  # where the smooth L1 loss turns from a square into a line
CHUNK = 64
"""Labelled boxes that are compared with all others at a time: an image may have ten thousand, and then has them twice,
because each is a candidate too."""


def common_area(a: Float[Tensor, "*n a 4"], b: Float[Tensor, "*n b 4"]) -> Float[Tensor, "*n a b"]:
    """What each box shares with each of the others, in square pixels. Coordinate by coordinate, each in one piece of
    memory, which is faster on a CPU than torchvision's pairs of corners."""
    left, top, right, bottom = a.movedim(-1, 0).contiguous()[..., :, None]
    x1, y1, x2, y2 = b.movedim(-1, 0).contiguous()[..., None, :]
    shared = (torch.minimum(right, x2).sub_(torch.maximum(left, x1))).clamp_(min=0)
    return shared.mul_((torch.minimum(bottom, y2).sub_(torch.maximum(top, y1))).clamp_(min=0))


def area(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    """In square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float[Tensor, "*n a 4"], b: Float[Tensor, "*n b 4"]) -> Float[Tensor, "*n a b"]:
    """Intersection over union of each box with each of the others; 0 for two boxes without area."""
    shared = common_area(a, b)
    return shared / (area(a)[..., :, None] + area(b)[..., None, :]).sub_(shared).clamp_(min=_NO_AREA)


def highest_iou(boxes: Float[Tensor, "*n b 4"], others: Float[Tensor, "*n m 4"]) -> Float[Tensor, "*n b"]:
    """How much each box overlaps the one of the others that it overlaps most; 0 where there are none. `CHUNK` of the
    others at a time."""
    highest = torch.zeros_like(boxes[..., 0])
    for first in range(0, others.shape[-2], CHUNK):
        highest = torch.maximum(highest, iou(others[..., first : first + CHUNK, :], boxes).amax(dim=-2))
    return highest


def share_within(boxes: Float[Tensor, "a 4"], regions: Float[Tensor, "r 4"]) -> Float[Tensor, "a r"]:
    """Share of each box's area that lies in each region; 0 for boxes without area."""
    return common_area(boxes, regions) / area(boxes).clamp(min=_NO_AREA)[:, None]


def encode(boxes: Float[Tensor, "n 4"], proposals: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Deltas that move each proposal onto its box; both need area."""
    return _CODER.encode_single(boxes, proposals)


def decode(deltas: Float[Tensor, "n b 4"], proposals: Float[Tensor, "n 4"]) -> Float[Tensor, "n b 4"]:
    """Each proposal moved by each of its b deltas; in the dtype of the proposals, not clipped to the image."""
    return _CODER.decode_single(deltas.to(proposals.dtype).flatten(1), proposals).view(deltas.shape)


def clipped(boxes: Float[Tensor, "*n 4"], height: int, width: int) -> Float[Tensor, "*n 4"]:
    """Boxes cut at the borders of the image."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], dim=-1).flatten(-2)


def box_loss(
    deltas: Float[Tensor, "n b 4"],
    proposals: Float[Tensor, "n 4"],
    matched: Float[Tensor, "n 4"],
    labels: Int[Tensor, " n"],
    regress: Bool[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Smooth L1 loss of the deltas of the rows that have a box to regress to.

    Column 0, the class-agnostic deltas, learns from every such row; where there are more columns, that of the row's own
    class learns beside it. Summed over coordinates and divided by all regions that count (labels that are not
    negative, as in the classification loss), so that objects are not weighed by how few there are.

    Args:
        deltas: (n, b, 4) as the predictor gives them; b = 1, or 1 + number of known classes.
        proposals: (n, 4) the sampled regions.
        matched: (n, 4) the box each is to be moved onto; not looked at where `regress` is false.
        labels: (n,) in the label space; negative for rows that only fill up.
        regress: (n,) which rows have a box to regress to: no background and no pseudo-unknowns.

    Returns:
        The loss; with several processes their mean is the loss of the whole batch.
    """
    proposals = _with_area(proposals)
    targets = encode(torch.where(regress[:, None], matched, proposals), proposals)
    total = _of_rows(deltas[:, 0], targets, regress)
    if deltas.shape[1] > 1:
        known = regress & (labels >= FIRST_KNOWN)
        column = (labels - FIRST_KNOWN + 1).clamp(min=0)
        own = deltas.gather(1, column[:, None, None].expand(-1, 1, 4))[:, 0]
        total = total + _of_rows(own, targets, known)
    return total / mean_count((labels >= 0).sum())


def _of_rows(deltas: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    # Rows that do not count are compared with themselves: no loss and no gradient, without selecting rows, which would
    # wait for the device to know how many there are.
    loss = smooth_l1_loss(deltas.float(), targets.float(), beta=_BETA, reduction="none")
    return torch.where(rows[:, None], loss, 0).sum()


def _with_area(boxes: Tensor) -> Tensor:
    """Boxes at least a hundredth of a pixel wide and high: a delta relative to no width is not finite."""
    return torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1e-2)], dim=1)
