"""Which background proposals are labelled unknown in training.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021, section 4.2: what the region proposal network
takes for an object, and no person has labelled, is labelled unknown.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import box_iou

from detection.openworld.boxes import highest_iou
from detection.openworld.sampling import NOTHING, OBJECT_IOU, Candidates, Moment, RegionSample
from detection.structures import BACKGROUND, UNKNOWN

_STREAM = 101  # of the keyed random numbers
_LAST = 1 << 24  # above all of them
_ORE_LEFT_OUT = -1.0  # the "logit" of objects in the original's choice


@dataclass
class Choice:
    """What was chosen in an image.

    Attributes:
        candidates: those of the image, with labels that leave out what may be the same objects.
        pseudo: (c,) which are to be labelled unknown.
        random: (k, 4) as many of those that could have been; boxes without area where there are fewer.
    """

    candidates: Candidates
    pseudo: Bool[Tensor, " c"]
    random: Float[Tensor, "k 4"]


class UnknownLabeler:
    """Labels the k proposals of highest objectness unknown, among those that nobody has labelled.

    Chosen among all proposals, not only those that were sampled. Left out are proposals that overlap a labelled box,
    ignored ones included, by more than `guard`: parts of known objects; those that overlap by more than `guard` a box
    that the previous task's model calls known: its classes are unlabelled now, not unknown; those whose shorter side is
    below `min_side`; and those whose objectness is not finite. Equal objectness: the earlier proposal.

    A pseudo-unknown has no box to regress to, and other proposals of what may be the same object (an IoU of at least
    `OBJECT_IOU` with a pseudo-unknown) are not background either: ORE trains on them as background, ten against one.

    `compat="ore"` chooses as the original's code does instead, among the regions that were sampled, and keeps these of
    its defects: (a) they may be parts of known objects, up to an IoU of 0.5; (b) objects are left out by setting their
    raw logits to -1, so that where all others are below -1 a known object is labelled unknown; (c) a pseudo-unknown's
    box is regressed to the labelled box that it overlaps best; (d) only regions that happened to be sampled can be
    chosen. `guard`, `min_side` and the previous model are not looked at, and the other proposals stay background. Its
    loops over regions are not reproduced.

    Args:
        k: proposals an image; 0: none.
        guard: IoU in [0, 1].
        min_side: in pixels of the network's image.
        compat: None or "ore".
    """

    def __init__(self, k: int, *, guard: float = 0.1, min_side: float = 0.0, compat: Literal["ore"] | None = None):
        if k < 0 or not 0 <= guard <= 1 or not min_side >= 0:
            raise ValueError(
                f"k and min_side must not be negative and guard be in [0, 1], not {k}, {min_side} and {guard}"
            )
        if compat not in (None, "ore"):
            raise ValueError(f'compat is None or "ore", not {compat!r}')
        self.k, self.guard, self.min_side, self.compat = k, guard, min_side, compat

    @torch.no_grad()
    def choose(
        self,
        proposals: Float[Tensor, "p 4"],
        objectness: Float[Tensor, " p"],
        labelled: Float[Tensor, "g 4"],
        *,
        previous: Float[Tensor, "q 4"] | None = None,
    ) -> Bool[Tensor, " p"]:
        """Which proposals are to be labelled unknown: at most k.

        Args:
            proposals: (p, 4) all that the region proposal network gives; no labelled boxes among them.
            objectness: (p,) its logits.
            labelled: (g, 4) known and ignored boxes.
            previous: (q, 4) boxes that the previous task's model calls known.
        """
        if objectness.shape != proposals.shape[:1]:
            raise ValueError(f"objectness must be one per proposal, ({len(proposals)},), not {tuple(objectness.shape)}")
        free = self.unlabelled(proposals, labelled, previous=previous)
        return self._highest(free & objectness.isfinite(), objectness)

    @torch.no_grad()
    def unlabelled(
        self, proposals: Float[Tensor, "p 4"], labelled: Float[Tensor, "g 4"], *, previous: Tensor | None = None
    ) -> Bool[Tensor, " p"]:
        """Proposals that could be chosen, whatever their objectness."""
        proposals = proposals.detach()
        taken = labelled if previous is None else torch.cat([labelled.to(proposals), previous.to(proposals)])
        free = (proposals[:, 2:] - proposals[:, :2]).amin(dim=1) >= self.min_side
        if len(taken):
            free &= highest_iou(proposals, taken.to(proposals)) <= self.guard
        return free

    def _highest(self, free: Bool[Tensor, " p"], objectness: Float[Tensor, " p"]) -> Bool[Tensor, " p"]:
        # A stable sort, where topk leaves open which of two equals it takes.
        order = objectness.float().masked_fill(~free, -torch.inf).sort(descending=True, stable=True).indices[: self.k]
        return torch.zeros_like(free).scatter_(0, order, free[order])

    @torch.no_grad()
    def choose_among(
        self,
        candidates: Candidates,
        objectness: Float[Tensor, " p"],
        moment: Moment,
        *,
        previous: Float[Tensor, "q 4"] | None = None,
    ) -> Choice:
        """`choose` for all candidates of an image, before they are sampled; with `compat="ore"` none is chosen yet.

        Args:
            candidates: labelled boxes, then the p proposals.
            objectness: (p,) logits.
            moment: of the random proposals that the choice is compared with.
            previous: (q, 4) boxes that the previous task's model calls known.
        """
        first = candidates.labelled
        labelled, proposals = candidates.boxes[:first], candidates.boxes[first:]
        free = candidates.labels[first:] == BACKGROUND
        chosen = torch.zeros_like(free)
        if self.compat is None:
            free = free & self.unlabelled(proposals, labelled, previous=previous)
            chosen = self._highest(free & objectness.isfinite(), objectness)
        pseudo = torch.cat([chosen.new_zeros(first), chosen])
        priority = moment.priorities(len(free), _STREAM, free.device)
        drawn = torch.where(free, priority, _LAST).sort(stable=True).indices[: self.k]
        random = proposals[drawn] * free[drawn, None]
        return Choice(_without_doubles(candidates, pseudo, self.k), pseudo, random)

    @torch.no_grad()
    def relabel_as_ore(
        self,
        sample: RegionSample,
        objectness: Float[Tensor, " s"],
        labelled: Float[Tensor, "g 4"],
    ) -> RegionSample:
        """The original's choice among the sampled regions; see the class for its defects.

        Args:
            sample: of known objects and background.
            objectness: (s,) logits of its rows.
            labelled: (g, 4) labelled boxes, the targets of defect (c).
        """
        counts = sample.labels >= BACKGROUND
        logits = torch.where(sample.labels > BACKGROUND, _ORE_LEFT_OUT, objectness.float())
        order = logits.masked_fill(~counts, -torch.inf).sort(descending=True, stable=True).indices[: self.k]
        pseudo = torch.zeros_like(counts).scatter_(0, order, counts[order])
        labels = torch.where(pseudo, UNKNOWN, sample.labels)
        if len(labelled) == 0:
            return replace(sample, labels=labels, pseudo=pseudo)
        best = labelled[box_iou(sample.boxes, labelled).argmax(dim=1)]
        matched = torch.where(pseudo[:, None], best, sample.matched)
        return replace(sample, labels=labels, matched=matched, regress=sample.regress | pseudo, pseudo=pseudo)


def _without_doubles(candidates: Candidates, pseudo: Bool[Tensor, " c"], k: int) -> Candidates:
    """Background that overlaps a pseudo-unknown as an object's proposal would is labelled `NOTHING`."""
    if k == 0 or len(pseudo) == 0:
        return candidates
    rows = pseudo.to(torch.uint8).topk(min(k, len(pseudo))).indices  # all pseudo-unknowns, and perhaps others
    overlap = box_iou(candidates.boxes[rows], candidates.boxes)
    double = ((overlap >= OBJECT_IOU) & pseudo[rows, None]).any(dim=0) & ~pseudo
    background = candidates.labels == BACKGROUND
    labels = candidates.labels.masked_fill(double & background, NOTHING)
    return replace(candidates, labels=labels)
