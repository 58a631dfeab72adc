"""The prior of being unknown: as high as known classes can bear on validation images.

A decision that calls more regions unknown finds more unknown objects and loses known ones. How many may be lost is a
matter of what a detector is for, so the recipe says it (`DecisionSettings.cost`), and the prior follows. What is lost
is known: no label of a later class is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from detection.data.annotations import LabeledSet
from detection.evaluation.comparison import Comparison, Found, Truths
from detection.evaluation.strict import strict_metrics
from detection.openworld.decision import boxes_of, kept, known_score, log_odds, unknown_score
from detection.openworld.energy_scorer import logit
from detection.openworld.head import OpenWorldHead
from detection.openworld.settings import DecisionSettings
from detection.structures import FIRST_KNOWN, UNKNOWN, Regions

MOST_IMAGES = 1000
"""Validation images that the prior is chosen on: more would change little and take longer."""
_STEPS = 100  # priors to choose among are hundredths
_EVEN = 50  # the highest: beyond it the unknown objects found are hardly more, however much known classes could bear


@dataclass(frozen=True, eq=False)
class Undecided:
    """The regions of an image that can be found, as unknown objects and as known ones; on the CPU.

    Attributes:
        number: of the image in its set.
        boxes: (p, 2, 4) of an unknown object, and of the likeliest known class; in pixels of the image.
        known: (p,) label of that class.
        scores: (p, 2) of the same two.
        by_classifier: (p,) log-odds of unknown without the energy.
        evidence: (p,) what the densities are of.
    """

    number: int
    boxes: Float[Tensor, "p 2 4"]
    known: Int[Tensor, " p"]
    scores: Float[Tensor, "p 2"]
    by_classifier: Float[Tensor, " p"]
    evidence: Float[Tensor, " p"]


def is_looked_at(number: int, count: int) -> bool:
    """Whether the prior is chosen on an image, of so many: `MOST_IMAGES` of them, evenly spread."""
    most = min(count, MOST_IMAGES)
    return number * most // count != (number - 1) * most // count


@dataclass(frozen=True)
class Choice:
    """A prior, and what it costs.

    Attributes:
        prior: the highest, in hundredths and at most one half, at which mAP falls by no more than it may; the lowest if
            none is.
        map_without: mAP of known classes where nothing is called unknown; None if no known object is there.
        map_with: with this prior.
        images: that it was measured on.
    """

    prior: float
    map_without: float | None
    map_with: float | None
    images: int


def undecided(head: OpenWorldHead, image: Regions, number: int, scale: tuple[float, float]) -> Undecided:
    """What of an image the choice needs.

    Args:
        head: says what each region would be.
        image: its regions.
        number: see `Undecided`.
        scale: pixels of the network's image in one of the image, across and down.
    """
    logits = image.logits[:, : FIRST_KNOWN + len(head.known)]
    probabilities = logits.float().softmax(dim=1)
    of_unknown = unknown_score(probabilities, image.objectness, head.taught)
    scores = torch.stack([of_unknown, known_score(probabilities)], dim=1)
    rows = (scores >= head.decision.score_floor).any(dim=1)
    known = probabilities[rows, FIRST_KNOWN:].argmax(dim=1) + FIRST_KNOWN
    both = torch.full_like(known, UNKNOWN), known
    boxes = torch.stack([boxes_of(image.boxes[rows], labels) for labels in both], dim=1)
    parts = (
        boxes / boxes.new_tensor([*scale, *scale]),
        known,
        scores[rows],
        log_odds(logits[rows], torch.zeros_like(known, dtype=torch.float32), head.taught),
        head.scorer.evidence(logits[rows]),
    )
    return Undecided(number, *(part.cpu() for part in parts))


def choose_prior(head: OpenWorldHead, images: Sequence[Undecided], val: LabeledSet) -> Choice:
    """The highest prior up to one half that costs known classes no more than `head.decision.cost`.

    The cost is in mAP (IoU .5, mode `strict`) against calling nothing unknown.

    mAP falls as the prior rises, as good as always, so the prior is found by bisection.

    Args:
        head: with its densities fitted.
        images: of the set, at least one.
        val: labels of the known classes; others are not looked at.
    """
    images = sorted(images, key=lambda image: image.number)  # else ties would fall as the processes' shares do
    truths = _truths(images, val)
    device = head.scorer.energies.device
    ratios = [head.scorer.log_likelihood_ratio(image.evidence.to(device)).cpu() for image in images]

    def quality(prior: float | None) -> float | None:
        pairs = zip(images, ratios, strict=True)
        found = [_known_found(image, ratio, prior, head.decision) for image, ratio in pairs]
        return _known_map(found, truths)

    without = quality(None)
    if without is None:
        return Choice(head.scorer.prior, None, None, len(images))
    low, high = 0, _EVEN + 1
    while high - low > 1:
        middle = (low + high) // 2
        reached = quality(middle / _STEPS) or 0.0
        low, high = (middle, high) if reached >= without - head.decision.cost else (low, middle)
    prior = max(low, 1) / _STEPS
    return Choice(prior, without, quality(prior), len(images))


def _known_map(found: Sequence[tuple[Tensor, Tensor, Tensor]], truths: Comparison) -> float | None:
    """mAP of what is called known in each image: its boxes, labels and scores."""
    image = np.repeat(np.arange(len(found)), [len(scores) for _, _, scores in found])
    boxes, labels, scores = (torch.cat(parts).double().numpy() for parts in zip(*found, strict=True))
    detections = Found(image, boxes, labels.astype(np.int64) - FIRST_KNOWN, scores, None, None)
    value: float | None = strict_metrics(replace(truths, found=detections))["map_both"]
    return value


def _known_found(
    image: Undecided, ratio: Float[Tensor, " p"], prior: float | None, settings: DecisionSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, labels and scores of what is found in an image and called known; without a prior, all that is found.

    Args:
        image: its regions.
        ratio: what the energy says for unknown, see `EnergyScorer.log_likelihood_ratio`.
        prior: of unknown; None: nothing is called unknown.
        settings: what is kept.
    """
    unknown = torch.zeros_like(image.known, dtype=torch.bool)
    if prior is not None:
        unknown = image.by_classifier + (ratio + logit(prior)) > 0
    labels = torch.where(unknown, UNKNOWN, image.known)
    boxes = torch.where(unknown[:, None], image.boxes[:, 0], image.boxes[:, 1])
    scores = torch.where(unknown, image.scores[:, 0], image.scores[:, 1])
    rows = kept(boxes, labels, scores, settings)
    rows = rows[labels[rows] != UNKNOWN]
    return boxes[rows], labels[rows], scores[rows]


def _truths(images: Sequence[Undecided], val: LabeledSet) -> Comparison:
    """The known objects of the images, with nothing found yet."""
    place = np.full(len(val), -1, dtype=np.int64)
    place[[image.number for image in images]] = np.arange(len(images))
    rows = np.flatnonzero((val.labels >= FIRST_KNOWN) & (place[val.box_image] >= 0))
    whole = val.rows[rows]
    truths = Truths(
        place[val.box_image[rows]],
        val.boxes[rows],
        val.labels[rows] - FIRST_KNOWN,
        val.annotations.crowd[whole],
        val.annotations.difficult[whole],
    )
    none = np.zeros(0, dtype=np.int64)
    known = len(val.names) - FIRST_KNOWN
    return Comparison(
        names=tuple(val.names[FIRST_KNOWN:]),
        previous=0,
        known=known,
        images=len(images),
        lines=np.arange(len(images)),
        truths=truths,
        found=Found(none, np.zeros((0, 4)), none, np.zeros(0), None, None),
        distractor_image=none,
        distractors=np.zeros((0, 4)),
    )
