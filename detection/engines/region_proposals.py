"""Region proposals: where in an image an object may be, whatever it is.

Ren et al., "Faster R-CNN", NeurIPS 2015, on a feature pyramid (Lin et al., CVPR 2017). Anchors, the convolutional head
and the coding of boxes are torchvision's. What its `RegionProposalNetwork` cannot do is here: anchors are sampled by
the image's key instead of a generator's state, losses are normalised over all processes, crowds are neither object nor
background, and the logits of objectness come back with the proposals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from detection.engines.images import ImageBatch
from detection.openworld.boxes import CHUNK, iou, share_within
from detection.openworld.counting import mean_count
from detection.structures import Target
from sslcore.random import uniform

STREAM = 301
"""Of the random numbers that anchors are sampled by; other uses of the same seed and key have others."""

OBJECT, BACKGROUND, NEITHER = 1, 0, -1


class Proposals(NamedTuple):
    """Proposals of one image by falling objectness: (p, 4) boxes, and (p,) logits that they hold an object."""

    boxes: Float[Tensor, "p 4"]
    objectness: Float[Tensor, " p"]


@dataclass(frozen=True)
class AnchorScores:
    """What the head says of all anchors, in float32.

    Attributes:
        anchors: (a, 4), the same for all images of a batch.
        logits: (n, a) of objectness.
        deltas: (n, a, 4) from the anchors to boxes.
        per_level: anchors of each level, finest first.
    """

    anchors: Float[Tensor, "a 4"]
    logits: Float[Tensor, "n a"]
    deltas: Float[Tensor, "n a 4"]
    per_level: list[int]


class RegionProposer(nn.Module):
    """The region proposal network.

    Args:
        channels: of the pyramid's maps.
        strides: of the maps, finest first.
        sizes: side of the square anchors, one for each level.
        ratios: height over width of the anchors.
        seed: of the sampling.
        sampled: anchors an image that the losses are taken on.
        positive: largest share of them that are objects.
        above, below: IoU with a labelled box from which an anchor is an object; below which it is background.
        nms: IoU above which the lower of two proposals of one level is suppressed.
    """

    def __init__(
        self,
        channels: int,
        *,
        strides: Sequence[int],
        sizes: Sequence[float],
        ratios: Sequence[float],
        seed: int,
        sampled: int = 256,
        positive: float = 0.5,
        above: float = 0.7,
        below: float = 0.3,
        nms: float = 0.7,
    ) -> None:
        super().__init__()
        self.anchors = AnchorGenerator(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)
        self.head = RPNHead(channels, len(ratios))
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.seed, self.sampled, self.positive = seed, sampled, positive
        self.above, self.below, self.nms = above, below, nms

    def forward(self, maps: Sequence[Tensor]) -> AnchorScores:
        """Maps of the pyramid (n, c, h, w), finest first, to logits and deltas of all anchors."""
        logits, deltas = self.head(list(maps))
        return AnchorScores(
            self._anchors_of(maps),
            torch.cat([_by_position(level, 1) for level in logits], dim=1).squeeze(2),
            torch.cat([_by_position(level, 4) for level in deltas], dim=1),
            [level.shape[1] * level.shape[2] * level.shape[3] for level in logits],
        )

    def _anchors_of(self, maps: Sequence[Tensor]) -> Tensor:
        """(a, 4) in float32, at the levels' own strides: torchvision divides sides, which rounds for the last level."""
        self.anchors.set_cell_anchors(torch.float32, maps[0].device)
        grids = [list(level.shape[-2:]) for level in maps]
        return torch.cat(self.anchors.grid_anchors(grids, [[stride, stride] for stride in self.strides]))

    # --- proposals -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def propose(
        self, scores: AnchorScores, images: ImageBatch, count: int, *, before: int | None = None
    ) -> list[Proposals]:
        """Boxes by falling objectness, in the network's pixels, within the image; no gradient passes.

        Args:
            scores: of these images.
            images: the batch.
            count: most boxes an image.
            before: most boxes of a level that enter suppression. Twice as many as `count` (up to 2 000) by default; in
                training, where only some are drawn from them, as many are enough.
        """
        chosen, levels = _best_of_each_level(scores, before or max(count, min(2 * count, 2000)))
        logits = scores.logits.gather(1, chosen)
        deltas = scores.deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode_single(deltas.reshape(-1, 4), scores.anchors[chosen].reshape(-1, 4))
        rows = zip(boxes.view(*chosen.shape, 4), logits, images.sizes)
        return [self._suppressed(b, x, levels, size, count) for b, x, size in rows]

    def _suppressed(
        self, boxes: Tensor, logits: Tensor, levels: Tensor, size: tuple[int, int], count: int
    ) -> Proposals:
        boxes = clip_boxes_to_image(boxes, size)
        keep = remove_small_boxes(boxes, 1e-3)
        boxes, logits, levels = boxes[keep], logits[keep], levels[keep]
        keep = batched_nms(boxes, logits, levels, self.nms)[:count]
        return Proposals(boxes[keep], logits[keep])

    # --- losses ----------------------------------------------------------------------------------------------------

    def losses(
        self, scores: AnchorScores, images: ImageBatch, targets: Sequence[Target], *, step: int
    ) -> dict[str, Tensor]:
        """Cross-entropy of objectness and smooth L1 of the deltas, over the anchors that were sampled.

        Both are divided by the mean number of sampled anchors of a process, so that the mean of the processes' losses
        is the loss of the whole batch in one process; all processes must call it.

        Args:
            scores: of these images.
            images: the batch.
            targets: one an image, in the network's pixels. Every box is an object to find, also an `UNKNOWN` one: it is
                for the caller to leave unknown objects out where they must not be known.
            step: training step, which the sampling depends on.

        Returns:
            `"objectness"` and `"proposal_boxes"`.
        """
        with torch.no_grad():
            outside = _outside(scores.anchors, images)
            pairs = [self.assign(scores.anchors, target) for target in targets]
            labels = torch.stack([label for label, _ in pairs]).masked_fill_(outside, NEITHER)
            chosen, is_object, counts = self.sample(labels, targets, step=step)
            matched = torch.stack([boxes for _, boxes in pairs])
            wanted = self._deltas_to(matched, scores.anchors, chosen)
            total = mean_count(counts.sum())
        logits = scores.logits.gather(1, chosen)
        deltas = scores.deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
        entropy = F.binary_cross_entropy_with_logits(logits, is_object.float(), reduction="none")
        distance = F.smooth_l1_loss(deltas, wanted, beta=1 / 9, reduction="none").sum(2)
        return {
            "objectness": (entropy * counts).sum() / total,
            "proposal_boxes": (distance * (counts * is_object)).sum() / total,
        }

    def assign(self, anchors: Float[Tensor, "a 4"], target: Target) -> tuple[Int[Tensor, " a"], Float[Tensor, "a 4"]]:
        """What each anchor stands for (1 object, 0 background, -1 neither), and the box that it overlaps most.

        An anchor is an object if its IoU with a labelled box is high, or if no anchor fits some box better. An anchor
        of which more than half lies in a crowd is no background.
        """
        objects, crowds = target.boxes[~target.ignore], target.boxes[target.ignore]
        best = torch.zeros_like(anchors[:, 0])
        matched = torch.zeros_like(anchors)
        wanted = torch.zeros_like(best, dtype=torch.bool)
        for some in _chunks(objects):
            overlaps = iou(some, anchors)
            highest, index = overlaps.max(dim=0)
            matched = torch.where((highest > best)[:, None], some[index], matched)
            best = torch.maximum(best, highest)
            fits_best = overlaps.amax(dim=1, keepdim=True)
            wanted |= ((overlaps == fits_best) & (fits_best > 0)).any(dim=0)
        wanted |= best >= self.above
        labels = torch.where(wanted, OBJECT, torch.where(best < self.below, BACKGROUND, NEITHER))
        for some in _chunks(crowds):
            crowded = share_within(anchors, some).amax(dim=1) > 0.5
            labels = labels.masked_fill(crowded & (labels == BACKGROUND), NEITHER)
        return labels, matched

    def sample(
        self, labels: Int[Tensor, "n a"], targets: Sequence[Target], *, step: int
    ) -> tuple[Int[Tensor, "n s"], Bool[Tensor, "n s"], Float[Tensor, "n s"]]:
        """Anchors of each image that the losses are taken on, a function of (seed, step, the image's key).

        Returns:
            (n, s) indices; whether each is an object; and 1 for those that count, 0 for what only fills the row.
        """
        keys = torch.tensor([target.key for target in targets], device=labels.device)
        numbers = uniform(self.seed, step, keys, stream=STREAM, draws=labels.shape[1])
        most = min(self.sampled, labels.shape[1])
        # The greatest numbers among those that qualify: a random subset, without a count on the host.
        objects = numbers.where(labels == OBJECT, -1.0).topk(min(int(self.sampled * self.positive), most), dim=1)
        others = numbers.where(labels == BACKGROUND, -1.0).topk(most, dim=1)
        is_chosen = objects.values >= 0
        room = self.sampled - is_chosen.sum(dim=1, keepdim=True)
        fits = (others.values >= 0) & (torch.arange(most, device=labels.device) < room)
        chosen = torch.cat([objects.indices, others.indices], dim=1)
        is_object = torch.cat([is_chosen, torch.zeros_like(fits)], dim=1)
        return chosen, is_object, torch.cat([is_chosen, fits], dim=1).float()

    def _deltas_to(self, matched: Tensor, anchors: Tensor, chosen: Tensor) -> Tensor:
        """(n, s, 4) deltas from the chosen anchors to their boxes; anything finite where there is no box."""
        boxes = matched.gather(1, chosen[..., None].expand(-1, -1, 4)).reshape(-1, 4)
        origins = anchors[chosen].reshape(-1, 4)
        empty = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
        boxes = torch.where(empty[:, None], origins, boxes)
        return self.coder.encode_single(boxes, origins).view(*chosen.shape, 4)


