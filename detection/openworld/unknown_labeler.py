"""Which background proposals are labelled unknown in training.

Joseph et al., "Towards Open World Object Detection" (ORE), CVPR 2021, section 4.2: what the region proposal network
takes for an object, and no person has labelled, is labelled unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou

from detection.openworld.boxes import highest_iou, iou
from detection.openworld.sampling import NOTHING, OBJECT_IOU, Candidates, Moment, RegionSample, filled_up, rows_of
from detection.structures import BACKGROUND, UNKNOWN

_STREAM = 101  # of the keyed random numbers
_LAST = 1 << 24  # above all of them
_ORE_LEFT_OUT = -1.0  # the "logit" of objects in the original's choice


@dataclass
class Choice:
    """What was chosen in each image of a batch.

    Attributes:
        candidates: with labels that leave out what may be the same objects.
        pseudo: (n, c) which are to be labelled unknown.
        free: (n, p) which proposals could have been.
        moment: of the random choice among these.
        k: how many an image.
    """

    candidates: Candidates
    pseudo: Bool[Tensor, "n c"]
    free: Bool[Tensor, "n p"]
    moment: Moment
    k: int

    @cached_property
    def _random(self) -> Float[Tensor, "n k 4"]:
        first = self.candidates.labelled
        priority = self.moment.priorities(self.free.shape[1], _STREAM, self.free.device)
        drawn = torch.where(self.free, priority, _LAST).sort(stable=True).indices[:, : self.k]
        return rows_of(self.candidates.boxes[:, first:], drawn) * self.free.gather(1, drawn)[..., None]

    def random_of(self, image: int) -> Float[Tensor, "k 4"]:
        """As many proposals of an image, at random among its free ones; boxes without area where there are fewer.

        Made for the whole batch when first asked for: only measuring does.
        """
        return self._random[image]


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
        return torch.zeros_like(free).scatter_(0, *self._highest(free, objectness))

    @torch.no_grad()
    def unlabelled(
        self, proposals: Float[Tensor, "p 4"], labelled: Float[Tensor, "g 4"], *, previous: Tensor | None = None
    ) -> Bool[Tensor, " p"]:
        """Proposals that could be chosen, whatever their objectness."""
        proposals = proposals.detach()
        taken = labelled if previous is None else torch.cat([labelled.to(proposals), previous.to(proposals)])
        free = self._are_large(proposals)
        if len(taken):
            free &= highest_iou(proposals, taken.to(proposals)) <= self.guard
        return free

    def _highest(
        self, free: Bool[Tensor, "*n p"], objectness: Float[Tensor, "*n p"]
    ) -> tuple[Int[Tensor, "*n k"], Bool[Tensor, "*n k"]]:
        """The k free proposals of highest objectness; and which of these are free, where fewer than k are."""
        free = free & objectness.isfinite()
        # A stable sort, where topk leaves open which of two equals it takes.
        order = objectness.float().masked_fill(~free, -torch.inf).sort(descending=True, stable=True).indices
        highest = order[..., : self.k]
        return highest, free.gather(-1, highest)

    @torch.no_grad()
    def choose_among(
        self,
        candidates: Candidates,
        objectness: Sequence[Float[Tensor, " p"]],
        moment: Moment,
        *,
        previous: Sequence[Float[Tensor, "q 4"]] | None = None,
    ) -> Choice:
        """`choose` for the candidates of each image, before they are sampled; with `compat="ore"` none is chosen yet.

        Args:
            candidates: of n images.
            objectness: n of (p_i,) logits.
            moment: of the random proposals that the choice is compared with.
            previous: n of (q_i, 4) boxes that the previous task's model calls known.
        """
        first = candidates.labelled
        proposals = candidates.boxes[:, first:]
        free = candidates.labels[:, first:] == BACKGROUND
        pseudo = torch.zeros_like(candidates.labels, dtype=torch.bool)
        if self.compat == "ore":
            return Choice(candidates, pseudo, free, moment, self.k)

        free &= (candidates.overlap[:, first:] <= self.guard) & self._are_large(proposals)
        if previous is not None:
            free &= highest_iou(proposals, filled_up(previous).to(proposals)) <= self.guard
        highest, is_chosen = self._highest(free, filled_up(objectness))
        pseudo[:, first:].scatter_(1, highest, is_chosen)
        return Choice(_without_doubles(candidates, pseudo, first + highest, is_chosen), pseudo, free, moment, self.k)

    def _are_large(self, proposals: Float[Tensor, "*n p 4"]) -> Bool[Tensor, "*n p"]:
        return (proposals[..., 2:] - proposals[..., :2]).amin(dim=-1) >= self.min_side

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


def _without_doubles(
    candidates: Candidates, pseudo: Bool[Tensor, "n c"], rows: Int[Tensor, "n k"], is_chosen: Bool[Tensor, "n k"]
) -> Candidates:
    """Background that overlaps a pseudo-unknown as an object's proposal would is labelled `NOTHING`.

    Args:
        candidates: of each image.
        pseudo: which of them are pseudo-unknowns.
        rows: numbers that hold these, and others where there are fewer than k.
        is_chosen: which of the rows they are.
    """
    overlap = iou(rows_of(candidates.boxes, rows), candidates.boxes)
    double = ((overlap >= OBJECT_IOU) & is_chosen[..., None]).any(dim=1) & ~pseudo
    labels = candidates.labels.masked_fill(double & (candidates.labels == BACKGROUND), NOTHING)
    return replace(candidates, labels=labels)
