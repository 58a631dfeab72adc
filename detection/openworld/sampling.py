"""Which proposals the second stage is trained on, and as what.

As in Faster R-CNN (Ren et al., NeurIPS 2015, section 3.1; Girshick, "Fast R-CNN", ICCV 2015, section 2.3), with two
differences: every random choice is a function of (seed, step, image), so that neither the composition of a batch nor
the number of processes changes a run; and shapes depend on the numbers of proposals alone, so that nothing waits for a
GPU to count.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detection.openworld.boxes import CHUNK, area, common_area
from detection.structures import BACKGROUND, UNKNOWN, Target
from sslcore.random import uniform

NOTHING = -1
"""Label of rows that count for nothing: regions that are neither object nor background, and rows that fill up."""

OBJECT_IOU = 0.5
"""Proposals that overlap a labelled box by at least this much are that object."""

_IGNORED = 0.5  # share of a region inside a crowd or difficult object from which it is no background
_TOGETHER = 16  # labelled boxes that most images have no more of
_STREAM = 100  # of the keyed random numbers
_BITS = 24  # of one of them, and of a candidate's number
_OBJECTS, _PSEUDO, _BACKGROUND, _REST, _MISSING = range(5)  # the order in which a sample is filled
_LAST = 1 << 2 * _BITS  # above every random order


@dataclass(frozen=True)
class Moment:
    """What the random numbers of the images of a batch in a step are a function of, each of its own key.

    Attributes:
        seed: of the run.
        step: of the stage.
        keys: number of each image, `Target.key`.
    """

    seed: int
    step: int
    keys: tuple[int, ...]

    def priorities(self, count: int, stream: int, device: torch.device) -> Int[Tensor, "n {count}"]:
        """Random integers below 2^24, made on the device: nothing is copied to it."""
        ids = torch.stack([torch.full((), key, device=device) for key in self.keys])
        return (uniform(self.seed, self.step, ids, stream=stream, draws=count) * 2.0**_BITS).long()


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
        random: gives (k, 4) as many proposals as were labelled unknown, drawn among those that could have been,
            whatever their objectness: what `purity_counts` compares the choice with. Boxes without area where there are
            fewer. A function, because only measuring asks for it. None where no proposal was to be labelled unknown.
    """

    boxes: Float[Tensor, "s 4"]
    labels: Int[Tensor, " s"]
    matched: Float[Tensor, "s 4"]
    regress: Bool[Tensor, " s"]
    pseudo: Bool[Tensor, " s"]
    rows: Int[Tensor, " s"]
    random: Callable[[], Float[Tensor, "k 4"]] | None = field(default=None, repr=False)


@dataclass
class Candidates:
    """Everything the samples of a batch are drawn from: of each image the labelled boxes, then the proposals.

    Images with fewer than others have rows that fill up after both: boxes without area, labelled `NOTHING`.

    Attributes:
        boxes: (n, c, 4).
        labels: (n, c) of the labelled box that each overlaps best, `BACKGROUND` or `NOTHING`.
        matched: (n, c, 4) that labelled box; the region itself where there is none.
        overlap: (n, c) IoU with the labelled box, ignored or not, that each overlaps most.
        number: (n, c) of each among the candidates of its own image; -1 where a row fills up.
        labelled: how many of the c are for labelled boxes (also ignored ones); they are the first.
        counts: candidates of each image.
    """

    boxes: Float[Tensor, "n c 4"]
    labels: Int[Tensor, "n c"]
    matched: Float[Tensor, "n c 4"]
    overlap: Float[Tensor, "n c"]
    number: Int[Tensor, "n c"]
    labelled: int
    counts: list[int]


@torch.no_grad()
def match(proposals: Sequence[Float[Tensor, "p 4"]], targets: Sequence[Target]) -> Candidates:
    """Candidates with the labels of the labelled box that each overlaps best, for one image or more.

    At least `OBJECT_IOU`: that object; less: background, unless more than half of the region lies within an ignored box
    (a crowd, a difficult object), which makes it `NOTHING`. Labelled boxes are candidates themselves, as in Faster
    R-CNN, and come first, so that the random numbers they get do not depend on the number of proposals.
    """
    labelled = filled_up([target.boxes for target in targets]).to(proposals[0])
    boxes = torch.cat([labelled, filled_up(proposals)], dim=1)
    number = _numbers(proposals, targets)
    labels = torch.where(number >= 0, BACKGROUND, NOTHING)
    counts = [len(some) + len(target.boxes) for some, target in zip(proposals, targets, strict=True)]
    if not labelled.numel():
        return Candidates(boxes, labels, boxes, torch.zeros_like(boxes[..., 0]), number, 0, counts)

    ignored = filled_up([target.ignore for target in targets])
    best, which, inside, overlap = _best_labelled(boxes, labelled, ignored, [len(target.boxes) for target in targets])
    is_object = best >= OBJECT_IOU
    own = filled_up([target.labels for target in targets]).gather(1, which)
    labels = torch.where(is_object, own, torch.where(inside > _IGNORED, NOTHING, labels))
    matched = torch.where(is_object[..., None], rows_of(labelled, which), boxes)
    # An ignored box is no candidate of its own, whatever it overlaps.
    labels[:, : labelled.shape[1]].masked_fill_(ignored, NOTHING)
    return Candidates(boxes, labels, matched, overlap, number, labelled.shape[1], counts)


