"""Rates, the order of a step, and what lies under pseudo-unknowns."""

from collections import Counter
from dataclasses import replace
from math import ceil, floor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.drawn import TASKS, drawn_recipe
from torch import nn

from detection.data.views import finetune_view, train_view
from detection.openworld.purity import CURRENT, DISTRACTOR, KINDS, OLD, UNKNOWN_KIND
from detection.openworld.sampling import RegionSample
from detection.structures import FIRST_KNOWN, Detections, Target
from detection.training.batches import Batch
from detection.training.callbacks import PurityWatch
from detection.training.layout import Layout
from detection.training.module import Place, StageModule, rate_factor
from detection.training.previous import previous_boxes
from detection.training.recipe import StageSettings
from detection.training.runner import Chain
from detection.training.samples import Part, Plan, TrainingSet, balanced, every_image
from detection.training.truth import Truth


def test_the_rate_rises_then_drops_at_milestones():
    settings = StageSettings(steps=100, warmup=4, schedule="steps", milestones=[0.5, 0.8])
    found = [rate_factor(step, settings) for step in (0, 1, 3, 4, 49, 50, 79, 80, 99)]
    assert found == pytest.approx([0.25, 0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_rate_rises_then_follows_a_cosine():
    settings = StageSettings(steps=20, warmup=10, schedule="cosine")
    assert [rate_factor(step, settings) for step in (0, 9, 10, 15, 20)] == pytest.approx([0.1, 1, 1, 0.5, 0])
    assert rate_factor(1, StageSettings(steps=2, warmup=100)) == 1  # a warm-up longer than the stage is cut


def test_memory_is_written_after_the_optimisers_step(drawn, monkeypatch):
    recipe = drawn_recipe(first={"steps": 2}, tasks=1)
    chain = Chain(recipe, drawn, None, quiet=True, say=lambda sentence: None)
    engine, order = chain._any_engine(), []
    weight = engine.predictor.classify.weight
    remember, losses = engine.head.remember, engine.losses

    def watched(*args):
        order.append(("remember", weight.detach().clone()))
        assert not any(each.requires_grad for each in args) and not torch.is_grad_enabled()
        remember(*args)

    def watched_losses(*args, **kwargs):
        order.append(("losses", weight.detach().clone()))
        assert engine.training and 0 <= kwargs["progress"] < 1
        return losses(*args, **kwargs)

    monkeypatch.setattr(engine.head, "remember", watched)
    monkeypatch.setattr(engine, "losses", watched_losses)
    chain.go(until=(1, "train"))
    assert [name for name, _ in order] == ["losses", "remember"] * 2
    assert not torch.equal(order[0][1], order[1][1]) and torch.equal(order[1][1], order[2][1])


def test_an_exemplar_is_as_it_was_chosen_whatever_the_batch_wants(drawn):
    """Labels of the train stage of task 2: the current classes in current images, known ones in exemplars' images."""
    chain = Chain(drawn_recipe(), drawn, None, quiet=True, say=lambda sentence: None)
    place = SimpleNamespace(task=2, stage="train", seed=5)
    images, plan = chain.lessons.of(place, chain.recipe.later)
    assert [part.count for part in plan.parts] == [3, 1]
    current, old = images.sets
    assert set(current.labels.tolist()) <= {FIRST_KNOWN + 2, FIRST_KNOWN + 3} and len(current) == 12
    assert set(old.labels.tolist()) >= {FIRST_KNOWN, FIRST_KNOWN + 1} and len(old) <= 8
    assert all(plan.batch(step)[3] >= 12 for step in range(6))
    place.stage = "finetune"
    images, plan = chain.lessons.of(place, chain.recipe.finetune)
    assert len(images.sets) == 2 and plan.batch_size == 4 and len(plan.parts) == 1


def test_fine_tuning_shows_every_class_equally_often(drawn):
    """Each class has as many places as any other, and goes round its boxes to fill them."""
    chain = Chain(drawn_recipe(), drawn, None, quiet=True, say=lambda sentence: None)
    images, plan = chain.lessons.of(SimpleNamespace(task=2, stage="finetune", seed=5), chain.recipe.finetune)
    places = plan.parts[0].places
    assert places.tolist() == balanced(images).tolist()
    boxes = {label: Counter() for label in range(FIRST_KNOWN, FIRST_KNOWN + 4)}
    for number in range(len(images)):
        for label in images.target(number).labels.tolist():
            boxes[label][number] += 1
    assert len({found.total() for found in boxes.values()}) > 1  # else there would be nothing to balance
    for found, share in zip(boxes.values(), places.reshape(4, -1).tolist(), strict=True):
        shown, rounds = Counter(share), len(share) / found.total()
        assert shown.keys() == found.keys()
        assert all(floor(rounds) * found[n] <= shown[n] <= ceil(rounds) * found[n] for n in found)
    epoch = [number for step in range(len(places)) for number in plan.batch(step)][: len(places)]
    assert sorted(epoch) == sorted(places.tolist())


def test_truth_knows_what_training_does_not_see(drawn):
    annotations = replace(
        drawn.train(2), distractor_image=np.array([0, 3]), distractors=np.array([[0.0, 0, 9, 9], [1.0, 1, 8, 8]])
    )
    truth = Truth(TrainingSet([train_view(annotations, TASKS, 2)]), TASKS, 2)
    of = {"red": "old", "green": "old", "blue": "current", "yellow": "current", "grey": "unknown"}
    seen = set()
    for index in range(len(annotations.images)):
        boxes, kinds = truth.of(index)
        rows = annotations.box_image == index
        pasted = annotations.distractors[annotations.distractor_image == index]
        names = [KINDS[kind] for kind in kinds]
        assert names[: rows.sum()] == [of[annotations.categories[c]] for c in annotations.box_category[rows]]
        assert names[rows.sum() :] == ["distractor"] * len(pasted)
        np.testing.assert_array_equal(boxes.numpy(), np.concatenate([annotations.boxes[rows], pasted]))
        seen.update(names)
    assert seen == {"unknown", "old", "current", "distractor"}


def test_annotations_that_show_nothing_unknown_judge_nothing(drawn):
    """What a person has named since is annotated alone: that its images show nothing unknown is not known."""
    whole = drawn.train(2)
    named = np.isin(whole.box_category, [whole.categories.index(name) for name in ("blue", "yellow")])
    own = replace(
        whole,
        **{
            key: getattr(whole, key)[named]
            for key in ("box_ids", "box_image", "box_category", "boxes", "crowd", "difficult", "area")
        },
    )
    images = TrainingSet([train_view(own, TASKS, 2), finetune_view(drawn.train(1), TASKS, 2)])
    truth = Truth(images, TASKS, 2)
    count = len(images.sets[0])
    assert [truth.judges(index) for index in range(len(images))] == [False] * count + [True] * (len(images) - count)


def test_purity_is_counted_in_the_pixels_of_the_networks_image():
    """Of three images with other numbers of objects: one as it is, one mirrored, one at twice its size. Of another
    nothing unknown is annotated."""
    squares = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10], [60.0, 20, 80, 40]])
    truth = SimpleNamespace(
        of={
            7: (squares[:1], torch.tensor([UNKNOWN_KIND])),
            3: (squares, torch.tensor([UNKNOWN_KIND, OLD, CURRENT])),
            5: (squares[:2], torch.tensor([CURRENT, DISTRACTOR])),
        }.__getitem__,
        judges=lambda key: key != 9,  # of which `of` would not know anything
    )

    def chosen(*boxes):
        found = torch.tensor(boxes)
        yes = torch.ones(len(found), dtype=torch.bool)
        return RegionSample(found, yes.long(), found, ~yes, yes, yes.long(), lambda: found.flip(0)[:1])

    batch = Batch(
        images=[torch.zeros(3, 50, 30), torch.zeros(3, 50, 90), torch.zeros(3, 50, 100), torch.zeros(3, 50, 70)],
        targets=[Target.empty(9), Target.empty(7), Target.empty(3), Target.empty(5)],
        step=0,
        mirrored=[True, False, True, False],
    )
    samples = [
        chosen([0.0, 0, 10, 10], [5.0, 5, 15, 15]),
        chosen([0.0, 0, 10, 10]),
        chosen([70.0, 0, 80, 10], [0.0, 0, 10, 10]),
        chosen([0.0, 0, 20, 20], [0.0, 0, 10, 10], [40.0, 0, 60, 20]),
    ]
    watch = PurityWatch(truth, start=0.0)
    watch.count(batch, SimpleNamespace(samples=samples, scales=[(3.0, 3.0), (1.0, 1.0), (1.0, 1.0), (2.0, 2.0)]))
    watch.count(Batch([], [], 1), SimpleNamespace(samples=[], scales=[]))
    found = watch.totalled()
    assert {kind: found["chosen"][kind] * 6 for kind in KINDS} == pytest.approx(
        {"unknown": 1, "old": 1, "current": 1, "distractor": 1, "background": 2}
    )
    assert found["random"]["count"] == 3 and found["random"]["distractor"] == pytest.approx(1 / 3)


