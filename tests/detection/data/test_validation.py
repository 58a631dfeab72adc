from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.data.problems import Problems
from detection.data.validation import check, clean, validate
from detection.tasks import TaskSet
from sslcore.errors import DataError

TASKS = TaskSet("t", (("dog",), ("cat",)))


def made(
    boxes=((0, 0, 10, 10),), *, images=("a.jpg",), categories=("dog", "cat"), folder=None, source="s.json", **more
):
    """Every box in image 0, of classes in turn, with area 90."""
    count = len(boxes)
    values = {
        "images": tuple(ImageRecord(i + 1, name, 40, 30) for i, name in enumerate(images)),
        "categories": categories,
        "category_ids": tuple(range(1, len(categories) + 1)),
        "box_image": np.zeros(count, dtype=np.int64),
        "boxes": np.array(boxes, dtype=np.float64).reshape(-1, 4),
        "box_category": np.arange(count) % len(categories),
        "crowd": np.zeros(count, dtype=np.bool_),
        "difficult": np.zeros(count, dtype=np.bool_),
        "area": np.full(count, 90.0),
        "box_ids": np.arange(count) + 7,
        "folder": folder,
        "source": source,
    }
    return AnnotationSet(**{**values, **more})


def said(problems):
    return [(problem.fatal, problem.id, problem.sentence) for problem in problems]


def pictures(folder, *names, size=(40, 30)):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / name)


def test_nothing_is_wrong(tmp_path):
    pictures(tmp_path, "a.jpg", "deep/b.png")
    ours = made([(0, 0, 40, 30), (1, 2, 3, 4)], images=("a.jpg", "deep/b.png"), folder=tmp_path)
    assert validate({"train": ours}, TASKS) == []


# --- boxes -----------------------------------------------------------------------------------------------------------


def test_boxes_are_clipped_or_left_out():
    boxes = [
        (5, 5, 15, 15),  # as it is
        (-4, 10, 20, 34),  # reaches out
        (30, 0, 40.4, 30),  # by rounding only
        (45, 0, 50, 10),  # outside
        (40, 0, 50, 10),  # touches the edge from outside
        (5, 5, 5, 20),  # no width
        (9, 9, 5, 12),  # inside out
    ]
    problems = Problems()
    kept = clean(made(boxes), problems)
    assert kept.boxes.tolist() == [[5, 5, 15, 15], [0, 10, 20, 30], [30, 0, 40, 30]]
    assert kept.box_ids.tolist() == [7, 8, 9]
    assert kept.area.tolist() == [90, 90, 90]
    assert [(fatal, name) for fatal, name, _ in said(problems)] == [
        (False, 12),
        (False, 13),
        (False, 10),
        (False, 11),
        (False, 8),
    ]
    assert problems[0].sentence == "annotation 12: box (5, 5, 5, 20) of image 1, 40 x 30, has no area and is ignored"
    assert "lies outside the image and is ignored" in problems[2].sentence
    assert "reaches out of the image and is clipped" in problems[4].sentence


def test_a_clipped_box_has_no_more_area_than_what_is_left():
    assert clean(made([(-5, 0, 5, 10), (0, 0, 9, 9)], area=np.array([90.0, 95.0]))).area.tolist() == [50, 95]


def test_boxes_in_images_of_unknown_size_are_not_clipped():
    problems, images = Problems(), (ImageRecord(1, "", 0, 30),)
    kept = clean(replace(made([(-5, 0, 50, 60), (5, 5, 5, 9)]), images=images), problems)
    assert kept.boxes.tolist() == [[-5, 0, 50, 60]]
    assert [problem.sentence for problem in problems] == [
        "annotation 8: box (5, 5, 5, 9) of image 1, of unknown size, has no area and is ignored",
        "1 of its 1 images have no width and height: no box is checked against these",
    ]


def test_boxes_that_are_not_finite_are_fatal():
    broken = made([(0, 0, np.nan, 5), (0, 0, 5, 5), (0, 0, np.inf, 5)])
    assert [(fatal, name) for fatal, name, _ in said(validate({"val": broken}))] == [(True, 7), (True, 9)]
    with pytest.raises(DataError, match=r"annotation 7: box .* is not finite"):
        clean(broken)


def test_cleaning_keeps_everything_else():
    ours = made([(0, 0, 0, 5), (1, 1, 5, 5)], crowd=np.array([False, True]), difficult=np.array([True, False]))
    kept = clean(ours)
    assert (kept.crowd.tolist(), kept.difficult.tolist(), kept.box_category.tolist()) == ([True], [False], [1])
    assert (kept.images, kept.source) == (ours.images, ours.source)
    assert len(clean(made([], images=())).boxes) == 0


