"""Which proposals the second stage is trained on, and as what.

As in Faster R-CNN (Ren et al., NeurIPS 2015, section 3.1; Girshick, "Fast R-CNN", ICCV 2015, section 2.3), with two
differences: every random choice is a function of (seed, step, image), so that neither the composition of a batch nor
the number of processes changes a run; and shapes depend on the numbers of proposals alone, so that nothing waits for a
GPU to count.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detection.openworld.boxes import CHUNK, area, common_area
from detection.structures import BACKGROUND, UNKNOWN, Target
from sslcore.random import uniform

NOTHING = -1
"""Label of rows that count for nothing: regions that are neither object nor background, and rows that fill up."""

OBJECT_IOU = 0.5
"""Proposals that overlap a labelled box by at least this much are that object."""

_IGNORED = 0.5  # share of a region inside a crowd or difficult object from which it is no background
_STREAM = 100  # of the keyed random numbers
_BITS = 24  # of one of them
_OBJECTS, _PSEUDO, _BACKGROUND, _REST = range(4)  # the order in which a sample is filled


@dataclass(frozen=True)
class Moment:
    """What the random numbers of an image in a step are a function of.

    Attributes:
        seed: of the run.
        step: of the stage.
        key: number of the image, `Target.key`.
    """

    seed: int
    step: int
    key: int

    def priorities(self, count: int, stream: int, device: torch.device) -> Int[Tensor, " {count}"]:
        """Random integers below 2^24, one a candidate, made on the device: nothing is copied to it."""
        ids = torch.full((1,), self.key, device=device)
        return (uniform(self.seed, self.step, ids, stream=stream, draws=count)[0] * 2.0**_BITS).long()


@dataclass
class RegionSample:
    """The regions of one image that the losses of the second stage are taken on.

    Objects come first, then pseudo-unknowns, then background, then rows that only fill up.

    Attributes:
        boxes: (s, 4) regions, in pixels of the network's image; s is the least of the wanted number and the candidates.
        labels: (s,) in the label space, or `NOTHING`.
        matched: (s, 4) the box to regress to; the region itself where there is none.
        regress: (s,) whether there is one: not for background, pseudo-unknowns and rows that fill up.
        pseudo: (s,) whether the label unknown was given by the `UnknownLabeler` and not by a person.
        rows: (s,) which candidates these are: labelled boxes first, then the proposals.
        random: (k, 4) as many proposals as were labelled unknown, drawn among those that could have been, whatever
            their objectness: what `purity_counts` compares the choice with. Boxes without area where there are fewer.
    """

    boxes: Float[Tensor, "s 4"]
    labels: Int[Tensor, " s"]
    matched: Float[Tensor, "s 4"]
    regress: Bool[Tensor, " s"]
    pseudo: Bool[Tensor, " s"]
    rows: Int[Tensor, " s"]
    random: Float[Tensor, "k 4"]


@dataclass
class Candidates:
    """Everything a sample is drawn from: the labelled boxes, then the proposals. Fields as of `RegionSample`, and

    Attributes:
        labelled: number of labelled boxes (also of ignored ones), which are the first rows.
    """

    boxes: Float[Tensor, "c 4"]
    labels: Int[Tensor, " c"]
    matched: Float[Tensor, "c 4"]
    labelled: int


@torch.no_grad()
def match(proposals: Float[Tensor, "p 4"], target: Target) -> Candidates:
    """Candidates with the labels of the labelled box that each overlaps best.

    At least `OBJECT_IOU`: that object; less: background, unless more than half of the region lies within an ignored box
    (a crowd, a difficult object), which makes it `NOTHING`. Labelled boxes are candidates themselves, as in Faster
    R-CNN, and come first, so that the random numbers they get do not depend on the number of proposals.
    """
    proposals = proposals.detach()
    boxes = torch.cat([target.boxes.to(proposals), proposals])
    labels = torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    if target.boxes.numel() == 0:
        return Candidates(boxes, labels, boxes, 0)

    labelled = boxes[: len(target.boxes)]
    best, which, inside = _best_labelled(boxes, labelled, target.ignore)
    is_object = best >= OBJECT_IOU
    labels = torch.where(is_object, target.labels[which], torch.where(inside > _IGNORED, NOTHING, labels))
    matched = torch.where(is_object[:, None], labelled[which], boxes)
    # An ignored box is no candidate of its own, whatever it overlaps.
    labels[: len(labelled)].masked_fill_(target.ignore, NOTHING)
    return Candidates(boxes, labels, matched, len(labelled))


@torch.no_grad()
def sample(
    candidates: Candidates,
    pseudo: Bool[Tensor, " c"],
    moment: Moment,
    *,
    regions: int,
    positive: float,
) -> RegionSample:
    """At random, at most `positive * regions` objects; then all pseudo-unknowns; then background up to `regions`.

    Objects beyond their share and candidates labelled `NOTHING` follow as rows labelled `NOTHING` where there is not
    enough background: the number of rows is min(regions, candidates), whatever the labels say.

    Args:
        candidates: c of them, from `match`.
        pseudo: (c,) background that is to be labelled unknown.
        moment: all that the choice depends on beside the candidates.
        regions: rows wanted.
        positive: largest share of objects.

    Raises:
        ValueError: `positive` or `regions` leaves no room, or shapes do not belong together.
    """
    if regions < 1 or not 0 <= positive <= 1:
        raise ValueError(f"regions must be at least 1 and positive a share in [0, 1], not {regions} and {positive}")
    if pseudo.shape != candidates.labels.shape:
        raise ValueError(
            f"pseudo must be one per candidate, {tuple(candidates.labels.shape)}, not {tuple(pseudo.shape)}"
        )
    labels = candidates.labels
    pseudo = pseudo & (labels == BACKGROUND)
    priority = moment.priorities(len(labels), _STREAM, labels.device)

    is_object = labels > BACKGROUND
    place = _order(torch.where(is_object, 0, 1), priority).argsort()  # of every candidate, objects first
    chosen = is_object & (place < int(positive * regions))
    group = torch.where(labels == BACKGROUND, _BACKGROUND, _REST)
    group = torch.where(pseudo, _PSEUDO, torch.where(chosen, _OBJECTS, group))

    rows = _order(group, priority)[:regions]
    group = group[rows]
    labels = torch.where(group == _PSEUDO, UNKNOWN, torch.where(group == _REST, NOTHING, labels[rows]))
    regress = group == _OBJECTS
    boxes = candidates.boxes[rows]
    matched = torch.where(regress[:, None], candidates.matched[rows], boxes)
    return RegionSample(boxes, labels, matched, regress, group == _PSEUDO, rows, boxes[:0])


def _order(group: Int[Tensor, " c"], priority: Int[Tensor, " c"]) -> Int[Tensor, " c"]:
    """Candidates by group, then by priority. In integers, exact on every device."""
    return ((group << _BITS) + priority).argsort(stable=True)


def _best_labelled(
    boxes: Float[Tensor, "c 4"], labelled: Float[Tensor, "g 4"], ignored: Bool[Tensor, " g"]
) -> tuple[Float[Tensor, " c"], Int[Tensor, " c"], Float[Tensor, " c"]]:
    """For each box: its IoU with the labelled box that it overlaps most, of those that are not ignored; which that is,
    the first of equals; and the largest share of it that lies within an ignored one.

    Some of the labelled boxes at a time: memory grows with their number, not with its square.
    """
    areas = area(boxes)
    best = torch.full_like(areas, -1.0)
    which = torch.zeros_like(areas, dtype=torch.int64)
    inside = torch.zeros_like(areas)
    for first in range(0, len(labelled), CHUNK):
        some, out = labelled[first : first + CHUNK], ignored[first : first + CHUNK, None]
        shared = common_area(some, boxes)
        together = (area(some)[:, None] + areas).sub_(shared).clamp_(min=1e-9)
        highest, index = (shared / together).masked_fill_(out, -1.0).max(dim=0)
        better = highest > best
        best, which = torch.where(better, highest, best), torch.where(better, index + first, which)
        inside = torch.maximum(inside, shared.masked_fill_(~out, 0).amax(dim=0) / areas.clamp(min=1e-9))
    return best, which, inside
