"""Which detection lies on which object: overlaps of all images at once, and the two ways of pairing them off."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detection.data.annotations import Boxes, Indices, Mask
from detection.evaluation.arrays import Floats

CHUNK = 200_000
"""So many pairs of boxes at a time: they stay in the processor's cache, and memory does not grow with the set."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Boxes of one image that overlap enough: (P,) detection, (P,) truth, (P,) how much."""

    detection: Indices
    truth: Indices
    overlap: Floats

    def __getitem__(self, which: Mask) -> "Pairs":
        return Pairs(self.detection[which], self.truth[which], self.overlap[which])


def overlapping(
    image: Indices,
    boxes: Boxes,
    truth_image: Indices,
    truth_boxes: Boxes,
    *,
    above: float,
    strictly: bool = False,
    pixel: float = 0.0,
    of_detection: bool = False,
) -> Pairs:
    """All pairs with an intersection over union of at least `above` (`strictly`: greater).

    Args:
        pixel: 1 where corners are the numbers of pixels, both of which belong to the box (VOC), so that a width is
            right - left + 1; 0 where right and bottom are where the box ends (COCO).
        of_detection: divide by the detection's area instead of the union, as COCO does for crowds.
    """
    grouped = np.argsort(truth_image, kind="stable")
    images = int(max(image.max(initial=-1), truth_image.max(initial=-1))) + 1
    counts = np.bincount(truth_image, minlength=images)
    first = np.cumsum(counts) - counts
    area = _area(boxes, pixel)
    truth_area = _area(truth_boxes, pixel)
    kept = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for rows in _chunks(counts[image]):
        many = counts[image[rows]]
        detection = np.repeat(rows, many)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(many) - many, many)
        truth = grouped[np.repeat(first[image[rows]], many) + within]
        shared = _intersection(boxes[detection], truth_boxes[truth], pixel)
        whole = area[detection] if of_detection else area[detection] + truth_area[truth] - shared
        overlap = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
        enough = overlap > above if strictly else overlap >= above
        kept.append(Pairs(detection, truth, overlap)[enough])
    return Pairs(
        np.concatenate([pairs.detection for pairs in kept]),
        np.concatenate([pairs.truth for pairs in kept]),
        np.concatenate([pairs.overlap for pairs in kept]),
    )


def _chunks(pairs: Indices) -> Iterator[Indices]:
    """Rows with partners, so many that they have about CHUNK pairs; never less than one row."""
    rows = np.flatnonzero(pairs)
    upto = np.cumsum(pairs[rows])
    start = 0
    while start < len(rows):
        before = upto[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(upto, before + CHUNK, side="right")))
        yield rows[start:stop]
        start = stop


def _area(boxes: Boxes, pixel: float) -> Floats:
    area: Floats = (boxes[:, 2] - boxes[:, 0] + pixel) * (boxes[:, 3] - boxes[:, 1] + pixel)
    return area


def _intersection(ours: Boxes, theirs: Boxes, pixel: float) -> Floats:
    width = np.minimum(ours[:, 2], theirs[:, 2]) - np.maximum(ours[:, 0], theirs[:, 0]) + pixel
    height = np.minimum(ours[:, 3], theirs[:, 3]) - np.maximum(ours[:, 1], theirs[:, 1]) + pixel
    shared: Floats = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return shared


def best_truth(pairs: Pairs, detections: int) -> Indices:
    """(detections,) the truth that each overlaps most, the first of equals; -1 where there is none. VOC's way."""
    best = np.full(detections, -1, dtype=np.int64)
    order = np.lexsort((pairs.truth, -pairs.overlap, pairs.detection))
    who, first = np.unique(pairs.detection[order], return_index=True)
    best[who] = pairs.truth[order][first]
    return best


def first_of_each(values: npt.NDArray[np.int64]) -> Mask:
    """(n,) whether a value that is not negative stands there for the first time."""
    first = np.zeros(len(values), dtype=bool)
    rows = np.flatnonzero(values >= 0)
    first[rows[np.unique(values[rows], return_index=True)[1]]] = True
    return first


def greedy(pairs: Pairs, detections: int, truths: int) -> Indices:
    """(detections,) the truth that each detection gets, or -1. COCO's way.

    Detections come in the order of their numbers; each takes the truth it overlaps most among those that are still
    free (the first of equals). All images and classes at once: every detection asks for its best truth, a truth keeps
    the earliest who asks, and who is turned away asks for its next. As all truths prefer the same (the earliest), this
    ends where taking turns ends.
    """
    order = np.lexsort((pairs.truth, -pairs.overlap, pairs.detection))
    wishes = pairs.truth[order]
    counts = np.bincount(pairs.detection, minlength=detections)
    end = np.cumsum(counts)
    turn = end - counts  # each detection's next wish
    holder = np.full(truths, detections, dtype=np.int64)
    asking = np.flatnonzero(counts)
    while len(asking):
        wanted = wishes[turn[asking]]
        before = holder[wanted]
        np.minimum.at(holder, wanted, asking)
        got = holder[wanted] == asking
        displaced = before[got]
        away = np.concatenate([asking[~got], displaced[displaced < detections]])
        turn[away] += 1
        asking = away[turn[away] < end[away]]
    matched = np.full(detections, -1, dtype=np.int64)
    held = np.flatnonzero(holder < detections)
    matched[holder[held]] = held
    return matched
