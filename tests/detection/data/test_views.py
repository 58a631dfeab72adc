from dataclasses import replace

import numpy as np
import pytest

from detection.data import views
from detection.data.annotations import AnnotationSet, ImageRecord
from detection.structures import UNKNOWN
from detection.tasks import TaskSet

TASKS = TaskSet("t", (("dog", "cat"), ("eel",), ("fox",)), aliases={"hound": "dog"})
# rock belongs to no task; hound is a dog; image 2 has nothing, image 3 only a later class
CATEGORIES = ("rock", "eel", "hound", "cat", "fox")
BOXES = [(0, "hound"), (0, "eel"), (0, "rock"), (1, "cat"), (1, "cat"), (1, "fox"), (3, "eel"), (3, "fox")]


def annotations(crowd=(), difficult=()):
    count = len(BOXES)
    corners = np.array([[i, 0, i + 5, 5] for i in range(count)], dtype=np.float64)
    rows = np.arange(count)
    return AnnotationSet(
        images=tuple(ImageRecord(10 + i, f"{i}.jpg", 20, 20) for i in range(4)),
        categories=CATEGORIES,
        category_ids=(9, 8, 7, 6, 5),
        box_image=np.array([image for image, _ in BOXES]),
        boxes=corners,
        box_category=np.array([CATEGORIES.index(name) for _, name in BOXES]),
        crowd=np.isin(rows, crowd),
        difficult=np.isin(rows, difficult),
        area=np.full(count, 25.0),
        box_ids=100 + rows,
    )


def seen(view):
    """(image id, box id, label, ignore) of every box; each box must be that of the complete annotation."""
    ours = view.annotations
    assert np.array_equal(view.boxes, ours.boxes[view.rows])
    assert np.array_equal(view.box_image, ours.box_image[view.rows])
    return [
        (view.images[image].id, int(ours.box_ids[row]), int(label), bool(ignore))
        for image, row, label, ignore in zip(view.box_image, view.rows, view.labels, view.ignore, strict=True)
    ]


def labels(view):
    return {number: label for _, number, label, _ in seen(view)}


def test_train_shows_the_current_group_alone():
    assert seen(views.train_view(annotations(), TASKS, 1)) == [
        (10, 100, 2, False),
        (11, 103, 3, False),
        (11, 104, 3, False),
    ]
    assert seen(views.train_view(annotations(), TASKS, 2)) == [(10, 101, 4, False), (13, 106, 4, False)]
    assert labels(views.train_view(annotations(), TASKS, 3)) == {105: 5, 107: 5}


def test_images_without_a_label_are_negatives_unless_dropped():
    kept = views.train_view(annotations(), TASKS, 2)
    assert [image.id for image in kept.images] == [10, 11, 12, 13]
    dropped = views.train_view(annotations(), TASKS, 2, drop_empty=True)
    assert [image.id for image in dropped.images] == [10, 13]
    assert seen(dropped) == seen(kept)
    assert [len(dropped.boxes[dropped.of_image(i)]) for i in range(2)] == [1, 1]
    # What stays unlabelled is still in the complete annotation, for measuring.
    assert len(dropped.annotations.boxes) == 5


def test_val_shows_no_future_label():
    assert labels(views.val_view(annotations(), TASKS, 1)) == {100: 2, 103: 3, 104: 3}
    assert labels(views.val_view(annotations(), TASKS, 2)) == {100: 2, 101: 4, 103: 3, 104: 3, 106: 4}


@pytest.mark.parametrize("view", [views.test_view, views.oracle_view])
def test_what_was_not_introduced_is_unknown(view):
    first = {100: 2, 101: UNKNOWN, 102: UNKNOWN, 103: 3, 104: 3, 105: UNKNOWN, 106: UNKNOWN, 107: UNKNOWN}
    assert labels(view(annotations(), TASKS, 1)) == first
    # At the last task, only what belongs to no task is left.
    assert labels(view(annotations(), TASKS, 3)) == {**first, 101: 4, 105: 5, 106: 4, 107: 5}


def test_finetune_shows_all_groups_in_images_with_exemplars():
    view = views.finetune_view(annotations(), TASKS, 2, np.array([3, 0]))
    assert [image.id for image in view.images] == [10, 11]
    assert labels(view) == {100: 2, 101: 4, 103: 3, 104: 3}
    assert not view.ignore.any()
    mask = np.isin(np.arange(len(BOXES)), (3, 0))
    assert seen(views.finetune_view(annotations(), TASKS, 2, mask)) == seen(view)
    assert labels(views.finetune_view(annotations(), TASKS, 2)) == labels(views.val_view(annotations(), TASKS, 2))
    assert len(views.finetune_view(annotations(), TASKS, 2, np.array([], dtype=np.int64))) == 0


def test_exemplars_must_be_known_boxes():
    with pytest.raises(ValueError, match="exemplar 5 is of class 'fox', which is not known at task 2"):
        views.finetune_view(annotations(), TASKS, 2, np.array([3, 5]))
    with pytest.raises(ValueError, match="rows of the 8 boxes"):
        views.finetune_view(annotations(), TASKS, 2, np.array([8]))
    with pytest.raises(ValueError, match="a mask of exemplars"):
        views.finetune_view(annotations(), TASKS, 2, np.array([True]))


@pytest.mark.parametrize("name", views.VIEWS)
def test_crowds_and_difficult_objects_are_ignored(name):
    view = views.VIEWS[name](annotations(crowd=[3], difficult=[4]), TASKS, 1)
    ignored = {number for _, number, _, ignore in seen(view) if ignore}
    assert ignored == {103, 104}
    assert view.names == ("background", "unknown", "dog", "cat")


@pytest.mark.parametrize("name", views.VIEWS)
def test_a_set_without_boxes(name):
    empty = annotations().select([2])
    view = views.VIEWS[name](empty, TASKS, 1)
    assert (len(view), len(view.labels)) == (1, 0)
    nothing = replace(empty, images=())
    assert len(views.VIEWS[name](nothing, TASKS, 1)) == 0


def test_a_view_never_depends_on_a_name():
    for source in ("train.json", "eval/test.json"):
        assert labels(views.test_view(replace(annotations(), source=source), TASKS, 1))[102] == UNKNOWN
