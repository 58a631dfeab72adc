"""Mode `strict`: every image once, and the papers' definitions.

A detection is right if it gets an object of its class at an intersection over union of at least .5 (COCO's matching:
by falling score, each takes the object it overlaps most among those still free; equal scores by image, then in the
order given). What gets none but lies on a difficult object of its class (IoU >= .5), or with at least half of its own
area in a crowd of its class, counts neither way. Detections of classes that no task has brought yet are not scored;
`later_class_detections` says how many there were.

- `ap_per_class`, `u_ap`: area under the precision-recall curve at IoU .5 (VOC since 2010); `_11` the 11-point form.
  None without an object of the class, 0 without a detection. `map_*` are means over the classes that have objects.
- `u_recall`, `u_precision`, `u_f1`: of the unknown detections as given, as UnSniffer (Liang et al., CVPR 2023) counts
  them: no threshold is chosen in favour of the result. `u_recall_k` counts each image's k best unknown detections.
- `wi`: wilderness impact (Dhamija et al., WACV 2020) P_K / P_{K u U} - 1 at recall .8. Per known class the first rank
  with that recall; a false positive with IoU >= .5 to an unknown object would not be there in the closed set, so that
  P_K = TP / (TP + FP_K) and P_{K u U} = TP / (TP + FP_K + FP_U), each summed over the classes that reach the recall
  (`wi_classes` says how many), and WI = FP_U / (TP + FP_K). None where no class does. `wi_at_recall` has other levels.
- `a_ose_objects`: absolute open-set error (Miller et al., ICRA 2018; Joseph et al., CVPR 2021), the unknown objects on
  which a detection of a known class lies (IoU >= .5) that is right about no known object; `a_ose` counts these
  detections. Both grow with the number of detections; `a_ose_at_recall` and `a_ose_objects_at_recall` therefore take
  the one score threshold at which the known classes together reach a recall.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.data.annotations import Indices, Mask
from detection.evaluation.average_precision import area, eleven_point, mean
from detection.evaluation.comparison import IOU, Comparison, Found, rank_within
from detection.evaluation.matching import Pairs, greedy, overlapping

LEVELS = tuple(level / 10 for level in range(1, 10))
WI_RECALL = 0.8
TOP = (10, 50, 100)


@dataclass(frozen=True, eq=False)
class Judged:
    """Detections by falling score and what each is.

    Attributes:
        found: the detections.
        right: (N,) gets an object of its class.
        counts: (N,) right or wrong, not ignored.
        on_unknown: pairs with the unknown objects on which detections lie.
        objects: (C + 1,) of each label, without crowds and difficult ones.
    """

    found: Found
    right: Mask
    counts: Mask
    on_unknown: Pairs
    objects: Indices


def strict_metrics(comparison: Comparison) -> dict[str, Any]:
    """The metrics of this mode, see the module."""
    judged = judge(comparison)
    known = judged.found.label < comparison.known
    false_known = known & judged.counts & ~judged.right
    mistaken = judged.on_unknown[false_known[judged.on_unknown.detection]]
    return {
        **_curves(comparison, judged),
        **_unknown(comparison, judged),
        **_wilderness(comparison, judged, mistaken),
        **_open_set_errors(comparison, judged, known, mistaken),
        "known_objects": int(judged.objects[: comparison.known].sum()),
        "num_unknown_gt": int(judged.objects[comparison.unknown]),
        "later_class_detections": len(comparison.found) - len(judged.found),
    }


def judge(comparison: Comparison) -> Judged:
    """Match the detections of known classes and of `unknown`."""
    found, truths = comparison.found, comparison.truths
    scored = (found.label < comparison.known) | (found.label == comparison.unknown)
    order = np.lexsort((found.image, -found.scores))
    order = order[scored[order]]
    found, pairs = found[order], comparison.overlaps_of(order)
    same = pairs[found.label[pairs.detection] == truths.label[pairs.truth]]
    right = greedy(same, len(found), len(truths.label)) >= 0
    excused = _lies_on(comparison, found, truths.difficult & ~truths.crowd) | _lies_on(
        comparison, found, truths.crowd, of_detection=True
    )
    return Judged(
        found,
        right,
        right | ~excused,
        pairs[truths.label[pairs.truth] == comparison.unknown],
        np.bincount(truths.label[~(truths.crowd | truths.difficult)], minlength=comparison.unknown + 1),
    )


def _lies_on(comparison: Comparison, found: Found, which: Mask, *, of_detection: bool = False) -> Mask:
    """Which detections lie on one of these truths of their class."""
    truths, rows = comparison.truths, np.flatnonzero(which)
    pairs = overlapping(
        found.image, found.boxes, truths.image[rows], truths.boxes[rows], above=IOU, of_detection=of_detection
    )
    same = found.label[pairs.detection] == truths.label[rows[pairs.truth]]
    lies = np.zeros(len(found), dtype=bool)
    lies[pairs.detection[same]] = True
    return lies


def _curves(comparison: Comparison, judged: Judged) -> dict[str, Any]:
    """Average precision, final recall and final precision of every class so far and of `unknown`."""
    names = (*comparison.names[: comparison.known], "unknown")
    labels = (*range(comparison.known), comparison.unknown)
    by_label = np.argsort(judged.found.label, kind="stable")
    bounds = np.searchsorted(judged.found.label[by_label], np.arange(comparison.unknown + 2))
    ap, ap_11, recalls, precisions = (dict[str, float | None].fromkeys(names) for _ in range(4))
    for name, label in zip(names, labels):
        rows = by_label[bounds[label] : bounds[label + 1]]
        rows = rows[judged.counts[rows]]
        hits, objects = np.cumsum(judged.right[rows]), int(judged.objects[label])
        precision = hits / np.arange(1, len(rows) + 1)
        precisions[name] = float(precision[-1]) if len(rows) else None
        if objects:
            recalls[name] = float(hits[-1] / objects) if len(rows) else 0.0
            ap[name], ap_11[name] = area(hits / objects, precision), eleven_point(hits / objects, precision)
    return {
        **means("map", ap, comparison),
        **{f"{key}_11": value for key, value in means("map", ap_11, comparison).items()},
        "u_ap": ap["unknown"],
        "u_ap_11": ap_11["unknown"],
        "ap_per_class": ap,
        "ap_11_per_class": ap_11,
        "recall_per_class": recalls,
        "precision_per_class": precisions,
    }


def means(key: str, values: dict[str, float | None], comparison: Comparison) -> dict[str, float | None]:
    """Over the classes of earlier tasks, of this one, and of both."""
    classes = [values[name] for name in comparison.names[: comparison.known]]
    return {
        f"{key}_previous": mean(classes[: comparison.previous]),
        f"{key}_current": mean(classes[comparison.previous :]),
        f"{key}_both": mean(classes),
    }


def _unknown(comparison: Comparison, judged: Judged) -> dict[str, Any]:
    """Recall, precision and F1 of the unknown detections."""
    rows = np.flatnonzero(judged.found.label == comparison.unknown)
    right, counts = judged.right[rows], judged.counts[rows]
    objects, hits, given = int(judged.objects[comparison.unknown]), int(right.sum()), int(counts.sum())
    rank = rank_within(judged.found.image[rows], judged.found.scores[rows])
    return {
        "u_recall": hits / objects if objects else None,
        **{f"u_recall_{k}": int(right[rank < k].sum()) / objects if objects else None for k in TOP},
        "u_precision": hits / given if given else None,
        "u_f1": 2 * hits / (given + objects) if given + objects else None,
    }


def _wilderness(comparison: Comparison, judged: Judged, mistaken: Pairs) -> dict[str, Any]:
    """Wilderness impact at all levels of recall."""
    on_unknown = np.zeros(len(judged.found), dtype=bool)
    on_unknown[mistaken.detection] = True
    open_set, closed_set = np.zeros(len(LEVELS)), np.zeros(len(LEVELS))
    reaching = np.zeros(len(LEVELS), dtype=np.int64)
    by_label = np.argsort(judged.found.label, kind="stable")
    bounds = np.searchsorted(judged.found.label[by_label], np.arange(comparison.known + 1))
    for label in np.flatnonzero(judged.objects[: comparison.known]):
        rows = by_label[bounds[label] : bounds[label + 1]]
        rows = rows[judged.counts[rows]]
        recall = np.cumsum(judged.right[rows]) / judged.objects[label]
        wild = np.cumsum(on_unknown[rows])
        rank = np.searchsorted(recall, LEVELS)  # the first that is not below
        there = rank < len(rows)
        reaching += there
        open_set[there] += wild[rank[there]]
        closed_set[there] += rank[there] + 1 - wild[rank[there]]
    impact = {
        str(level): float(wild / closed) if count else None
        for level, wild, closed, count in zip(LEVELS, open_set, closed_set, reaching)
    }
    at = LEVELS.index(WI_RECALL)
    return {"wi": impact[str(WI_RECALL)], "wi_classes": int(reaching[at]), "wi_at_recall": impact}


def _open_set_errors(comparison: Comparison, judged: Judged, known: Mask, mistaken: Pairs) -> dict[str, Any]:
    """A-OSE over all detections, and over those above the score at which the known reach a recall."""
    per_class = np.bincount(judged.found.label[np.unique(mistaken.detection)], minlength=comparison.unknown + 1)
    objects = int(judged.objects[: comparison.known].sum())
    rows = np.flatnonzero(known & judged.counts)
    scores = judged.found.scores[rows]
    recall = np.cumsum(judged.right[rows]) / objects if objects else np.zeros(0)
    detections_at: dict[str, int | None] = {}
    objects_at: dict[str, int | None] = {}
    for level in LEVELS:
        rank = int(np.searchsorted(recall, level))
        above = judged.found.scores[mistaken.detection] >= scores[rank] if rank < len(recall) else None
        detections_at[str(level)] = None if above is None else len(np.unique(mistaken.detection[above]))
        objects_at[str(level)] = None if above is None else len(np.unique(mistaken.truth[above]))
    return {
        "a_ose": len(np.unique(mistaken.detection)),
        "a_ose_objects": len(np.unique(mistaken.truth)),
        "a_ose_per_class": {
            name: int(per_class[label]) for label, name in enumerate(comparison.names[: comparison.known])
        },
        "a_ose_at_recall": detections_at,
        "a_ose_objects_at_recall": objects_at,
    }
