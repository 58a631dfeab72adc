import json
import re
import shutil

import numpy as np
import pytest
import torch

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.data.coco import read_coco
from detection.discovery import Learned, discover, learn
from detection.tasks import TaskSet
from sslcore.errors import ConfigError, DataError

TASKS = TaskSet("toy", (("blue",), ("leaf", "tv")), aliases={"tvmonitor": "tv", "azure": "blue"})


@pytest.fixture
def found(full, tmp_path):
    """Group 1: eight red squares; group 2: six green ones."""
    return discover(full.predict, full.folder, tmp_path / "unknowns", known=["blue"])


def name(found, **names):
    """Type names: group_1="apple"."""
    for group, typed in names.items():
        entry = rf"(- group: {group.removeprefix('group_')}\b.*?\n  name:)[^\n]*"
        found.names.write_text(re.sub(entry, rf"\1 {typed}", found.names.read_text(), count=1, flags=re.DOTALL))
    return found.names


def lesson(found, tmp_path, tasks=TASKS, task=1, **more):
    return learn(found.names, tasks, task, tmp_path / "lesson", record=tmp_path / "learned.json", **more)


def annotated(folder, images, boxes, categories):
    """Images (file, width, height) with id 101, 102, ...; boxes (image, x0, y0, x1, y1, category), ids from 501."""
    table = np.array([row[1:5] for row in boxes], dtype=float).reshape(-1, 4)
    none = np.zeros(len(boxes), dtype=bool)
    return AnnotationSet(
        images=tuple(ImageRecord(101 + i, *image) for i, image in enumerate(images)),
        categories=categories,
        category_ids=tuple(range(1, len(categories) + 1)),
        box_image=np.array([row[0] for row in boxes], dtype=np.int64),
        boxes=table,
        box_category=np.array([categories.index(row[5]) for row in boxes], dtype=np.int64),
        crowd=none,
        difficult=none,
        area=(table[:, 2:] - table[:, :2]).prod(axis=1),
        box_ids=np.arange(501, 501 + len(boxes)),
        folder=folder,
    )


def test_named_groups_become_the_next_task(found, full, tmp_path):
    name(found, group_1="apple", group_2="leaf")
    made = lesson(found, tmp_path)
    assert made.tasks.tasks == (("blue",), ("apple", "leaf")) and made.task == 2
    assert made.tasks.aliases == {"azure": "blue"}  # tv is gone, and so is its alias
    assert TaskSet.from_file(made.tasks_file) == made.tasks
    assert len(made.annotations.images) == 8 and len(made.annotations.boxes) == 14
    coco = json.loads(made.train_file.read_text())
    assert coco["info"]["root"] == str(full.folder)
    boxes = {
        (image["file_name"], next(c["name"] for c in coco["categories"] if c["id"] == a["category_id"])): a["bbox"]
        for a in coco["annotations"]
        for image in coco["images"]
        if image["id"] == a["image_id"]
    }
    expected = {(f"{'deep/' if k % 2 else ''}{k}.png", "apple"): [5, 10, 20 + k, 20 + k] for k in range(8)}
    expected |= {(f"{'deep/' if k % 2 else ''}{k}.png", "leaf"): [60, 40, 18 + k, 18 + k] for k in range(6)}
    assert boxes == expected  # and nothing of the blue squares
    assert [image["id"] for image in coco["images"]] == list(range(1, 9))
    assert [a["id"] for a in coco["annotations"]] == list(range(1, 15))


def test_the_files_say_what_the_objects_say(found, tmp_path):
    name(found, group_2="leaf")
    made = lesson(found, tmp_path)
    back = read_coco(made.train_file, images=made.annotations.folder, tasks=made.tasks)
    assert back.images == made.annotations.images and back.categories == made.annotations.categories
    for field in ("box_image", "boxes", "box_category", "crowd", "area", "box_ids"):
        np.testing.assert_allclose(getattr(back, field), getattr(made.annotations, field))
    assert back.path(0) == made.annotations.path(0) and back.path(0).exists()
    assert made.notes == ("1 of 2 groups has no name and is not learned",)