# --- pictures --------------------------------------------------------------------------------------------------------


def test_missing_pictures(tmp_path):
    pictures(tmp_path, "a.jpg")
    ours = made(images=("a.jpg", "b.jpg", "deep/c.jpg"), folder=tmp_path)
    assert said(validate({"train": ours})) == [
        (True, 2, f"image 2: {tmp_path}/b.jpg does not exist"),
        (True, 3, f"image 3: {tmp_path}/deep/c.jpg does not exist"),
    ]
    many = [f"{i}.jpg" for i in range(500)]
    assert len(validate({"train": made(images=["a.jpg", *many], folder=tmp_path)})) == 21


def test_a_set_without_pictures():
    none, some = made([], images=()), made([(0, 0, 9, 9)])
    assert said(validate({"train": none, "val": none, "test": none}, TASKS)) == [
        (True, None, "lists no images, so there is nothing to learn from"),
        (True, None, "lists no images, so there is nothing to fit the decision on"),
        (True, None, "lists no images, so there is nothing to measure on"),
    ]
    assert validate({"train": some, "val": none}, fits=False) == []


def test_pictures_that_are_missing_altogether_are_one_problem(tmp_path):
    gone = made(images=[f"{i}.jpg" for i in range(1500)], folder=tmp_path / "none")
    sentence = (
        f"none of its 1,500 images is in {tmp_path}/none, where '0.jpg' should be: put them there, or name the folder "
        "that the file names are relative to"
    )
    assert said(validate({"train": gone})) == [(True, None, sentence)]
    (only,) = validate({"train": made(images=["a.jpg"], folder=tmp_path)})
    assert only.sentence == f"image 1: {tmp_path}/a.jpg does not exist"


def test_pictures_of_another_size_or_none_at_all(tmp_path):
    pictures(tmp_path, "a.jpg", size=(30, 40))
    (tmp_path / "b.jpg").write_bytes(b"not a picture")
    problems = validate({"train": made(images=("a.jpg", "b.jpg"), folder=tmp_path)})
    assert [(p.fatal, p.id) for p in problems] == [(True, 1), (True, 2)]
    assert problems[0].sentence == f"image 1: {tmp_path}/a.jpg has 30 x 40 pixels, annotated are 40 x 30"
    assert validate({"train": made(images=("a.jpg", "b.jpg"), folder=tmp_path)}, headers=0) == []


def test_only_some_headers_are_read(tmp_path):
    names = [f"{i}.png" for i in range(10)]
    pictures(tmp_path, *names)
    (tmp_path / "1.png").write_bytes(b"")
    assert validate({"train": made(images=names, folder=tmp_path)}, headers=5) == []
    assert len(validate({"train": made(images=names, folder=tmp_path)}, headers=10)) == 1


def test_ids_and_names_that_are_there_twice():
    images = (ImageRecord(1, "a.jpg", 40, 30), ImageRecord(1, "./b.jpg", 40, 30), ImageRecord(2, "b.jpg", 40, 30))
    assert said(validate({"train": replace(made(), images=images)})) == [
        (True, 1, "image id 1 is there twice"),
        (True, "b.jpg", "image file name 'b.jpg' is there twice"),
    ]


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["val", "test"])
def test_training_images_in_another_split_are_fatal(other):
    train, held_out = made(images=("a.jpg", "b.jpg")), made(images=("c.jpg", "./b.jpg"), source="v.json")
    (problem,) = validate({"train_1": train, other: held_out})
    assert (problem.fatal, problem.id, problem.file) == (True, 2, "v.json")
    assert "is among the images of train_1 (s.json) too" in problem.sentence
    with pytest.raises(DataError, match=r"v\.json  image 2"):
        check({"train": train, other: held_out})


def test_images_may_recur_across_tasks_and_names_across_folders(tmp_path):
    ours = made()
    assert validate({"train_1": ours, "train_2": ours}) == []
    pictures(tmp_path, "one/a.jpg", "two/a.jpg")
    sets = {"train": made(folder=tmp_path / "one"), "test": made(folder=tmp_path / "two")}
    assert validate(sets) == []
    # The same picture, by another way.
    sets["test"] = made(images=("../one/a.jpg",), folder=tmp_path / "two")
    assert [p.fatal for p in validate(sets)] == [True]


