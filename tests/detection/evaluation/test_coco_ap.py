"""COCO's AP, and the matching of mode `strict` beside that of pycocotools."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.evaluation import evaluate
from detection.evaluation.comparison import compare
from detection.evaluation.strict import judge


def test_thresholds(truth, detections, tasks, capsys):
    # IoU .72 is enough at .5, .55, .6, .65 and .7: five of ten thresholds
    result = evaluate(
        truth([(0, "a", (0, 0, 100, 100)), (0, "far", (300, 0, 400, 100))]),
        detections([(0, "a", (0, 0, 100, 72), 0.9), (0, "unknown", (300, 0, 400, 100), 0.5)]),
        tasks,
        1,
    )
    assert result["coco_ap_per_class"] == {"a": pytest.approx(0.5), "b": None, "unknown": pytest.approx(1.0)}
    assert result["coco_ap_both"] == result["coco_ap_current"] == pytest.approx(0.5)
    assert result["coco_ap_previous"] is None
    assert result["coco_ap_unknown"] == pytest.approx(1.0)
    assert capsys.readouterr().out == ""


def test_asked_for_or_not(truth, detections, tasks, monkeypatch):
    monkeypatch.setattr("detection.evaluation.evaluator.MANY", 0)
    objects, found = truth([(0, "a", (0, 0, 9, 9))]), detections([(0, "a", (0, 0, 9, 9), 0.9)])
    assert evaluate(objects, found, tasks, 1)["coco_ap_both"] is None
    assert evaluate(objects, found, tasks, 1, coco=True)["coco_ap_both"] == pytest.approx(1.0)
    assert evaluate(objects, found, tasks, 1, coco=True, mode="ore")["coco_ap_both"] is None


@pytest.mark.parametrize("seed", range(6))
def test_strict_matches_as_pycocotools_does(truth, detections, tasks, seed):
    random = np.random.default_rng(seed)

    def box():
        corner = random.uniform(0, 40, 2)
        return (*corner, *(corner + random.uniform(15, 50, 2)))

    kinds = ["", "", "", "crowd"]
    objects = [
        (int(random.integers(8)), str(random.choice(["a", "b", "far"])), box(), kinds[random.integers(4)])
        for _ in range(80)
    ]
    rows = [
        (int(random.integers(8)), str(random.choice(["a", "b", "unknown"])), box(), random.random()) for _ in range(400)
    ]
    comparison = compare(truth(objects, images=8), detections(rows), tasks, 1)
    judged = judge(comparison)

    def side(image, label, boxes, extra):
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(8)],
            "categories": [{"id": i} for i in range(5)],
            "annotations": [
                {"id": i + 1, "image_id": int(image[i]), "category_id": int(label[i]), "bbox": xywh[i].tolist(),
                 "area": float(xywh[i, 2] * xywh[i, 3]), "iscrowd": 0, **extra(i)}
                for i in range(len(image))
            ],
        }  # fmt: skip
        coco.createIndex()
        return coco

    truths, found = comparison.truths, judged.found
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            side(truths.image, truths.label, truths.boxes, lambda i: {"iscrowd": int(truths.crowd[i])}),
            side(found.image, found.label, found.boxes, lambda i: {"score": float(found.scores[i])}),
            "bbox",
        )
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    right, ignored = np.zeros(len(found), dtype=bool), np.zeros(len(found), dtype=bool)
    for part in filter(None, evaluation.evalImgs):
        rows = np.array(part["dtIds"], dtype=int) - 1
        ignored[rows] = part["dtIgnore"][0]
        right[rows] = (part["dtMatches"][0] > 0) & ~part["dtIgnore"][0].astype(bool)
    assert right.sum() > 10 and ignored.sum() > 10
    assert judged.right.tolist() == right.tolist()
    assert judged.counts.tolist() == (~ignored).tolist()