def test_category_ids_keep_clear_of_the_unknown_ones(found, tmp_path):
    name(found, group_1="apple")
    made = lesson(found, tmp_path, tasks=TaskSet("toy", (("blue",),), unknown_id=1))
    assert made.annotations.category_ids == (2, 3) and made.tasks.unknown_id == 1


def test_giving_a_lesson_again_gives_the_same_files(found, tmp_path):
    name(found, group_1="apple")
    files = [tmp_path / "lesson" / "train.json", tmp_path / "lesson" / "tasks.yaml", tmp_path / "learned.json"]
    lesson(found, tmp_path)
    first = [file.read_bytes() for file in files]
    lesson(found, tmp_path)
    assert [file.read_bytes() for file in files] == first


def test_nothing_is_labelled_twice_in_later_tasks(found, tmp_path, full):
    name(found, group_1="apple")
    first = lesson(found, tmp_path)
    name(found, group_1="pear", group_2="leaf")  # the same apples under another name
    second = lesson(found, tmp_path, tasks=first.tasks, task=2)
    assert second.tasks.tasks == (("blue",), ("apple",), ("leaf",))
    assert len(second.annotations.boxes) == 6
    assert "8 of 14 objects were skipped: the same object is labelled already" in second.notes
    assert "'pear' has no object left and is no class" in second.notes
    # pictures keep their ids, boxes get new ones
    ids = {image.file_name: image.id for image in first.annotations.images}
    assert all(ids[image.file_name] == image.id for image in second.annotations.images)
    assert second.annotations.box_ids.tolist() == list(range(9, 15))
    record = Learned.load(tmp_path / "learned.json")
    assert [(box.name, box.task) for box in record.boxes] == [("apple", 2)] * 8 + [("leaf", 3)] * 6


def test_an_object_is_the_same_although_its_box_is_another_one_now(found, tmp_path, full):
    name(found, group_1="apple")
    first = lesson(found, tmp_path)

    def shifted(images):
        detections = full.predict(images)
        for each in detections:
            each.boxes += torch.tensor([2.0, 2.0, 4.0, 4.0])  # IoUs from .58 on
        return detections

    again = discover(shifted, full.folder, tmp_path / "unknowns2")
    name(again, group_1="pear")
    with pytest.raises(DataError, match=r"8 of 8 objects were skipped: the same object is labelled already"):
        lesson(again, tmp_path, tasks=first.tasks, task=2)


