"""Mode `ore`: the numbers that ORE's own evaluator gives, with a stable sort. For comparing with published tables.

The evaluator of Joseph et al. (CVPR 2021; JosephKJ/OWOD, `pascal_voc_evaluation.py`), whose conventions its heirs
share, differs from `strict` in this:

- Each *line* of the image list is a run of the detector. An image listed k times adds its objects k times to the
  counts, although each can be found once, and its detections k times, so that the copies are wrong.
- Objects are VOC's whole pixels (x + 1, y + 1, x + w, y + h), detections are moved by one pixel at left and top and
  rounded to one decimal, scores to three, which makes ties; both corners belong to a box.
- A detection looks only at the object of its class that it overlaps most; IoU must be greater than .5, and if that
  object is taken it is wrong, even with another one free. Crowds are ordinary objects. Difficult objects do not count,
  nor what looks at one.
- A class with detections and no object has an undefined AP, which makes every mean with it undefined; a class without
  detections has AP 0 and recall 0. Classes of later tasks are scored too, but only `ap50_mean_over_all_names` and
  `a_ose` contain them.
- `wi`: per known class with a detection, the first rank whose recall is nearest to the level (if it is never reached,
  the first with the highest recall); the sum of detections on unknown objects up to there over the sum of right and
  wrong ones, which contains the former. 0 if no known class has a detection.
- `a_ose`: detections of all classes with IoU > .5 to an unknown object, also those that are right about a known one.

Equal scores: by line, then in the order given; the original's sort is not stable there. `u_recall_k`, `u_f1`, `_11` and
`a_ose_objects` (different unknown objects among those of `a_ose`) are not printed by the original; they follow its
matching.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.data.annotations import Boxes, Indices
from detection.evaluation.arrays import Floats
from detection.evaluation.average_precision import area, defined, eleven_point, harmonic
from detection.evaluation.comparison import Comparison, rank_within
from detection.evaluation.matching import Pairs, best_truth, first_of_each, overlapping
from detection.evaluation.strict import LEVELS, TOP, WI_RECALL

IOU = 0.5
VOC_LEVELS = np.arange(0.0, 1.1, 0.1)
"""As VOC's code has them; the fourth is a little more than .3."""
EXACT = 2.0**40
"""Beyond it, a scaled number is too coarse to tell whether its decimals are near a tie."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One class by falling score: (n,) recall, precision, TP + FP so far, detections on unknown objects so far."""

    recall: Floats
    precision: Floats
    judged: Floats
    on_unknown: Floats
    ap: float
    ap_11: float


def ore_metrics(
    comparison: Comparison,
    *,
    detections_once_per_image: bool = False,
    ground_truth_boxes_as_coco_script: bool = False,
) -> dict[str, Any]:
    """The metrics of this mode, see the module.

    Args:
        detections_once_per_image: objects still count once per line, but detections once per image.
        ground_truth_boxes_as_coco_script: right and bottom one pixel larger, as the original repository's conversion
            of COCO's annotations writes them.
    """
    found, truths, unknown = comparison.found, comparison.truths, comparison.unknown
    pairs = overlapping(
        found.image,
        printed_boxes(found.boxes),
        truths.image,
        voc_boxes(truths.boxes, as_coco_script=ground_truth_boxes_as_coco_script),
        above=IOU,
        strictly=True,
        pixel=1.0,
    )
    same = pairs[found.label[pairs.detection] == truths.label[pairs.truth]]
    best = best_truth(same, len(found))
    hits_unknown = pairs[truths.label[pairs.truth] == unknown]
    on_unknown = np.zeros(len(found), dtype=bool)
    on_unknown[hits_unknown.detection] = True

    times = np.bincount(comparison.lines, minlength=comparison.images)
    objects = np.bincount(truths.label, weights=times[truths.image] * ~truths.difficult, minlength=unknown + 1)
    lines = _first_occurrences(comparison.lines) if detections_once_per_image else comparison.lines
    scores = printed(found.scores, 3)
    rows = _runs(found.image, lines, comparison.images)
    rows = rows[np.lexsort((-scores[rows], found.label[rows]))]
    bounds = np.searchsorted(found.label[rows], np.arange(unknown + 2))

    curves = []
    rank = rank_of_first_copies(found.label, found.image, scores)
    ignored = np.append(truths.difficult, False)  # -1, no object, is the last
    unknown_right = np.zeros(0, dtype=np.int64)
    for label in range(unknown + 1):
        mine = rows[bounds[label] : bounds[label + 1]]
        free = first_of_each(best[mine])
        difficult = ignored[best[mine]]
        right = free & ~difficult
        curves.append(_curve(right, ~right & ~difficult, on_unknown[mine], float(objects[label])))
        if label == unknown:
            unknown_right = mine[right]
    return {
        **_averages(comparison, curves),
        **_unknown(curves[unknown], rank[unknown_right], float(objects[unknown])),
        **_wilderness(curves[: comparison.known]),
        **_open_set_errors(comparison, curves, hits_unknown),
        "known_objects": int(objects[: comparison.known].sum()),
        "num_unknown_gt": int(objects[unknown]),
        "later_class_detections": int(np.sum((found.label >= comparison.known) & (found.label < unknown))),
    }


# --- what the original writes to files -------------------------------------------------------------------------------


def voc_boxes(boxes: Boxes, *, as_coco_script: bool) -> Boxes:
    """Objects as VOC has them: whole pixels from 1, both corners inside."""
    return np.concatenate([np.trunc(boxes[:, :2] + 1.0), np.trunc(boxes[:, 2:] + float(as_coco_script))], axis=1)