def test_what_is_known_already_is_found_once_in_images_where_it_may_be_unlabelled(tmp_path, drawn):
    own, exemplars = train_view(drawn.train(2), TASKS, 2), finetune_view(drawn.train(1), TASKS, 2)
    images = TrainingSet([own, exemplars], [True, False])
    plan = Plan((Part(every_image(own), 4), Part(every_image(exemplars, len(own)), 2)), seed=0, steps=2)

    class Engine:
        calls = 0

        def predict(self, batch):
            self.calls += len(batch)
            boxes = torch.tensor([[1.0, 2, 3, 4], [5.0, 6, 7, 8], [9.0, 9, 11, 11]])
            labels, scores = torch.tensor([1, FIRST_KNOWN, FIRST_KNOWN]), torch.tensor([0.9, 0.3, 0.29])
            return [Detections(boxes, labels, scores, scores, scores, torch.zeros(3, 0)) for _ in batch]

    engine, layout, place = Engine(), Layout(tmp_path), Place(2, "train", 0, 0)

    def share(count, look):
        return [look(list(range(count)), {"batch_size": 3})]

    def found(sets, least=0.3, place=place):
        return previous_boxes(engine, sets, plan, layout, place, least=least, share=share)

    used = {number for step in range(2) for number in plan.batch(step) if number < len(own)}
    for _ in range(2):
        boxes = found(images)
        assert engine.calls == len(used) == 8  # not those that no batch shows, nor exemplars', and not again
        assert all(each.tolist() == ([[5, 6, 7, 8]] if n in used else []) for n, each in enumerate(boxes))
    first = min(used)
    assert len(found(images, 0.29)[first]) == 2 and engine.calls == 16  # another score: looked for anew
    assert len(found(images, place=Place(2, "finetune", 0, 0))[first]) == 1 and engine.calls == 24
    assert len(found(images, 0.29)[first]) == 2 and engine.calls == 24  # each stage has its own
    assert not any(map(len, found(TrainingSet(images.sets)))) and engine.calls == 24