def test_a_picture_that_was_renamed_is_recognised(found, full, tmp_path):
    name(found, group_1="apple")
    first = lesson(found, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for k, image in enumerate(first.annotations.images):
        shutil.copy(full.folder / image.file_name, elsewhere / f"new{7 - k}.png")
    again = discover(full.predict, elsewhere, tmp_path / "unknowns2")
    name(again, group_1="pear")
    with pytest.raises(DataError, match=r"nothing new is left to learn: .*8 of 8 objects were skipped"):
        lesson(again, tmp_path, tasks=first.tasks, task=2)


def test_what_training_files_label_already_is_left_out(found, full, tmp_path):
    name(found, group_1="apple", group_2="leaf")
    # Copies of two pictures in the training set of task 1. Object ids and image ids go on after those of the file.
    train = tmp_path / "train"
    train.mkdir()
    shutil.copy(full.folder / "0.png", train / "x.png")
    shutil.copy(full.folder / "2.png", train / "y.png")
    blue = (0, 5, 10, 25, 30, "blue")  # where the red square of 0.png is
    future = (1, 5, 10, 27, 32, "tv")  # where that of 2.png is, but nobody has taught that class
    labelled = annotated(train, [("x.png", 120, 90), ("y.png", 120, 90)], [blue, future], ("blue", "tv"))
    made = lesson(found, tmp_path, labelled=[labelled])
    assert "1 of 14 objects were skipped: the same object is labelled already" in made.notes
    of = {image.file_name: i for i, image in enumerate(made.annotations.images)}
    assert made.annotations.images[of["0.png"]].id == 101 and made.annotations.images[of["2.png"]].id == 102
    assert made.annotations.boxes[made.annotations.box_image == of["0.png"]].tolist() == [[60, 40, 78, 58]]
    assert len(made.annotations.boxes[made.annotations.box_image == of["2.png"]]) == 2
    others = [image.id for image in made.annotations.images if image.file_name not in ("0.png", "2.png")]
    assert others == list(range(103, 109)) and made.annotations.box_ids.tolist() == list(range(503, 516))


def test_validation_and_test_pictures_are_not_learned_from(found, full, tmp_path):
    name(found, group_1="apple")
    test = annotated(full.folder / "deep", [(f"{k}.png", 120, 90) for k in (1, 3)], [], ("blue",))
    made = lesson(found, tmp_path, held_out=[test])
    assert {image.file_name for image in made.annotations.images}.isdisjoint({"deep/1.png", "deep/3.png"})
    assert "2 of 8 objects were skipped: they are in validation or test images" in made.notes


def test_of_two_boxes_on_one_object_the_surer_stays(full, tmp_path):
    def twice(images):
        detections = full.predict(images)
        for each in detections:  # the green square's box once more on the red one, slightly off, as another kind
            green = (each.embeddings[:, 1] > 5).nonzero()[:, 0]
            red = (each.embeddings[:, 0] > 5).nonzero()[:, 0]
            if len(green):
                each.boxes[green[0]] = each.boxes[red[0]] + 0.2
        return detections

    found = discover(twice, full.folder, tmp_path / "unknowns")
    name(found, group_1="apple", group_2="leaf")
    made = lesson(found, tmp_path)
    assert made.tasks.current(2) == ("apple",) and len(made.annotations.boxes) == 8
    assert "6 of 14 objects were skipped: the same object is labelled already" in made.notes


def test_no_name_at_all_is_refused(found, tmp_path):
    with pytest.raises(DataError, match=r"no group in .* has a name; type at least one"):
        lesson(found, tmp_path)
    assert not (tmp_path / "lesson").exists() and not (tmp_path / "learned.json").exists()


def test_classes_of_tasks_not_learned_yet_may_be_named_known_ones_not(found, tmp_path):
    name(found, group_2="tvmonitor")
    assert lesson(found, tmp_path).tasks.tasks == (("blue",), ("tv",))
    name(found, group_2="azure")
    with pytest.raises(ConfigError, match="'blue' is a known class already"):
        lesson(found, tmp_path)


def test_a_folder_with_something_else_is_left_alone(found, tmp_path):
    name(found, group_1="apple")
    (tmp_path / "lesson").mkdir()
    (tmp_path / "lesson" / "diary.txt").write_text("dear")
    with pytest.raises(DataError, match="already holds something else"):
        lesson(found, tmp_path)
    assert (tmp_path / "lesson" / "diary.txt").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "images": [], "boxes": [{"id": 1}]}'])
def test_a_damaged_record_is_refused(found, tmp_path, text):
    name(found, group_1="apple")
    (tmp_path / "learned.json").write_text(text)
    with pytest.raises(DataError, match="learned"):
        lesson(found, tmp_path)


def test_the_record_comes_back_from_its_file(found, tmp_path):
    name(found, group_1="apple")
    lesson(found, tmp_path)
    record = Learned.load(tmp_path / "learned.json")
    record.save(tmp_path / "copy.json")
    assert Learned.load(tmp_path / "copy.json") == record and len(record.images) == 8
    assert Learned.load(tmp_path / "none.json") == Learned()
