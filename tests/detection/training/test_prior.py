"""The prior that known classes can bear."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.processes import in_processes

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.data.results import category_ids, results_of
from detection.data.views import test_view as view_with_unknowns
from detection.data.views import val_view
from detection.evaluation import DetectionArrays, GroundTruth, evaluate
from detection.openworld.counting import packed, unpacked
from detection.openworld.head import OpenWorldHead
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from detection.structures import FIRST_KNOWN, UNKNOWN, Regions
from detection.tasks import TaskSet
from detection.training import fitting, prior
from detection.training.fitting import Evidence, evidence_of, fit
from detection.training.prior import choose_prior, undecided
from detection.training.processes import everybodys

TASKS = TaskSet(name="two", tasks=[["a", "b"], ["c"]])
SCALE = (2.0, 2.0)  # the network's image is twice as large


def made_head(**decision):
    head = OpenWorldHead(
        ("a", "b"), 2, unknowns=UnknownSettings(), clustering=ClusteringSettings(loss="none"),
        decision=DecisionSettings(**decision), regions=8, positive=0.5, seed=0,
    )  # fmt: skip
    head.taught.fill_(True)
    generator = torch.Generator().manual_seed(1)
    head.scorer.fit(torch.randn(400, generator=generator) - 4, torch.randn(400, generator=generator) - 1, source="test")
    return head


def made_set(images=40):
    """Each image shows an object of each class: a, b, and c, which the first task does not know."""
    records = tuple(ImageRecord(10 + i, f"{i}.png", 60, 60) for i in range(images))
    count = 3 * images
    box = np.array([[2, 2, 14, 14], [22, 22, 34, 34], [42, 42, 54, 54]], dtype=np.float64)
    none = np.zeros(count, dtype=bool)
    return AnnotationSet(
        records, ("a", "b", "c"), (1, 2, 3), np.repeat(np.arange(images), 3), np.tile(box, (images, 1)),
        np.tile(np.arange(3), images), none, none, np.full(count, 144.0), np.arange(count),
    )  # fmt: skip


def made_regions(seed, class_agnostic=False):
    """A region on each object, one beside each and one on nothing; how sure the network is differs."""
    draw = torch.Generator().manual_seed(seed)
    box = torch.tensor([[2.0, 2, 14, 14], [22, 22, 34, 34], [42, 42, 54, 54]]) * 2
    proposals = torch.cat([box, box + 6, torch.tensor([[80.0, 4, 110, 30]])])
    logits = torch.randn(7, 4, generator=draw) * 1.5
    for row in (0, 1, 3, 4):
        logits[row, FIRST_KNOWN + row % 3] += 3.0
    logits[2, UNKNOWN] += 1.5
    columns = 1 if class_agnostic else 3
    boxes = proposals[:, None] + torch.arange(columns).float()[None, :, None]
    return Regions(proposals, torch.zeros(7), boxes, logits, torch.zeros(7, 2))


def choices(head, seen, val):
    return choose_prior(head, [undecided(head, each, i, SCALE) for i, each in enumerate(seen)], val)


def map_of(head, seen, annotations, value):
    """As the evaluator says it of what the head finds."""
    head.scorer.prior = value
    ids, records = category_ids(annotations, TASKS, 1), []
    for image, found in zip(annotations.images, head.decide(seen), strict=True):
        records += results_of(image.id, replace(found, boxes=found.boxes / 2), ids)
    truth = GroundTruth.from_annotations(annotations)
    return evaluate(truth, DetectionArrays.from_results(records), TASKS, 1, coco=False)["map_both"]


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("cost", [0.04, 0.05])
def test_the_highest_prior_at_which_the_evaluator_sees_no_higher_cost(cost, class_agnostic):
    head, annotations = made_head(cost=cost), made_set()
    seen = [made_regions(i, class_agnostic) for i in range(40)]
    chosen = choices(head, seen, val_view(annotations, TASKS, 1))
    by_prior = {value: map_of(head, seen, annotations, value / 100) for value in range(1, 100)}
    assert chosen.map_with == pytest.approx(by_prior[round(100 * chosen.prior)])
    # Where nothing is called unknown: as with a prior of all but nothing.
    assert chosen.map_without == pytest.approx(map_of(head, seen, annotations, 1e-12))
    assert by_prior[round(100 * chosen.prior)] >= chosen.map_without - cost
    assert by_prior[round(100 * chosen.prior) + 1] < chosen.map_without - cost
    assert 0.01 < chosen.prior < 0.5 and chosen.images == 40


def test_a_higher_cost_is_a_higher_prior():
    seen, val = [made_regions(i) for i in range(40)], val_view(made_set(), TASKS, 1)
    found = [choices(made_head(cost=cost), seen, val).prior for cost in (0.02, 0.04, 0.05, 1.0)]
    assert found == sorted(found) and found[0] < found[2] < found[3] == 0.5


def test_neither_labels_of_later_classes_nor_the_order_of_images_matter():
    head, annotations = made_head(cost=0.05), made_set()
    images = [undecided(head, made_regions(i), i, SCALE) for i in range(40)]
    expected = choose_prior(head, images, val_view(annotations, TASKS, 1))
    assert choose_prior(head, images, view_with_unknowns(annotations, TASKS, 1)) == expected
    random.Random(0).shuffle(images)
    assert choose_prior(head, images, val_view(annotations, TASKS, 1)) == expected


def test_crowds_and_images_that_were_not_looked_at_do_not_count():
    head, annotations = made_head(cost=0.05), made_set()
    some = [undecided(head, made_regions(i), i, SCALE) for i in range(0, 40, 2)]
    alone = choose_prior(head, some, val_view(annotations, TASKS, 1))
    rest = annotations.select(range(0, 40, 2))
    renumbered = [replace(image, number=image.number // 2) for image in some]
    assert choose_prior(head, renumbered, val_view(rest, TASKS, 1)) == alone
    crowds = replace(rest, crowd=np.ones_like(rest.crowd))
    nothing = choose_prior(head, renumbered, val_view(crowds, TASKS, 1))
    assert nothing.map_without is None


def seen_of(head, view, numbers):
    labeler = fitting.labeler_of(UnknownSettings())
    evidence = Evidence()
    for number in numbers:
        evidence += evidence_of(head, made_regions(number), view, number, scale=SCALE, labeler=labeler)
    return evidence


def collected(head, annotations, count):
    view = val_view(annotations, TASKS, 1)
    return seen_of(head, view, range(count)), view


class Engine:
    def __init__(self, head):
        self.head = head


def test_a_fit_chooses_the_prior_and_says_what_it_costs(monkeypatch):
    head, annotations = made_head(cost=0.1), made_set()
    evidence, view = collected(head, annotations, 40)
    assert len(evidence.images) == 40
    summary = fit(Engine(head), evidence, head.decision, view)
    assert summary["prior"] == summary["cost"]["prior"] == head.scorer.prior
    assert summary["cost"]["map_without"] - summary["cost"]["map_with"] <= 0.1
    assert f"with a prior of {head.scorer.prior:.2g}" in summary["status"] and summary["sentences"] == []
    monkeypatch.setattr(prior, "MOST_IMAGES", 15)
    few, _ = collected(head, annotations, 40)
    assert [image.number for image in few.images] == [-(-40 * place // 15) for place in range(15)]
    given = made_head(prior=0.3)
    assert collected(given, annotations, 40)[0].images == []


def test_what_cannot_be_chosen_is_said():
    head, annotations = made_head(cost=0.0), made_set()
    evidence, view = collected(head, annotations, 40)
    # Known objects with the energy of nothing known, and the unknown logit above theirs: any prior costs something.
    evidence.images = [replace(image, by_classifier=image.by_classifier + 50) for image in evidence.images]
    summary = fit(Engine(head), evidence, head.decision, view)
    assert summary["prior"] == 0.01
    assert "even with the lowest prior, 0.01, calling regions unknown costs known classes" in summary["sentences"][-1]
    nothing = val_view(replace(annotations, crowd=np.ones_like(annotations.crowd)), TASKS, 1)
    summary = fit(Engine(head), evidence, head.decision, nothing)
    assert summary["prior"] == 0.5
    assert "the 40 validation images show no known object to choose a prior on" in summary["sentences"][-1]


def test_only_what_can_be_found_is_kept():
    head = made_head(score_floor=0.7)
    kept = undecided(head, made_regions(0), 0, SCALE)
    assert 0 < len(kept.known) < 7 and (kept.scores >= 0.7).any(dim=1).all()


def chosen_by_one_of_two(rank):
    """What the first process chooses, without the second."""
    if rank:
        return None
    head, annotations = made_head(cost=0.01), made_set()
    evidence, view = collected(head, annotations, 40)
    return fit(Engine(head), evidence, head.decision, view)["prior"]


def chosen_together(rank):
    """What each of two processes has, of which each looked at every other image; and whether it chose."""
    head, annotations = made_head(cost=0.01), made_set()
    view, evidence, chosen = val_view(annotations, TASKS, 1), Evidence(), []
    for part in everybodys([seen_of(head, view, range(rank, 40, 2))]):
        evidence += part[0]
    with pytest.MonkeyPatch.context() as patch:
        real = fitting.choose_prior
        patch.setattr(fitting, "choose_prior", lambda *given: chosen.append(rank) or real(*given))
        fit(Engine(head), evidence, head.decision, view, together=True)
    return head.scorer.prior, chosen


def made(folder):
    folder.mkdir()
    return folder


def test_several_processes_choose_once_and_as_one_does(tmp_path):
    head, annotations = made_head(cost=0.01), made_set()
    evidence, view = collected(head, annotations, 40)
    alone = fit(Engine(head), evidence, head.decision, view)["prior"]
    assert 0.01 < alone < 0.5
    assert in_processes(chosen_together, made(tmp_path / "a")) == [(alone, [0]), (alone, [])]
    # A train_net fits in its first process, when the others may have ended.
    assert in_processes(chosen_by_one_of_two, made(tmp_path / "b")) == [alone, None]


def test_the_prior_is_in_the_checkpoint_and_one_from_before_has_an_even_one():
    head = made_head(cost=0.0)
    evidence, view = collected(head, made_set(), 40)
    fit(Engine(head), evidence, head.decision, view)
    again = made_head()
    again.load_state_dict(head.state_dict())
    assert again.scorer.prior == head.scorer.prior != 0.5 and again.status() == head.status()
    regions = [made_regions(100)]
    assert torch.equal(again.decide(regions)[0].posteriors, head.decide(regions)[0].posteriors)
    before = unpacked(head.scorer.get_extra_state())
    del before["prior"]
    again.scorer.set_extra_state(packed(before))
    assert again.scorer.prior == 0.5 and again.scorer.fitted


def test_images_without_a_region_are_images_without_a_detection():
    head, annotations = made_head(cost=0.05), made_set()
    images = [undecided(head, made_regions(i), i, SCALE) for i in range(39)]
    full = made_regions(39)
    none = Regions(full.proposals[:0], full.objectness[:0], full.boxes[:0], full.logits[:0], full.features[:0])
    chosen = choose_prior(head, [*images, undecided(head, none, 39, SCALE)], val_view(annotations, TASKS, 1))
    assert chosen.images == 40 and chosen.map_without is not None
    nothing = choose_prior(head, [undecided(head, none, 0, SCALE)], val_view(annotations, TASKS, 1))
    assert (nothing.map_without, nothing.map_with) == (0.0, 0.0)
