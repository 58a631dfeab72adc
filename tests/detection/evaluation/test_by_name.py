"""Detections whose numbers are not those of the annotations, but whose names are."""

import numpy as np
import pytest

from detection.evaluation import DetectionArrays, by_name, evaluate
from detection.evaluation.by_name import has_names
from detection.tasks import TaskSet
from sslcore.errors import DataError

BOXES = {"a": (0, 0, 50, 50), "b": (100, 100, 150, 150), "c": (200, 200, 250, 250)}
"""One object of each class in image 0, and of a and b in image 1: `img_0.jpg` and `img_1.jpg` in `folder`."""


@pytest.fixture
def annotated(truth):
    return truth([(0, name, box) for name, box in BOXES.items()] + [(1, name, BOXES[name]) for name in "ab"], images=2)


def record(image, name, *, file=None, box=None, score=0.9):
    """As a detector of its own numbering writes it: images from 1 in another order, classes by its labels."""
    left, top, right, bottom = box or BOXES["c" if name == "unknown" else name]
    return {
        "image_id": 2 - image, "category_id": 0 if name == "unknown" else 2 + "ab".index(name),
        "bbox": [left, top, right - left, bottom - top], "score": score,
        "file_name": f"img_{image}.jpg" if file is None else file, "category_name": name,
    }  # fmt: skip


RIGHT = [record(image, name) for image in (0, 1) for name in "ab"] + [record(0, "unknown")]


def test_right_numbers_though_all_ids_are_others(annotated, tasks):
    found, notes = by_name(RIGHT, annotated, tasks, source="found.json")
    assert found.image_ids.tolist() == [10, 10, 11, 11, 10]
    assert found.category_ids.tolist() == [1, 2, 1, 2, 0]
    assert notes == ("Images and classes were told by the names in found.json, not by its ids.",)
    result = evaluate(annotated, found, tasks, 1)
    assert (result["map_both"], result["u_recall"], result["u_precision"]) == (1.0, 1.0, 1.0)


def test_by_ids_the_same_would_be_rubbish_without_a_word(annotated, tasks):
    """What names are there for: these ids occur in the annotations, too, and mean something else."""
    numbers = [{**found, "image_id": 10 + found["image_id"] % 2} for found in RIGHT]
    result = evaluate(annotated, DetectionArrays.from_results(numbers), tasks, 2)
    assert result["map_both"] == 0.0


def test_only_detections_with_both_names_go_by_them():
    assert has_names(RIGHT) and has_names([{}, RIGHT[0]])
    assert not has_names([])
    for key in ("file_name", "category_name"):
        assert not has_names([{k: v for k, v in record(0, "a").items() if k != key}])


def test_images_that_are_not_annotated_are_left_out_and_counted(annotated, tasks):
    others = [record(0, "a", file=name) for name in ("x.jpg", "x.jpg", "other/img_0.jpg")]
    extra = [{**found, "energy": i, "unknown_posterior": 0.1} for i, found in enumerate([*others, *RIGHT])]
    found, notes = by_name(extra, annotated, tasks)
    assert len(found) == len(RIGHT)
    assert found.energies.tolist() == [3, 4, 5, 6, 7] and len(found.posteriors) == len(found)
    assert "3 detections in 2 images that annotations does not list were left out." in notes
    assert evaluate(annotated, found, tasks, 1)["map_both"] == 1.0


def test_aliases_and_another_unknown_id(annotated):
    tasks = TaskSet("letters", (("a", "b"), ("c",), ("d",)), unknown_id=77, aliases={"bee": "b"})
    found, _ = by_name(
        [{**r, "category_name": r["category_name"].replace("b", "bee")} for r in RIGHT], annotated, tasks
    )
    assert found.category_ids.tolist() == [1, 2, 1, 2, 77]


def test_annotations_may_have_aliases_and_must_have_each_class(truth, tasks):
    spelled = truth([(0, "bee", BOXES["b"])], categories=("bee",))
    aliases = TaskSet(tasks.name, tasks.tasks, unknown_id=tasks.unknown_id, aliases={"bee": "b"})
    found, _ = by_name([record(0, "b")], spelled, aliases)
    assert found.category_ids.tolist() == [1]
    with pytest.raises(DataError, match="annotations has no category 'a', of which detections has detections: add it"):
        by_name([record(0, "a")], spelled, aliases)


def test_ids_of_images_may_be_texts(annotated, tasks):
    from dataclasses import replace

    found, _ = by_name(RIGHT, replace(annotated, image_ids=("x", "y")), tasks)
    assert found.image_ids.dtype == np.dtype(object) and found.image_ids.tolist() == ["x", "x", "y", "y", "x"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"category_name": "aa"},
            "has detections of 'aa', which is no class of the task set 'letters': .* or, .* by their ids, remove",
        ),
        ({"category_name": "far"}, "has detections of 'far', which is no class"),
        ({"category_name": 3}, r"detection 5 \(from 0\) has no 'category_name' in words.* remove file_name and"),
        ({"file_name": None}, r"detection 5 \(from 0\) has no 'file_name'"),
        ({"file_name": "else/folder/img_0.jpg"}, "'img_0.jpg' and 'else/folder/img_0.jpg' would both be folder/img_0"),
        ({"score": "high"}, r"detection 5 \(from 0\) has 'high' as 'score'"),
    ],
)
def test_one_sentence_each(annotated, tasks, changes, sentence):
    with pytest.raises(DataError, match=sentence):
        by_name([*RIGHT, record(0, "a") | changes], annotated, tasks)


def test_no_image_in_common(annotated, tasks):
    with pytest.raises(DataError, match=r"no image of detections is in annotations, .* than 'z\.jpg'; score"):
        by_name([record(0, "a", file="z.jpg")], annotated, tasks)


def test_a_name_that_two_images_have(annotated, tasks):
    from dataclasses import replace

    two = replace(annotated, file_names=("p/i.jpg", "q/i.jpg"))
    with pytest.raises(DataError, match=r"'i\.jpg' may be p/i\.jpg or q/i\.jpg of annotations; name the images with"):
        by_name([record(0, "a", file="i.jpg")], two, tasks)
