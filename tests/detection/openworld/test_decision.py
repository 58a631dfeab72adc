import math

import pytest
import torch

from detection.openworld.decision import detections_of, known_score, log_odds, unknown_score, verdicts
from detection.openworld.settings import DecisionSettings
from detection.structures import UNKNOWN, Regions

OBJECTNESS = torch.tensor([0.0, math.log(3)])  # probabilities of .5 and .75
P = torch.tensor([[0.1, 0.2, 0.6, 0.1], [0.5, 0.3, 0.1, 0.1]])


def test_the_classifiers_odds_times_those_of_the_energy():
    by_classifier = torch.tensor([0.2 / 0.6, 0.3 / 0.1]).log()
    torch.testing.assert_close(log_odds(P.log(), None, True), by_classifier)
    energy = torch.tensor([2.0, -2.0])
    torch.testing.assert_close(log_odds(P.log(), energy, torch.tensor(True)), by_classifier + energy)
    # Where nothing was labelled unknown, the classifier's unknown logit was never taught.
    assert torch.equal(log_odds(P.log(), energy, torch.tensor(False)), energy)


def test_scores():
    assert known_score(P).tolist() == pytest.approx([0.6, 0.1])
    # Root of the geometric mean of p(unknown), 1 - p(background) and objectness.
    expected = [(0.2 * 0.9 * 0.5) ** (1 / 6), (0.3 * 0.5 * 0.75) ** (1 / 6)]
    assert unknown_score(P, OBJECTNESS, True).tolist() == pytest.approx(expected)
    # Nothing was labelled unknown: 1 - .1 - .6, and 1 - .5 - .1.
    assert unknown_score(P, OBJECTNESS, torch.tensor(False)).tolist() == pytest.approx([0.15**0.25, 0.3**0.25])
    assert unknown_score(torch.tensor([[1.0, 0, 0]]), OBJECTNESS[:1], False).tolist() == [0.0]


def test_one_verdict_a_region():
    decided = verdicts(P.log(), OBJECTNESS, torch.tensor([2.0, 0.5]), taught=True)
    assert decided.labels.tolist() == [UNKNOWN, UNKNOWN]
    assert verdicts(P.log(), OBJECTNESS, torch.tensor([1.0, -2.0]), taught=True).labels.tolist() == [2, 2]
    decided = verdicts(P.log(), OBJECTNESS, None, taught=True)
    assert decided.labels.tolist() == [2, UNKNOWN]
    assert decided.scores.tolist() == pytest.approx([0.6, (0.3 * 0.5 * 0.75) ** (1 / 6)])
    assert decided.posteriors.tolist() == pytest.approx([0.25, 0.75])  # .2 against .6, .3 against .1


def regions(logits, boxes=None):
    n = len(logits)
    place = torch.arange(n).float()[:, None] * 100
    corners = torch.cat([place, place, place + 10, place + 10], dim=1)
    boxes = torch.stack([corners, corners + 1, corners + 2], dim=1) if boxes is None else boxes
    return Regions(corners, torch.full((n,), 20.0), boxes, torch.tensor(logits).float(), torch.randn(n, 5))


def found(image, **settings):
    decided = verdicts(image.logits, image.objectness, None, taught=True)
    return detections_of(image, decided, torch.arange(float(len(image.logits))), DecisionSettings(**settings))


def test_unknown_boxes_take_the_class_agnostic_column_and_known_ones_their_own():
    image = regions([[0, 9, 0, 0], [0, 0, 8, 0], [0, 0, 0, 7]])
    result = found(image)
    assert result.labels.tolist() == [UNKNOWN, 2, 3]
    expected = torch.stack([image.boxes[0, 0], image.boxes[1, 1], image.boxes[2, 2]])
    assert torch.equal(result.boxes, expected)
    assert torch.equal(result.embeddings, image.features)
    assert result.energies.tolist() == [0, 1, 2]
    agnostic = found(regions([[0, 9, 0, 0], [0, 0, 8, 0]], regions([[0, 9, 0, 0], [0, 0, 8, 0]]).boxes[:, :1]))
    assert agnostic.boxes[:, 0].tolist() == [0, 100]


def test_what_is_below_the_floor_or_has_no_area_is_dropped():
    image = regions([[0, 9, 0, 0], [9.0, 0, 2, 0], [0, 0, 8, 0]])
    assert len(found(image, score_floor=0.05)) == 2
    assert len(found(image, score_floor=0.0)) == 3
    image.boxes[2, 1, 2] = image.boxes[2, 1, 0]
    assert found(image).labels.tolist() == [UNKNOWN]
    assert len(found(regions([[0, 9, 0, 0]] * 9), per_image=4)) == 4
