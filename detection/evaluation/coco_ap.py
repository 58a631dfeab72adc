"""COCO's AP (mean over IoU .5 to .95), by pycocotools, without its printing."""

import contextlib
import io
from typing import Any

import numpy as np

from detection.data.annotations import Boxes, Indices
from detection.evaluation.comparison import Comparison
from detection.evaluation.strict import means

PER_IMAGE = 100
"""COCO's own cap, per image and class."""


def coco_metrics(comparison: Comparison) -> dict[str, Any]:
    """`coco_ap_previous`, `_current`, `_both`, `_unknown` and per class; None for a class without an object.

    Crowds and difficult objects are both COCO's crowds.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths, found = comparison.truths, comparison.found
    labels = [*range(comparison.known), comparison.unknown]
    crowd = (truths.crowd | truths.difficult).astype(int)
    score = found.scores.tolist()
    scored = np.isin(found.label, labels)
    objects = _records(truths.image, truths.boxes, truths.label, [{"iscrowd": value} for value in crowd.tolist()])
    detections = _records(found.image, found.boxes, found.label, [{"iscrowd": 0, "score": value} for value in score])
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for records in (objects, [record for record, keep in zip(detections, scored.tolist()) if keep]):
            side = COCO()
            side.dataset = {
                "images": [{"id": i} for i in range(comparison.images)],
                "categories": [{"id": label} for label in labels],
                "annotations": records,
            }
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, iouType="bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [PER_IMAGE]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # IoU, recall, class
    names = (*comparison.names[: comparison.known], "unknown")
    values: dict[str, float | None] = {
        name: None if (precision[:, :, k] < 0).all() else float(precision[:, :, k].mean())
        for k, name in enumerate(names)
    }
    return {**means("coco_ap", values, comparison), "coco_ap_unknown": values["unknown"], "coco_ap_per_class": values}


def _records(image: Indices, boxes: Boxes, label: Indices, extras: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """COCO's annotations. Ids count from 1: pycocotools takes 0 for 'not matched'."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    bbox = np.concatenate([boxes[:, :2], sizes], axis=1).tolist()
    columns = zip(image.tolist(), label.tolist(), bbox, sizes.prod(axis=1).tolist(), extras)
    return [
        {"id": i, "image_id": where, "category_id": what, "bbox": box, "area": area, **extra}
        for i, (where, what, box, area, extra) in enumerate(columns, start=1)
    ]
