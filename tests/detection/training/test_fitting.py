"""What the decision is fitted on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.drawn import TASKS, draw_set, open_drawn

from detection.data.views import test_view as view_with_unknowns
from detection.data.views import val_view
from detection.openworld.energy_scorer import EnergyScorer
from detection.openworld.settings import DecisionSettings, UnknownSettings
from detection.structures import Regions
from detection.training.fitting import Evidence, collect_evidence, fit, fit_decision
from detection.training.inference import Interrupted

READING = {"batch_size": 3}


KINDS = ["red", "green", "blue", "yellow", "grey", "corner"]


def head(**decision):
    scorer = EnergyScorer()
    return SimpleNamespace(
        scorer=scorer, known=("red", "green"), decision=DecisionSettings(**decision), taught=torch.tensor(False),
        unknowns=UnknownSettings(min_side=6), status=scorer.status,
    )  # fmt: skip


class Engine:
    """Proposes each annotated box and one a little beside it, and a corner of the image; the energy tells the kind."""

    def __init__(self, annotations, objectness=None, scale=1.0):
        self.annotations, self.objectness, self.scale = annotations, objectness or {}, scale
        self.head = head(prior=0.5)
        self.seen = 0

    def scales(self, images):
        return [(self.scale, self.scale)] * len(images)

    def regions(self, images):
        first = self.seen
        self.seen += len(images)
        return [self._of(number) for number in range(first, self.seen)]

    def _of(self, number):
        ours = self.annotations
        rows = np.flatnonzero(ours.box_image == number)
        boxes = torch.from_numpy(ours.boxes[rows]).float()
        boxes = torch.cat([boxes, boxes + 1, torch.tensor([[0.0, 0, 2, 2]])]) * self.scale
        kinds = [*(ours.categories[c] for c in ours.box_category[rows])] * 2 + ["corner"]
        logits = torch.full((len(kinds), 4), -50.0)
        logits[:, 2] = -torch.tensor([10.0 + KINDS.index(kind) for kind in kinds])
        objectness = torch.tensor([self.objectness.get(kind, -5.0) for kind in kinds])
        return Regions(boxes, objectness, boxes[:, None], logits, torch.zeros(len(kinds), 2))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_auto_labelled_unknowns_are_the_proposals_of_highest_objectness_far_from_known_boxes(drawn, scale):
    val = drawn.val
    engine = Engine(val, objectness={"blue": 5.0, "yellow": 4.0, "grey": 3.0}, scale=scale)
    settings = UnknownSettings(per_image=1, min_side=6)
    found = collect_evidence(
        engine, val_view(val, TASKS, 1), range(len(val.images)), unknowns=settings, oracle=False, **READING
    )
    kinds = [val.categories[c] for c in val.box_category]
    known = sum(kind in ("red", "green") for kind in kinds)
    assert sorted(set(found.known)) == [10.0, 11.0] and len(found.known) == 2 * known  # each is proposed twice
    images = [{kinds[row] for row in np.flatnonzero(val.box_image == image)} for image in range(len(val.images))]
    best = [
        min((KINDS.index(kind) for kind in image if kind not in ("red", "green")), default=None) for image in images
    ]
    # One box an image is chosen; what overlaps it belongs to it.
    assert set(found.unknown) == {10.0 + kind for kind in best if kind is not None}
    assert len(found.unknown) == 2 * sum(kind is not None for kind in best)


def test_the_oracle_takes_every_labelled_unknown(drawn):
    val = drawn.val
    found = collect_evidence(
        Engine(val), view_with_unknowns(val, TASKS, 1), range(len(val.images)), unknowns=UnknownSettings(),
        oracle=True, **READING,
    )  # fmt: skip
    kinds = [val.categories[c] for c in val.box_category]
    assert len(found.unknown) == 2 * sum(kind in ("blue", "yellow", "grey") for kind in kinds)
    assert set(found.unknown) == {12.0, 13.0, 14.0} & set(found.unknown)


def test_ignored_boxes_are_neither(drawn):
    crowds = replace(drawn.val, crowd=np.ones_like(drawn.val.crowd))
    found = collect_evidence(
        Engine(crowds), view_with_unknowns(crowds, TASKS, 1), range(8), unknowns=UnknownSettings(), oracle=True,
        **READING,
    )  # fmt: skip
    assert found.known == [] == found.unknown


def test_what_is_kept_of_a_fit_is_plain_and_small():
    generator = np.random.default_rng(0)
    evidence = Evidence(generator.normal(-8, 1, 5000).tolist(), generator.normal(-3, 1, 700).tolist())
    engine = SimpleNamespace(head=head())
    summary = fit(engine, evidence, DecisionSettings(prior=0.3), None)
    assert summary["prior"] == engine.head.scorer.prior == 0.3 and summary["cost"] is None
    assert summary["kind"] == "densities" and summary["auroc"] > 0.99 and engine.head.scorer.fitted
    assert len(summary["samples"]["known"]) == 2000 and len(summary["samples"]["unknown"]) == 700
    assert summary["samples"]["known"][0] == min(evidence.known)
    assert summary["samples"]["known"][-1] == max(evidence.known)
    curve = summary["curves"]
    assert len(curve["energies"]) == len(curve["known_density"]) == len(curve["log_ratio"]) == 256
    assert -8 < summary["threshold"] < -3


def test_none_leaves_the_classifier_to_decide():
    scorer = EnergyScorer()
    scorer.fit(torch.randn(50), torch.randn(50) + 3, source="before")
    engine = SimpleNamespace(head=SimpleNamespace(scorer=scorer, status=scorer.status))
    summary = fit(engine, Evidence(), DecisionSettings(fit="none"), None)
    assert not scorer.fitted and "was not fitted" in summary["status"]


@pytest.mark.parametrize("decision", [{"fit": "known"}, {"fit": "oracle"}, {"prior": 0.3}, {"fit": "none"}])
def test_a_detector_that_was_trained_elsewhere_gets_its_decision_in_one_call(tmp_path, decision):
    val = open_drawn(draw_set(tmp_path / "drawn", val=16)).val
    engine = Engine(val)
    engine.head, engine.parameters = head(**decision), lambda: iter([torch.zeros(0)])
    summary = fit_decision(engine, val, TASKS, 1)
    scorer = engine.head.scorer
    assert summary["status"] == engine.head.status() and scorer.fitted == (decision != {"fit": "none"})
    if "prior" in decision:
        assert scorer.prior == summary["prior"] == 0.3 and summary["cost"] is None
    elif scorer.fitted:
        assert summary["kind"] == "densities" and summary["cost"]["images"] == 16
        assert scorer.prior == summary["prior"] == summary["cost"]["prior"]


def test_a_signal_is_looked_for_between_batches(drawn):
    with pytest.raises(Interrupted):
        collect_evidence(
            Engine(drawn.val), val_view(drawn.val, TASKS, 1), range(8), unknowns=UnknownSettings(), oracle=False,
            stop=lambda: True, **READING,
        )  # fmt: skip