def test_a_link_to_a_training_image_is_that_image(tmp_path):
    pictures(tmp_path, "one/a.jpg", "one/b.jpg")
    (tmp_path / "one" / "v.jpg").symlink_to("a.jpg")
    (tmp_path / "two").symlink_to("one")
    train = made(images=("a.jpg", "b.jpg"), folder=tmp_path / "one")
    (problem,) = validate({"train": train, "test": made(images=("v.jpg",), folder=tmp_path / "one", source="t.json")})
    assert (problem.fatal, problem.id, problem.file) == (True, 1, "t.json")
    assert problem.sentence == "image 1, v.jpg, is among the images of train (s.json) too, as a.jpg"
    (problem,) = validate({"train": train, "val": made(images=("b.jpg",), folder=tmp_path / "two")})
    assert (problem.fatal, problem.sentence[:36]) == (True, "image 1, b.jpg, is among the images ")


def test_a_copy_is_told_where_it_is_asked_for_and_only_files_that_may_be_one_are_read(tmp_path, monkeypatch):
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png")
    for name, size in (("a", 9), ("b", 5), ("c", 9), ("d", 7)):  # what is behind a picture's end is of no matter
        with (tmp_path / f"{name}.png").open("ab") as file:
            file.write(name.encode() * size)
    (tmp_path / "e.png").write_bytes((tmp_path / "b.png").read_bytes())
    train = made(images=("a.png", "b.png"), folder=tmp_path)
    sets = {"train_1": train, "train_2": train, "test": made(images=("c.png", "d.png", "e.png"), folder=tmp_path)}
    assert validate(sets) == []
    read = []
    monkeypatch.setattr(
        "detection.data.pictures.file_hash", lambda path: (read.append(path.name), (path.read_bytes(), 0))[1]
    )
    found = validate(sets, copies=True)
    sentence = (
        "image 3, e.png, has the same content as b.png among the images of train_{} (s.json); leave one of them out"
    )
    assert said(found) == [(False, 3, sentence.format(task)) for task in (1, 2)]
    assert sorted(read) == ["a.png", "b.png", "c.png", "e.png"]  # each once; no other file has the size of d.png
    # Of another size in the annotations, they need not be read.
    read.clear()
    wider = (ImageRecord(1, "e.png", 41, 30),)
    assert validate({"train": train, "test": replace(sets["test"], images=wider)}, headers=0, copies=True) == []
    assert read == []


def test_the_decision_is_not_fitted_on_test_images():
    sets = {"train": made(), "val": made(images=("v.jpg",)), "test": made(images=("v.jpg",))}
    (problem,) = validate(sets)
    assert (problem.fatal, problem.id) == (True, 1)
    assert "fitted on what it is tested on; give other validation images, or set decision.fit to none" in str(problem)
    (problem,) = validate(sets, fits=False)
    assert (problem.fatal, problem.id) == (False, 1)
    assert "too; nothing is fitted on them" in str(problem)


# --- classes ---------------------------------------------------------------------------------------------------------


def test_classes_without_annotation():
    tasks = TaskSet("t", (("dog", "horse"), ("cat",)))
    sets = {"train": made([(0, 0, 9, 9)] * 2, categories=("dog", "horses")), "test": made([], images=("t.jpg",))}
    problems = validate(sets, tasks)
    assert said(problems)[0] == (
        False,
        None,
        "class 'horse' of task 1 has no annotation; did you mean 'horses'?",
    )
    assert problems[1].fatal
    assert problems[1].sentence.startswith("no class of task 2 is annotated (cat); the file's classes are dog, horses:")
    assert said(problems)[2:] == [
        (False, None, "class 'dog' of task 1 has no annotation"),
        (False, None, "class 'horse' of task 1 has no annotation"),
        (False, None, "class 'cat' of task 2 has no annotation"),
    ]


def test_a_tasks_own_file_needs_its_classes_only():
    dogs, cats = made(categories=("dog",)), made(categories=("cat",))
    assert validate({"train_1": dogs, "train_2": cats}, TASKS) == []
    assert [p.fatal for p in validate({"train_1": cats, "train_2": cats}, TASKS)] == [True]


def test_the_id_of_unknown_detections_must_be_free():
    problems = validate({"test": made([(0, 0, 9, 9)] * 2)}, TaskSet("t", (("dog",), ("cat",)), unknown_id=2))
    assert [p.fatal for p in problems] == [True]
    assert "category 'cat' has id 2, which is the unknown_id of t" in problems[0].sentence


def test_aliases_count():
    tasks = TaskSet("t", (("dog",),), aliases={"hound": "dog"})
    assert validate({"train": made(categories=("hound",))}, tasks) == []


def test_check_returns_what_is_ignored_and_raises_everything_fatal(tmp_path):
    assert [p.id for p in check({"train": made([(0, 0, 0, 0), (0, 0, 9, 9)])})] == [7]
    pictures(tmp_path, "c.jpg")
    with pytest.raises(DataError) as caught:
        check({"train": made(images=("a.jpg", "b.jpg", "c.jpg"), folder=tmp_path)})
    assert len(str(caught.value).splitlines()) == 2
