"""AUROC on matched boxes, distractors, and what is called unknown."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from detection.evaluation import DetectionArrays, evaluate
from detection.evaluation.separation import auroc


def at(place):
    return (200 * place, 0, 200 * place + 100, 100)


def test_auroc_is_the_area_under_the_curve():
    random = np.random.default_rng(0)
    negative, positive = random.integers(0, 6, 40) / 5, random.integers(1, 8, 30) / 5  # with ties
    labels = np.repeat([0, 1], [40, 30])
    expected = roc_auc_score(labels, np.concatenate([negative, positive]))
    assert auroc(negative, positive) == pytest.approx(expected, abs=1e-12)
    assert auroc(negative, np.zeros(0)) is None
    assert auroc(np.ones(3), np.ones(2)) == 0.5


def test_auroc_on_matched_boxes(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "b", at(1)), (0, "far", at(2)), (0, "far", at(3)), (0, "far", at(4))]
    rows = [
        (0, "a", at(0), 0.9),  # energy -5
        (0, "unknown", at(1), 0.8),  # -3: of a known object, whatever it is called
        (0, "a", at(2), 0.7),  # -4
        (0, "unknown", at(3), 0.6),  # -1
        (0, "a", at(2), 0.5),  # a second one on the same object does not count
        (0, "a", at(7), 0.9),  # on nothing
    ]
    found = detections(rows, energies=[-5, -3, -4, -1, 9, 9])
    result = evaluate(truth(objects), found, tasks, 1)
    # -4 > -5, -4 < -3, -1 > both: three of four
    assert result["auroc"] == result["auroc_energy"] == 0.75
    assert (result["auroc_by"], result["auroc_posterior"]) == ("energy", None)
    assert (result["auroc_known_objects"], result["auroc_unknown_objects"]) == (2, 2)
    # by score: known .1 and .8 (called unknown), unknown .3 and .6: each above .1 and below .8
    assert result["auroc_score"] == 0.5
    assert evaluate(truth(objects), detections(rows), tasks, 1)["auroc_by"] == "score"


def test_posterior_of_the_result_file(truth, tasks):
    objects = [(0, "a", at(0)), (0, "far", at(1))]
    records = [
        {"image_id": 10, "category_id": 1, "bbox": [0, 0, 100, 100], "score": 0.5, "unknown_posterior": 0.2},
        {"image_id": 10, "category_id": 1, "bbox": [200, 0, 100, 100], "score": 0.5, "unknown_posterior": 0.3},
    ]
    result = evaluate(truth(objects), DetectionArrays.from_results(records), tasks, 1)
    assert (result["auroc_by"], result["auroc"]) == ("posterior", 1.0)
    # .2 is said of what is known, in the third bin; .3 of what is unknown, in the fourth.
    assert result["calibration_error"] == pytest.approx((0.2 + 0.7) / 2)


def test_without_a_posterior_there_is_no_calibration(truth, detections, tasks):
    result = evaluate(truth([(0, "a", at(0))]), detections([(0, "a", at(0), 0.9)]), tasks, 1)
    assert result["calibration_error"] is None


def test_distractors_and_number_of_unknown(truth, detections, tasks):
    boxes = truth([(0, "a", at(0))], images=2, distractors=[(0, at(3)), (0, at(4)), (1, at(3)), (1, at(5))])
    rows = [(0, "unknown", at(10), 0.9 - i / 100) for i in range(10)]
    rows += [
        (0, "unknown", at(3), 0.5),  # hit, by the eleventh of its image
        (1, "unknown", at(5), 0.4),
        (1, "unknown", at(5), 0.3),
        (1, "a", at(3), 0.9),  # known: not meant here
    ]
    result = evaluate(boxes, detections(rows), tasks, 1)
    assert (result["distractors"], result["distractor_recall"], result["distractor_recall_10"]) == (4, 0.5, 0.25)
    assert result["unknown_per_image"] == 6.5


def test_h_score(truth, detections, tasks):
    objects = [(0, "a", at(0)), (0, "far", at(1)), (0, "far", at(2))]
    result = evaluate(truth(objects), detections([(0, "a", at(0), 0.9), (0, "unknown", at(1), 0.9)]), tasks, 1)
    assert (result["map_both"], result["u_recall"]) == (1.0, 0.5)
    assert result["h_score"] == pytest.approx(2 / 3)
