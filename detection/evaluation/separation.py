"""What needs no mode: how well known and unknown objects are told apart, and what is found that is no object."""

from typing import Any

import numpy as np

from detection.data.annotations import Mask
from detection.evaluation.arrays import Floats
from detection.evaluation.calibration import posterior_calibration
from detection.evaluation.comparison import IOU, Comparison, rank_within
from detection.evaluation.matching import Pairs, overlapping

DISTRACTOR_TOP = 10


def auroc(negative: Floats, positive: Floats) -> float | None:
    """Probability that a positive is larger than a negative, half where they are equal; None if one side is empty."""
    if not len(negative) or not len(positive):
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    up_to = np.searchsorted(ordered, positive, side="right")
    return float((below + up_to).sum() / (2 * len(negative) * len(positive)))


def separation_metrics(comparison: Comparison) -> dict[str, Any]:
    """AUROC of unknown against known objects, on matched boxes.

    Each object gives the best-scored detection on it (IoU >= .5, whatever its label; COCO's matching), so that an
    object counts once. By energy, by the posterior of being unknown, and by score: 1 - score of a box labelled known,
    the score of one labelled unknown. `auroc` is by the energy if the detections carry it, else by the posterior, else
    by the score; `auroc_by` says which.
    """
    found, unknown = comparison.on_objects
    said_unknown = found.label == comparison.unknown
    evidence = {
        "energy": found.energies,
        "posterior": found.posteriors,
        "score": np.where(said_unknown, found.scores, 1.0 - found.scores),
    }
    by = {
        name: None if values is None else auroc(values[~unknown], values[unknown]) for name, values in evidence.items()
    }
    calibrated = posterior_calibration(comparison)
    first = next(name for name, values in evidence.items() if values is not None)
    return {
        "auroc": by[first],
        "auroc_by": first,
        **{f"auroc_{name}": value for name, value in by.items()},
        "calibration_error": None if calibrated is None else calibrated.error,
        "auroc_known_objects": int((~unknown).sum()),
        "auroc_unknown_objects": int(unknown.sum()),
    }


def distraction_metrics(comparison: Comparison) -> dict[str, Any]:
    """Unknown detections per image, and the share of distractors that one of them hits (IoU >= .5; also counting each
    image's ten best only)."""
    found = comparison.found[comparison.found.label == comparison.unknown]
    pairs = overlapping(found.image, found.boxes, comparison.distractor_image, comparison.distractors, above=IOU)
    best = rank_within(found.image, found.scores) < DISTRACTOR_TOP
    count = len(comparison.distractors)
    return {
        "unknown_per_image": len(found) / comparison.images if comparison.images else None,
        "distractors": count,
        "distractor_recall": _hit(pairs, np.ones(len(found), dtype=bool), count),
        "distractor_recall_10": _hit(pairs, best, count),
    }


def _hit(pairs: Pairs, which: Mask, count: int) -> float | None:
    return len(np.unique(pairs.truth[which[pairs.detection]])) / count if count else None
