import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.data.coco import read_coco
from detection.data.results import category_ids, results_of, write_coco, write_results
from detection.tasks import TaskSet

TASKS = TaskSet("t", (("dog", "cat"), ("eel",)), unknown_id=50, aliases={"hound": "dog"})


def annotations():
    return AnnotationSet(
        images=(ImageRecord("a", "a.jpg", 40, 30), ImageRecord("b", "deep/b.jpg", 10, 20)),
        categories=("cat", "hound"),
        category_ids=(9, 4),
        box_image=np.array([0, 1]),
        boxes=np.array([[1.25, 2, 11.5, 22], [0, 0, 3, 4]]),
        box_category=np.array([1, 0]),
        crowd=np.array([True, False]),
        difficult=np.array([False, True]),
        area=np.array([55.5, 12]),
        box_ids=np.array([8, 3]),
        distractor_image=np.array([1]),
        distractors=np.array([[1.0, 1, 3, 4]]),
    )


def found(boxes, labels, scores, energies=(-3.0, float("inf"))):
    pack = torch.tensor
    return SimpleNamespace(
        boxes=pack(boxes).reshape(-1, 4),
        labels=pack(labels),
        scores=pack(scores),
        energies=pack(list(energies)[: len(labels)]),
        posteriors=pack([0.25] * len(labels)),
    )


def test_labels_get_the_ground_truths_ids():
    assert category_ids(annotations(), TASKS, 1) == {1: 50, 2: 4, 3: 9}
    ids = category_ids(annotations(), TASKS, 2)  # eel is not in the file
    assert ids[4] not in {50, 4, 9}


def test_results(tmp_path):
    ids = category_ids(annotations(), TASKS, 1)
    rows = results_of("a", found([[1.0, 2, 4, 6], [0, 0, 1, 1]], [1, 2], [0.1, 0.9]), ids)
    assert rows[0] == {
        "image_id": "a",
        "category_id": 50,
        "bbox": [1, 2, 3, 4],
        "score": pytest.approx(0.1),
        "energy": -3,
        "unknown_posterior": 0.25,
    }
    assert np.float32(rows[0]["score"]) == np.float32(0.1)
    assert (rows[1]["category_id"], rows[1]["energy"]) == (4, None)
    write_results(tmp_path / "r.json", rows)
    assert json.loads((tmp_path / "r.json").read_text()) == rows
    write_results(tmp_path / "none.json", [])
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert results_of("a", found([], [], []), ids) == []


def test_results_must_be_finite():
    with pytest.raises(ValueError, match="not finite"):
        results_of("a", found([[0.0, 0, 1, float("nan")]], [2], [0.5]), {2: 4})
    with pytest.raises(ValueError, match="not finite"):
        results_of("a", found([[0.0, 0, 1, 1]], [2], [float("nan")]), {2: 4})


def test_annotations_survive_a_file(tmp_path):
    ours = annotations()
    write_coco(tmp_path / "a.json", ours)
    again = read_coco(tmp_path / "a.json")
    for name in ("images", "categories", "category_ids"):
        assert getattr(again, name) == getattr(ours, name)
    arrays = "box_image boxes box_category crowd difficult area box_ids distractor_image distractors"
    for name in arrays.split():
        assert np.array_equal(getattr(again, name), getattr(ours, name)), name
