"""Which images make up which batch."""

from dataclasses import replace

import numpy as np
import pytest
from support.drawn import TASKS

from detection.data.views import finetune_view, train_view
from detection.structures import FIRST_KNOWN
from detection.training.samples import Part, Plan, TrainingSet, balanced, every_image
from sslcore.errors import DataError


def test_numbers_run_on_over_several_sets(drawn):
    first, second = train_view(drawn.train(1), TASKS, 1), train_view(drawn.train(2), TASKS, 2)
    images = TrainingSet([first, second])
    assert len(images) == 24 and images.names == first.names
    assert images.path(0).name == "train_1_0.png" and images.path(12).name == "train_2_0.png"
    target = images.target(15)
    rows = second.of_image(3)
    assert target.key == 15 and target.labels.tolist() == second.labels[rows].tolist()
    np.testing.assert_array_equal(target.boxes.numpy(), second.boxes[rows].astype(np.float32))
    assert images.complete(15) == (second.annotations, 3) and images.size(15) == (64, 64)


def test_an_epoch_shows_every_image_once_and_the_next_begins_inside_a_batch():
    plan = Plan((Part(np.arange(10), 4),), seed=1, steps=100)
    shown = [number for step in range(5) for number in plan.batch(step)]
    assert sorted(shown[:10]) == sorted(shown[10:]) == list(range(10))
    assert shown[:10] != shown[10:] and all(len(plan.batch(step)) == 4 for step in range(30))


def test_a_batch_depends_on_seed_and_step_alone():
    def plan(seed):
        return Plan((Part(np.arange(10), 3), Part(np.arange(10, 14), 1)), seed=seed, steps=100)

    whole, again = plan(1), plan(1)
    expected = [whole.batch(step) for step in range(12)]
    assert [again.batch(step) for step in reversed(range(12))][::-1] == expected
    assert [plan(2).batch(step) for step in range(12)] != expected
    assert all(number >= 10 for numbers in expected for number in numbers[3:])


def test_ranks_take_contiguous_slices_of_the_same_batch():
    plan = Plan((Part(np.arange(10), 3), Part(np.arange(10, 14), 1)), seed=1, steps=100)
    for step in range(6):
        assert plan.batch(step, 0, 2) + plan.batch(step, 1, 2) == plan.batch(step)


def test_fewer_images_than_a_batch_are_shown_more_than_once():
    plan = Plan((Part(np.arange(2), 5),), seed=0, steps=3)
    assert sorted(set(plan.batch(0))) == [0, 1] and len(plan.batch(0)) == 5


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(DataError, match="no image to fill a batch"):
        Plan((Part(np.zeros(0, dtype=np.int64), 4),), seed=0, steps=1)
    assert Plan((Part(np.arange(3), 4), Part(np.zeros(0, dtype=np.int64), 0)), seed=0, steps=1).batch_size == 4


def test_balanced_shows_each_class_equally_often(drawn):
    rows = np.flatnonzero(drawn.train(1).box_category < 2)  # red and green
    labeled = finetune_view(drawn.train(1), TASKS, 1, rows)
    few = labeled.labels == FIRST_KNOWN
    few[np.flatnonzero(few)[1:]] = False  # a single red box
    keep = few | (labeled.labels == FIRST_KNOWN + 1)
    fields = {name: getattr(labeled, name)[keep] for name in ("box_image", "boxes", "labels", "ignore", "rows")}
    rare = TrainingSet([replace(labeled, **fields)])
    greens = int((fields["labels"] == FIRST_KNOWN + 1).sum())
    places = balanced(rare)
    assert len(places) == 2 * greens
    red = int(fields["box_image"][fields["labels"] == FIRST_KNOWN][0])
    assert (places[:greens] == red).all()  # one image stands in for all the red there is
    assert sorted(places[greens:].tolist()) == sorted(fields["box_image"][fields["labels"] == FIRST_KNOWN + 1].tolist())


def test_balanced_of_nothing_is_empty(drawn):
    labeled = finetune_view(drawn.train(1), TASKS, 1, np.zeros(0, dtype=np.int64))
    assert len(labeled) == 0 and len(balanced(TrainingSet([labeled]))) == 0
    assert every_image(labeled).tolist() == []
