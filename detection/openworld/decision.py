"""One decision a region: a known class, or unknown; and what ranks it among the others.

The three rules at the top are pure functions of a region's own numbers. What a better rule would be is a matter of
experiment: change it there.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detection.openworld.settings import DecisionSettings
from detection.openworld.suppression import strongest, suppress
from detection.structures import BACKGROUND, FIRST_KNOWN, UNKNOWN, Detections, Regions

_LEAST_SIDE = 1e-2  # pixels; a box without area is no detection


def is_unknown(probabilities: Float[Tensor, "n c"], posterior: Float[Tensor, " n"] | None) -> Bool[Tensor, " n"]:
    """A region that is more probably unknown than known given its energy, or that the classifier itself calls unknown
    sooner than any known class. Without a fitted posterior the classifier alone decides."""
    by_classifier = probabilities[:, UNKNOWN] > probabilities[:, FIRST_KNOWN:].amax(dim=1)
    return by_classifier if posterior is None else by_classifier | (posterior > 0.5)


def known_score(probabilities: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """The probability of the likeliest known class, as without open-world parts: known boxes are ranked as ever."""
    return probabilities[:, FIRST_KNOWN:].amax(dim=1)


def unknown_score(probabilities: Float[Tensor, "n c"], taught: Bool[Tensor, ""] | bool) -> Float[Tensor, " n"]:
    """How sure it is that a region, if it is nothing known, is an object at all.

    A high energy says that a region is nothing known, and most of what is nothing known is background. Two numbers tell
    unknown objects from it: p(unknown), which pseudo-unknowns taught the classifier, and 1 - p(background), for what
    resembles something known is an object too. The first ranks better after the first task, the second when more
    classes are known, their geometric mean about as well as the better one in both (docs/results/openworld.md). Where
    nothing was labelled unknown, what is left of the foreground beside the likeliest known class takes its place. One
    more root, because these are small beside known scores: without it fewer unknown boxes pass the floor and
    suppression.

    Args:
        probabilities: (n, 2 + K).
        taught: whether training had regions labelled unknown.
    """
    foreground = 1 - probabilities[:, BACKGROUND]
    leftover = (foreground - probabilities[:, FIRST_KNOWN:].amax(dim=1)).clamp(min=0)
    both = (probabilities[:, UNKNOWN] * foreground.clamp(min=0)).sqrt()
    return torch.where(torch.as_tensor(taught, device=probabilities.device), both, leftover).sqrt()


@dataclass
class Verdicts:
    """The decision on each region of an image.

    Attributes:
        labels: (p,) unknown or the likeliest known class.
        scores: (p,) in [0, 1].
        posteriors: (p,) probability of being unknown; where it was not fitted, the classifier's share of unknown
            against the likeliest known class.
    """

    labels: Int[Tensor, " p"]
    scores: Float[Tensor, " p"]
    posteriors: Float[Tensor, " p"]


def verdicts(
    logits: Float[Tensor, "p c"], posterior: Float[Tensor, " p"] | None, *, taught: Bool[Tensor, ""] | bool
) -> Verdicts:
    """Decide on each region by the rules above."""
    probabilities = logits.float().softmax(dim=1)
    unknown = is_unknown(probabilities, posterior)
    known = probabilities[:, FIRST_KNOWN:].argmax(dim=1) + FIRST_KNOWN
    of_unknown = unknown_score(probabilities, taught)
    if posterior is None:
        posterior = (logits[:, UNKNOWN].float() - logits[:, FIRST_KNOWN:].float().amax(dim=1)).sigmoid()
    scores = torch.where(unknown, of_unknown, known_score(probabilities))
    return Verdicts(torch.where(unknown, UNKNOWN, known), scores, posterior)


def detections_of(
    image: Regions, decided: Verdicts, energies: Float[Tensor, " p"], settings: DecisionSettings
) -> Detections:
    """Boxes above the score floor, suppressed across known and unknown, the strongest of them by falling score."""
    column = torch.where(decided.labels == UNKNOWN, 0, decided.labels - FIRST_KNOWN + 1)
    if image.boxes.shape[1] == 1:
        column = torch.zeros_like(column)
    boxes = image.boxes.gather(1, column[:, None, None].expand(-1, 1, 4))[:, 0]
    sides = boxes[:, 2:] - boxes[:, :2]
    rows = ((decided.scores >= settings.score_floor) & (sides > _LEAST_SIDE).all(dim=1)).nonzero()[:, 0]
    of_rows = boxes[rows], decided.labels[rows], decided.scores[rows]
    rows = rows[suppress(*of_rows, iou=settings.nms, strongest_only=settings.per_image)]
    rows = rows[strongest(decided.labels[rows], decided.scores[rows], settings.per_image)]
    return Detections(
        boxes=boxes[rows],
        labels=decided.labels[rows],
        scores=decided.scores[rows],
        energies=energies[rows],
        posteriors=decided.posteriors[rows],
        embeddings=image.features[rows],
    )
