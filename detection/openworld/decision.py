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


def log_odds(
    logits: Float[Tensor, "n c"], energy: Float[Tensor, " n"] | None, taught: Bool[Tensor, ""] | bool
) -> Float[Tensor, " n"]:
    """Log-odds of a region being unknown against its likeliest known class; positive: it is called unknown.

    The classifier's own odds are what is believed before the energy is seen, and the energy's likelihood ratio changes
    them (Bayes' rule). At the same cost of known objects both together find about as many unknown ones as the better of
    the two, or more (docs/results/openworld.md).

    Args:
        logits: (n, 2 + K).
        energy: (n,) log-odds by the energy and the prior; None: it was not fitted, and the classifier alone decides.
        taught: whether training had regions labelled unknown; if not, the classifier's unknown logit says nothing, and
            the energy alone decides.
    """
    logits = logits.float()
    by_classifier = logits[:, UNKNOWN] - logits[:, FIRST_KNOWN:].amax(dim=1)
    if energy is None:
        return by_classifier
    return energy + torch.where(torch.as_tensor(taught, device=logits.device), by_classifier, 0)


def known_score(probabilities: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """The probability of the likeliest known class, as without open-world parts: known boxes are ranked as ever."""
    return probabilities[:, FIRST_KNOWN:].amax(dim=1)


def unknown_score(
    probabilities: Float[Tensor, "n c"], objectness: Float[Tensor, " n"], taught: Bool[Tensor, ""] | bool
) -> Float[Tensor, " n"]:
    """How sure it is that a region, if it is nothing known, is an object at all.

    A high energy says that a region is nothing known, and most of what is nothing known is background. Three numbers
    tell unknown objects from it: p(unknown), which pseudo-unknowns taught the classifier; 1 - p(background), for what
    resembles something known is an object too; and the proposal's objectness, learnt without classes. Their geometric
    mean ranks better than that of the first two; without p(unknown) it would find more, at the cost of known objects
    (docs/results/openworld.md). Where nothing was labelled unknown, what is left of the foreground beside the likeliest
    known class takes the place of the first two. One more root, because these are small beside known scores: without it
    fewer unknown boxes pass the floor and suppression.

    Args:
        probabilities: (n, 2 + K).
        objectness: (n,) logits of the proposals.
        taught: whether training had regions labelled unknown.
    """
    foreground = (1 - probabilities[:, BACKGROUND]).clamp(min=0)
    leftover = (foreground - probabilities[:, FIRST_KNOWN:].amax(dim=1)).clamp(min=0)
    proposed = objectness.float().sigmoid()
    of_three = (probabilities[:, UNKNOWN] * foreground * proposed) ** (1 / 3)
    of_two = (leftover * proposed).sqrt()
    return torch.where(torch.as_tensor(taught, device=probabilities.device), of_three, of_two).sqrt()


@dataclass
class Verdicts:
    """The decision on each region of an image.

    Attributes:
        labels: (p,) unknown or the likeliest known class.
        scores: (p,) in [0, 1].
        posteriors: (p,) probability of being unknown rather than that class.
    """

    labels: Int[Tensor, " p"]
    scores: Float[Tensor, " p"]
    posteriors: Float[Tensor, " p"]


def verdicts(
    logits: Float[Tensor, "p c"],
    objectness: Float[Tensor, " p"],
    energy: Float[Tensor, " p"] | None,
    *,
    taught: Bool[Tensor, ""] | bool,
) -> Verdicts:
    """Decide on each region by the rules above; arguments as there."""
    probabilities = logits.float().softmax(dim=1)
    odds = log_odds(logits, energy, taught)
    known = probabilities[:, FIRST_KNOWN:].argmax(dim=1) + FIRST_KNOWN
    scores = torch.where(odds > 0, unknown_score(probabilities, objectness, taught), known_score(probabilities))
    return Verdicts(torch.where(odds > 0, UNKNOWN, known), scores, odds.sigmoid())


def detections_of(
    image: Regions, decided: Verdicts, energies: Float[Tensor, " p"], settings: DecisionSettings
) -> Detections:
    """Boxes above the score floor, suppressed across known and unknown, the strongest of them by falling score."""
    boxes = boxes_of(image.boxes, decided.labels)
    rows = kept(boxes, decided.labels, decided.scores, settings)
    return Detections(
        boxes=boxes[rows],
        labels=decided.labels[rows],
        scores=decided.scores[rows],
        energies=energies[rows],
        posteriors=decided.posteriors[rows],
        embeddings=image.features[rows],
    )


def boxes_of(boxes: Float[Tensor, "p b 4"], labels: Int[Tensor, " p"]) -> Float[Tensor, "p 4"]:
    """The box that each region has as an object of its label.

    Args:
        boxes: (p, 1, 4) alike for all labels, or (p, 1 + K, 4) of an unknown object and of each known class.
        labels: (p,) unknown or known.
    """
    if boxes.shape[1] == 1:
        return boxes[:, 0]
    column = torch.where(labels == UNKNOWN, 0, labels - FIRST_KNOWN + 1)
    return boxes.gather(1, column[:, None, None].expand(-1, 1, 4))[:, 0]


def kept(
    boxes: Float[Tensor, "p 4"], labels: Int[Tensor, " p"], scores: Float[Tensor, " p"], settings: DecisionSettings
) -> Int[Tensor, " n"]:
    """Rows of an image's detections, by falling score: above the floor, not suppressed, among the strongest."""
    sides = boxes[:, 2:] - boxes[:, :2]
    rows = ((scores >= settings.score_floor) & (sides > _LEAST_SIDE).all(dim=1)).nonzero()[:, 0]
    across = {"iou": settings.nms, "sure": settings.sure, "doubtful": settings.doubtful}
    rows = rows[suppress(boxes[rows], labels[rows], scores[rows], **across)]
    return rows[strongest(labels[rows], scores[rows], settings.per_image)]
