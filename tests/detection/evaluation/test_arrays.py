"""Files are not trusted: an answer or a sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest

from detection.evaluation import DetectionArrays, GroundTruth, OpenWorldEvaluator, evaluate
from detection.tasks import TaskSet
from sslcore.errors import ConfigError, DataError

GOOD = {"image_id": 10, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}


def test_results(tmp_path):
    records = [GOOD | {"energy": -1.5, "unknown_posterior": 0.25}, GOOD | {"energy": 2, "unknown_posterior": 1}]
    records[1]["bbox"] = [1, 2, 3.5, 4]
    (tmp_path / "found.json").write_text(json.dumps(records))
    found = DetectionArrays.from_results(tmp_path / "found.json")
    assert found.boxes.tolist() == [[0, 0, 10, 10], [1, 2, 4.5, 6]]
    assert (found.energies.tolist(), found.posteriors.tolist()) == ([-1.5, 2], [0.25, 1])
    assert DetectionArrays.from_results([GOOD]).energies is None
    assert DetectionArrays.from_results([]).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": float("nan")}, "detection 1 .* nan among its scores"),
        ({"score": float("inf")}, "detection 1 .* inf among its scores"),
        ({"score": "high"}, "detection 1 .* 'high' as 'score'"),
        ({"score": None}, "detection 1 .* None as 'score'"),
        ({"score": [0.5]}, "as 'score'"),
        ({"bbox": [0, 0, float("nan"), 1]}, "detection 1 .* box .*nan"),
        ({"bbox": [0, 0, float("inf"), 1]}, "detection 1 .* box .*inf"),
        ({"bbox": [0, 0, -1, 1]}, "detection 1 .* box"),
        ({"bbox": [0, 0, 1]}, "detection 1 .* four numbers"),
        ({"bbox": [0, 0, 1, 10**400]}, "detection 1 .* four numbers"),
        ({"bbox": [0, 0, 1, "1"]}, "detection 1 .* four numbers"),
        ({"bbox": "0011"}, "detection 1 .* four numbers"),
        ({"bbox": None}, "detection 1 .* four numbers"),
        ({"category_id": "a"}, "detection 1 .* 'category_id'"),
        ({"category_id": 1.5}, "detection 1 .* 'category_id'"),
        ({"category_id": 10**30}, "detection 1 .* 'category_id'"),
        ({"image_id": None}, "detection 1 .* 'image_id'"),
        ({"image_id": [1]}, "detection 1 .* 'image_id'"),
        ({"energy": 1.0}, "detection 0 .* no 'energy' but others have"),
    ],
)
def test_wrong_records(change, said):
    with pytest.raises(DataError, match=said) as error:
        DetectionArrays.from_results([GOOD, GOOD | change])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"annotations": []}', "list of detections"),
        ('"text"', "list of detections"),
        ("[1]", "detection 0 .* is a number"),
        ('[{"image_id": 1, "category_id": 1, "score": 0.5}]', "detection 0 .* lacks 'bbox'"),
        ("[[]]", "detection 0 .* is a list"),
        ("[", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_files(tmp_path, content, said):
    (tmp_path / "found.json").write_text(content)
    with pytest.raises(DataError, match=said):
        DetectionArrays.from_results(tmp_path / "found.json")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        DetectionArrays.from_results(tmp_path / "none.json")


def test_arrays_must_fit():
    with pytest.raises(DataError, match="boxes has the shape"):
        DetectionArrays(np.zeros(2, int), np.zeros(2, int), np.zeros((3, 4)), np.zeros(2))
    with pytest.raises(DataError, match="energies"):
        DetectionArrays(np.zeros(1, int), np.zeros(1, int), np.zeros((1, 4)), np.zeros(1), np.array([np.nan]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 99}, "in the image 99, which .* does not have"),
        ({"image_id": "10"}, "in the image '10'"),
        ({"image_id": 10**25}, "in the image"),
        ({"category_id": 99}, "category id 99, which is not in"),
        ({"category_id": 5}, "category id 5, which belongs to no task"),
    ],
)
def test_ids_that_the_annotations_do_not_have(truth, tasks, change, said):
    objects = truth([(0, "a", (0, 0, 10, 10))])
    with pytest.raises(DataError, match=said):
        evaluate(objects, DetectionArrays.from_results([GOOD, GOOD | change]), tasks, 1)


@pytest.mark.parametrize("listed", [["img_7"], ["img_0", ""], [99]])
def test_images_that_the_annotations_do_not_have(truth, tasks, listed):
    with pytest.raises(DataError, match=f"image list, line {len(listed)}"):
        evaluate(truth([]), DetectionArrays.from_results([]), tasks, 1, image_list=listed)


def test_a_name_that_two_images_have(truth, tasks):
    objects = GroundTruth(**{**truth([], images=2).__dict__, "file_names": ("x/0.jpg", "y/0.jpg")})
    with pytest.raises(DataError, match="more than once"):
        evaluate(objects, DetectionArrays.from_results([]), tasks, 1, image_list=["0"])
    assert evaluate(objects, DetectionArrays.from_results([]), tasks, 1, image_list=["y/0.jpg"])["images"] == 1


def test_the_id_of_unknown_must_be_free(truth, tasks):
    taken = TaskSet(tasks.name, tasks.tasks, unknown_id=2)
    with pytest.raises(ConfigError, match=r"unknown_id 2 .* is the id of 'b'"):
        evaluate(truth([]), DetectionArrays.from_results([]), taken, 1)
    # the id of a category in no task is free: whatever it is, it is unknown
    assert evaluate(truth([]), DetectionArrays.from_results([]), TaskSet(tasks.name, tasks.tasks, 5), 1)["task"] == 1


def test_annotations_that_are_none(truth, detections, tasks):
    with pytest.raises(DataError, match=r"the image 10 has an object with the box \[10.0, 0.0, 0.0, 10.0\]"):
        evaluate(truth([(0, "a", (10, 0, 0, 10))]), detections([]), tasks, 1, mode="ore")
    far = truth([(0, "a", (0, 0, 1e10, 10))])
    assert evaluate(far, detections([]), tasks, 1)["boxes_clipped"] == 1
    with pytest.raises(DataError, match="the image 10 has an object with the box"):
        evaluate(replace(far, sides=None), detections([]), tasks, 1)
    with pytest.raises(DataError, match="annotation 0 has the box"):
        truth([(0, "a", (float("nan"), 0, 0, 10))])
    with pytest.raises(DataError, match="distractor 0 has the box"):
        truth([], distractors=[(0, (0, 0, float("inf"), 1))])


def test_names_of_another_file(tmp_path):
    content = {
        "images": [{"id": "x", "file_name": "x.jpg", "width": 50, "height": 50}],
        "annotations": [
            {"id": 1, "image_id": "x", "category_id": 7, "bbox": [0, 0, 10, 10], "iscrowd": 0, "area": 100}
        ],
        "categories": [{"id": 7, "name": "airplane"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    tasks = TaskSet("planes", (("aeroplane",), ("kite",)), aliases={"airplane": "aeroplane"})
    evaluator = OpenWorldEvaluator(GroundTruth.from_coco(tmp_path / "truth.json"), tasks)
    found = DetectionArrays.from_results([GOOD | {"image_id": "x", "category_id": 7}])
    result = evaluator(found, 2)
    assert result["ap_per_class"] == {"aeroplane": 1.0, "kite": None, "unknown": None}
    assert result["map_previous"] == 1.0


def test_many_boxes_in_one_image(truth, tasks):
    random = np.random.default_rng(0)
    objects = truth([(0, "a", (0, 0, 10, 10)), (0, "far", (5, 0, 15, 10))])
    count = 10_000
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (count, 1)) + random.normal(scale=0.01, size=(count, 1))
    found = DetectionArrays(np.full(count, 10), np.full(count, 1), boxes, random.random(count))
    result = evaluate(objects, found, tasks, 1, coco=False)
    assert result["recall_per_class"]["a"] == 1.0
    assert result["precision_per_class"]["a"] == 1 / count
    assert evaluate(objects, found, tasks, 1, mode="ore")["recall_per_class"]["a"] == 1.0