@torch.no_grad()
def sample(
    candidates: Candidates,
    pseudo: Bool[Tensor, "n c"],
    moment: Moment,
    *,
    regions: int,
    positive: float,
) -> list[RegionSample]:
    """Of each image at random, at most `positive * regions` objects; then all pseudo-unknowns; then background up to
    `regions`.

    Objects beyond their share and candidates labelled `NOTHING` follow as rows labelled `NOTHING` where there is not
    enough background: the number of rows is min(regions, candidates), whatever the labels say.

    Args:
        candidates: c of each image, from `match`.
        pseudo: (n, c) background that is to be labelled unknown.
        moment: all that the choice depends on beside the candidates.
        regions: rows wanted of each image.
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
    labels, number = candidates.labels, candidates.number
    order = _random_order(number, moment)
    is_object, is_background = labels > BACKGROUND, labels == BACKGROUND
    chosen = is_object & _least(torch.where(is_object, order, _LAST), int(positive * regions))

    group = torch.where(is_background, _BACKGROUND, torch.where(number < 0, _MISSING, _REST))
    group = torch.where(pseudo & is_background, _PSEUDO, torch.where(chosen, _OBJECTS, group))
    most = min(regions, labels.shape[1])
    rows = ((group << 2 * _BITS) + order).topk(most, dim=1, largest=False).indices

    group = group.gather(1, rows)
    labels = torch.where(group == _PSEUDO, UNKNOWN, torch.where(group == _REST, NOTHING, labels.gather(1, rows)))
    regress = group == _OBJECTS
    boxes = rows_of(candidates.boxes, rows)
    matched = torch.where(regress[..., None], rows_of(candidates.matched, rows), boxes)
    drawn = (boxes, labels, matched, regress, group == _PSEUDO, number.gather(1, rows))
    return [
        RegionSample(*(values[: min(regions, count)] for values in image))
        for count, *image in zip(candidates.counts, *drawn, strict=True)
    ]


def filled_up(rows: Sequence[Tensor]) -> Tensor:
    """Rows of several images as one tensor, (n, most, ...), with zeros after those of images that have fewer."""
    return pad_sequence(list(rows), batch_first=True)


def rows_of(values: Float[Tensor, "n c 4"], rows: Int[Tensor, "n s"]) -> Float[Tensor, "n s 4"]:
    """Some rows of each image."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


def _numbers(proposals: Sequence[Tensor], targets: Sequence[Target]) -> Int[Tensor, "n c"]:
    """`Candidates.number`. Made on the device: nothing is copied to it."""
    device = proposals[0].device
    ends = [(len(target.boxes), len(target.boxes) + len(some)) for some, target in zip(proposals, targets, strict=True)]
    parts = [torch.arange(end, device=device) for end, _ in ends], [torch.arange(*some, device=device) for some in ends]
    return torch.cat([pad_sequence(part, batch_first=True, padding_value=-1) for part in parts], dim=1)


def _random_order(number: Int[Tensor, "n c"], moment: Moment) -> Int[Tensor, "n c"]:
    """Integers below 2^48, no two of an image alike: by priority, and of equal priorities by number.

    In integers, exact on every device.
    """
    priority = moment.priorities(number.shape[1], _STREAM, number.device)
    return (priority.gather(1, number.clamp(min=0)) << _BITS) + torch.arange(number.shape[1], device=number.device)


def _least(order: Int[Tensor, "n c"], count: int) -> Bool[Tensor, "n c"]:
    """Which are the `count` least of each image."""
    rows = order.topk(min(count, order.shape[1]), dim=1, largest=False, sorted=False).indices
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, rows, True)


def _best_labelled(
    boxes: Float[Tensor, "n c 4"], labelled: Float[Tensor, "n g 4"], ignored: Bool[Tensor, "n g"], counts: Sequence[int]
) -> tuple[Float[Tensor, "n c"], Int[Tensor, "n c"], Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """For each box: its IoU with the labelled box that it overlaps most, of those that are not ignored; which that is,
    the first of equals; the largest share of it that lies within an ignored one; and its highest IoU with any.

    Some of the labelled boxes at a time: memory grows with their number, not with its square.
    """
    areas = area(boxes)
    best = torch.full_like(areas, -1.0)
    which = torch.zeros_like(areas, dtype=torch.int64)
    inside, overlap = torch.zeros_like(areas), torch.zeros_like(areas)
    for of, some in _parts(counts):
        part, out = labelled[of, some], ignored[of, some, None]
        shared = common_area(part, boxes[of])
        together = (area(part)[..., None] + areas[of, None]).sub_(shared).clamp_(min=1e-9)
        overlaps = shared / together
        overlap[of] = torch.maximum(overlap[of], overlaps.amax(dim=1))
        highest, index = overlaps.masked_fill_(out, -1.0).max(dim=1)
        better = highest > best[of]
        best[of] = torch.where(better, highest, best[of])
        which[of] = torch.where(better, index + some.start, which[of])
        share = shared.masked_fill_(~out, 0).amax(dim=1) / areas[of].clamp(min=1e-9)
        inside[of] = torch.maximum(inside[of], share)
    return best, which, inside, overlap


def _parts(counts: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Which labelled boxes of which images are looked at in turn: the first few of all images at once; of images that
    have more, these by themselves, so that a crowded image does not make the others as large."""
    yield slice(None), slice(0, _TOGETHER)
    for image, count in enumerate(counts):
        for first in range(_TOGETHER, count, CHUNK):
            yield slice(image, image + 1), slice(first, first + CHUNK)