def printed_boxes(boxes: Boxes) -> Boxes:
    """Detections as the original prints them."""
    return printed(boxes + np.array([1.0, 1.0, 0.0, 0.0]), 1)


def printed(values: Floats, digits: int) -> Floats:
    """What `float(f"{value:.{digits}f}")` gives for each.

    Scaling and rounding gives the same except near a tie, where the decimals of the number itself decide; those few go
    through text.
    """
    scale = 10.0**digits
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values * scale
        near_tie = (np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5) < 1e-3) | (np.abs(scaled) >= EXACT)
    rounded: Floats = np.rint(scaled) / scale
    rounded[near_tie] = [float(f"{value:.{digits}f}") for value in values[near_tie].tolist()]
    return rounded


# --- runs of the detector --------------------------------------------------------------------------------------------


def _first_occurrences(lines: Indices) -> Indices:
    return lines[np.sort(np.unique(lines, return_index=True)[1])]


def _runs(image: Indices, lines: Indices, images: int) -> Indices:
    """Detections line by line, each as often as its image is listed."""
    grouped = np.argsort(image, kind="stable")
    counts = np.bincount(image, minlength=images)
    first, many = (np.cumsum(counts) - counts)[lines], counts[lines]
    within = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
    return grouped[np.repeat(first, many) + within]


def rank_of_first_copies(label: Indices, image: Indices, scores: Floats) -> Indices:
    """Place of each detection among those of its label in its image. Only a first copy can be right, so that the
    copies need no place."""
    _, group = np.unique(label * (image.max(initial=0) + 1) + image, return_inverse=True)
    return rank_within(group.reshape(-1), scores)


# --- metrics ---------------------------------------------------------------------------------------------------------


def _curve(right: Indices, wrong: Indices, on_unknown: Indices, objects: float) -> Curve:
    hits, misses = np.cumsum(right, dtype=np.float64), np.cumsum(wrong, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / objects  # 0 / 0 where the class has no object: undefined, and meant to be
    precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
    return Curve(
        recall,
        precision,
        hits + misses,
        np.cumsum(on_unknown, dtype=np.float64),
        area(recall, precision),
        eleven_point(recall, precision, VOC_LEVELS),
    )


def _averages(comparison: Comparison, curves: list[Curve]) -> dict[str, Any]:
    names = (*comparison.names, "unknown")
    parts = {
        "previous": slice(0, comparison.previous),
        "current": slice(comparison.previous, comparison.known),
        "both": slice(0, comparison.known),
    }
    means: dict[str, float | None] = {}
    for suffix, values in (("", [c.ap for c in curves]), ("_11", [c.ap_11 for c in curves])):
        for part, which in parts.items():
            chosen = values[which]
            means[f"map_{part}{suffix}"] = defined(float(np.mean(chosen))) if chosen else None
    return {
        **means,
        "ap50_mean_over_all_names": defined(float(np.mean([curve.ap for curve in curves]))),
        "ap_per_class": {name: defined(curve.ap) for name, curve in zip(names, curves)},
        "ap_11_per_class": {name: defined(curve.ap_11) for name, curve in zip(names, curves)},
        "recall_per_class": {name: _last(curve.recall) for name, curve in zip(names, curves)},
        "precision_per_class": {name: _last(curve.precision) for name, curve in zip(names, curves)},
    }


def _last(values: Floats) -> float | None:
    return defined(float(values[-1])) if len(values) else 0.0


def _unknown(curve: Curve, ranks_of_right: Indices, objects: float) -> dict[str, Any]:
    recall, precision = _last(curve.recall), _last(curve.precision)
    return {
        "u_recall": recall,
        **{
            f"u_recall_{k}": None if recall is None else float(np.sum(ranks_of_right < k) / objects) if objects else 0.0
            for k in TOP
        },
        "u_ap": defined(curve.ap),
        "u_ap_11": defined(curve.ap_11),
        "u_precision": precision,
        "u_f1": harmonic(precision, recall),
    }


def _wilderness(curves: list[Curve]) -> dict[str, Any]:
    with_detections = [curve for curve in curves if len(curve.recall)]
    impact: dict[str, float | None] = {}
    for level in LEVELS:
        # argmin takes the first NaN, as comparing one by one does where all are NaN
        at = [int(np.argmin(np.abs(curve.recall - level))) for curve in with_detections]
        wild = sum(float(curve.on_unknown[i]) for curve, i in zip(with_detections, at))
        all_of_them = sum(float(curve.judged[i]) for curve, i in zip(with_detections, at))
        impact[str(level)] = (wild / all_of_them if all_of_them else None) if with_detections else 0.0
    return {"wi": impact[str(WI_RECALL)], "wi_classes": len(with_detections), "wi_at_recall": impact}


def _open_set_errors(comparison: Comparison, curves: list[Curve], hits_unknown: Pairs) -> dict[str, Any]:
    per_class = {name: int(_last(curve.on_unknown) or 0) for name, curve in zip(comparison.names, curves)}
    named = comparison.found.label[hits_unknown.detection] < comparison.unknown
    return {
        "a_ose": sum(per_class.values()),
        "a_ose_objects": len(np.unique(hits_unknown.truth[named])),
        "a_ose_per_class": per_class,
        "a_ose_at_recall": None,
        "a_ose_objects_at_recall": None,
    }