def test_what_is_known_already_lies_where_a_mirrored_image_shows_it():
    known = [torch.tensor([[1.0, 2, 11, 7], [0.0, 0, 5, 5]]), torch.zeros(0, 4), torch.tensor([[20.0, 3, 30, 9]])]

    def module(previous):
        recipe = drawn_recipe()
        return StageModule(nn.Identity(), None, recipe, recipe.later, Place(2, "train", 0, 0), previous, {})

    batch = Batch(
        images=[torch.zeros(3, 30, 90), torch.zeros(3, 30, 40), torch.zeros(3, 30, 60), torch.zeros(3, 30, 70)],
        targets=[Target.empty(2), Target.empty(0), Target.empty(1), Target.empty(0)],
        step=0,
        mirrored=[True, False, True, True],
    )
    found = [boxes.tolist() for boxes in module(known).previous_of(batch)]
    assert found == [[[60, 3, 70, 9]], [[1, 2, 11, 7], [0, 0, 5, 5]], [], [[59, 2, 69, 7], [65, 0, 70, 5]]]
    assert module(None).previous_of(batch) is None


def test_exemplars_images_may_show_what_is_known_if_only_their_task_was_annotated(drawn):
    def alone(annotations, *kinds):
        """As somebody annotates who was asked for these classes only."""
        rows = np.isin(annotations.box_category, [annotations.categories.index(kind) for kind in kinds])
        names = ("box_image", "boxes", "box_category", "crowd", "difficult", "area", "box_ids")
        return replace(annotations, **{name: getattr(annotations, name)[rows] for name in names})

    second = alone(drawn.train(2), "blue", "yellow")
    for data, partial in (
        (drawn, {"train": (True, False), "finetune": (False, False)}),
        (replace(drawn, trains=(drawn.train(1), second)), {"train": (True, False), "finetune": (False, True)}),
    ):
        chain = Chain(drawn_recipe(), data, None, quiet=True, say=lambda sentence: None)
        for stage, expected in partial.items():
            images, _ = chain.lessons.of(SimpleNamespace(task=2, stage=stage, seed=5), chain.recipe.later)
            assert images.partial == expected
            assert [images.is_partial(int(start)) for start in images.starts[:-1]] == list(expected)
    images, _ = chain.lessons.of(SimpleNamespace(task=1, stage="train", seed=5), chain.recipe.first)
    assert images.partial == (False,)