def _chunks(boxes: Tensor) -> tuple[Tensor, ...]:
    return boxes.split(CHUNK) if len(boxes) else ()


def _by_position(level: Tensor, values: int) -> Tensor:
    """(n, anchors * values, h, w) to (n, h * w * anchors, values): the order of torchvision's anchors."""
    n, _, h, w = level.shape
    return level.float().view(n, -1, values, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, values)


def _best_of_each_level(scores: AnchorScores, count: int) -> tuple[Tensor, Tensor]:
    """(n, m) indices of the anchors with the highest logits of each level, and (m,) their levels."""
    chosen, levels, offset = [], [], 0
    for level, logits in enumerate(scores.logits.split(scores.per_level, dim=1)):
        best = logits.topk(min(count, logits.shape[1]), dim=1).indices
        chosen.append(best + offset)
        levels.append(torch.full_like(best[0], level))
        offset += logits.shape[1]
    return torch.cat(chosen, dim=1), torch.cat(levels)


def _outside(anchors: Tensor, images: ImageBatch) -> Tensor:
    """(n, a) anchors whose centre lies in the padding: there is nothing to learn."""
    sizes = torch.tensor(images.sizes, device=anchors.device, dtype=anchors.dtype)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    return (centre[:, 0] >= sizes[:, 1:]) | (centre[:, 1] >= sizes[:, :1])
