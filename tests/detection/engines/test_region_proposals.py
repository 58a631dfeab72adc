import pytest
import torch

from detection.engines.images import ImageBatch
from detection.engines.region_proposals import (
    BACKGROUND,
    NEITHER,
    OBJECT,
    AnchorScores,
    RegionProposer,
)
from detection.structures import Target


def proposer(**changes):
    options = {"strides": (4, 8), "sizes": (8, 16), "ratios": (1.0,), "seed": 5, **changes}
    return RegionProposer(6, **options)


def target(*boxes, ignore=None, key=0):
    ignore = torch.tensor(ignore) if ignore is not None else torch.zeros(len(boxes), dtype=torch.bool)
    return Target(torch.tensor(boxes).float().reshape(-1, 4), torch.full((len(boxes),), 2), ignore, key)


def batch(n=1, height=32, width=32):
    return ImageBatch(torch.zeros(n, 3, 32, 32), [(height, width)] * n, [(height, width)] * n)


def maps(n=1):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 6, 32 // s, 32 // s, generator=generator) for s in (4, 8)]


def test_anchors_stand_at_the_strides_of_the_levels():
    scores = proposer()(maps(2))
    assert scores.per_level == [64, 16]
    assert scores.logits.shape == (2, 80) and scores.deltas.shape == (2, 80, 4)
    assert scores.anchors[0].tolist() == [-4, -4, 4, 4]
    assert scores.anchors[1].tolist() == [0, -4, 8, 4]
    assert scores.anchors[64 + 5].tolist() == [0, 0, 16, 16]


def test_logits_stand_beside_their_anchors():
    """Where the head looks at one position only, that position's anchors get the logit."""
    rpn = proposer(ratios=(0.5, 2.0))
    level = torch.zeros(1, 6, 8, 8)
    level[0, :, 2, 5] = 1.0  # row 2, column 5
    with torch.no_grad():
        for layer in (rpn.head.conv[0][0], rpn.head.cls_logits):
            layer.weight.zero_()
            layer.bias.zero_()
        rpn.head.conv[0][0].weight[:, :, 1, 1] = torch.eye(6)
        rpn.head.cls_logits.weight[1] = 1.0  # the second anchor of a position
        scores = rpn([level, torch.zeros(1, 6, 4, 4)])
    (where,) = scores.logits[0].nonzero().unbind(1)
    assert where.tolist() == [(2 * 8 + 5) * 2 + 1]
    x1, y1, x2, y2 = scores.anchors[where[0]].tolist()
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == (20, 8) and y2 - y1 > x2 - x1


ANCHORS = torch.tensor(
    [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [0, 0, 10, 2], [50, 50, 60, 60], [80, 0, 90, 9]]
)


def test_assignment_by_overlap():
    """IoU with the first box: 1, .9, .5, .2, 0, 0; with the second, which no anchor fits: 0 but for the fifth's .25."""
    labels, matched = proposer().assign(ANCHORS, target([0, 0, 10, 10], [50, 50, 70, 70]))
    assert labels.tolist() == [OBJECT, OBJECT, NEITHER, BACKGROUND, OBJECT, BACKGROUND]
    assert matched[:2].tolist() == [[0, 0, 10, 10]] * 2 and matched[4].tolist() == [50, 50, 70, 70]


def test_without_a_box_all_is_background():
    labels, matched = proposer().assign(ANCHORS, target())
    assert labels.tolist() == [BACKGROUND] * 6 and matched.isfinite().all()


def test_a_box_that_touches_no_anchor_makes_none_an_object():
    labels, _ = proposer().assign(ANCHORS, target([200, 200, 210, 210]))
    assert labels.tolist() == [BACKGROUND] * 6


def test_anchors_mostly_in_a_crowd_are_neither():
    labels, _ = proposer().assign(ANCHORS, target([0, 0, 10, 10], [45, 45, 100, 100], ignore=[False, True]))
    assert labels.tolist() == [OBJECT, OBJECT, NEITHER, BACKGROUND, NEITHER, BACKGROUND]
    # An object in front of a crowd is still one.
    labels, _ = proposer().assign(ANCHORS, target([0, 0, 10, 10], [0, 0, 10, 10], ignore=[False, True]))
    assert labels.tolist() == [OBJECT, OBJECT, NEITHER, NEITHER, BACKGROUND, BACKGROUND]


def test_many_boxes_are_as_few(monkeypatch):
    torch.manual_seed(1)
    corners = torch.rand(50, 2) * 80
    boxes = torch.cat([corners, corners + 5 + torch.rand(50, 2) * 20], dim=1)
    many = Target(boxes, torch.full((50,), 2), torch.rand(50) < 0.2, 0)
    whole = proposer().assign(ANCHORS, many)
    monkeypatch.setattr("detection.engines.region_proposals.CHUNK", 7)
    for a, b in zip(whole, proposer().assign(ANCHORS, many)):
        assert torch.equal(a, b)


def test_sampling_takes_half_objects_and_fills_with_background():
    rpn = proposer(sampled=8)
    labels = torch.full((2, 40), BACKGROUND)
    labels[0, :10] = OBJECT
    labels[1, :3] = OBJECT
    labels[:, 30:] = NEITHER
    chosen, is_object, counts = rpn.sample(labels, [target(key=1), target(key=2)], step=3)
    for row, objects in zip(range(2), (4, 3)):
        taken = chosen[row][counts[row] > 0]
        assert len(taken) == 8 and len(set(taken.tolist())) == 8
        assert (labels[row, taken] == OBJECT).sum() == objects
        assert (labels[row, taken] != NEITHER).all()
        assert is_object[row][counts[row] > 0].sum() == objects


def test_sampling_is_a_function_of_seed_step_and_key():
    labels = torch.zeros(2, 500, dtype=torch.int64)
    labels[:, :100] = OBJECT
    one, two = target(key=1), target(key=2)

    def chosen(targets, step=3, seed=5):
        return proposer(seed=seed, sampled=16).sample(labels, targets, step=step)[0]

    together = chosen([one, two])
    assert torch.equal(together.flip(0), chosen([two, one]))
    assert not torch.equal(together, chosen([one, two], step=4))
    assert not torch.equal(together, chosen([one, two], seed=6))
    assert not torch.equal(together[0], together[1])


def test_losses_by_hand():
    """Two anchors count, one an object: mean entropy, and smooth L1 of the deltas over the number of anchors."""
    rpn = proposer(sampled=2)
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    deltas = torch.zeros(1, 2, 4, requires_grad=True)
    logits = torch.tensor([[1.0, -2.0]], requires_grad=True)
    scores = AnchorScores(anchors, logits, deltas, [2])
    found = rpn.losses(scores, batch(), [target([1, 0, 11, 10])], step=0)
    entropies = torch.nn.functional.softplus(torch.tensor([-1.0, -2.0]))
    assert found["objectness"].item() == pytest.approx(entropies.mean().item())
    # The box is a tenth to the right: |0.1| < 1/9, so the square 0.5 * 0.1^2 * 9.
    assert found["proposal_boxes"].item() == pytest.approx(0.5 * 0.01 * 9 / 2)
    sum(found.values()).backward()
    assert logits.grad.ne(0).all() and deltas.grad[0, 0, 0] < 0 and not deltas.grad[0, 1].any()


def test_losses_without_anything_to_learn_are_zero():
    rpn = proposer()
    scores = rpn(maps())
    crowd = target([0, 0, 32, 32], ignore=[True])
    found = rpn.losses(scores, batch(height=1, width=1), [crowd], step=0)
    assert found["objectness"].item() == 0 or found["objectness"].isfinite()
    assert found["proposal_boxes"].item() == 0
    sum(found.values()).backward()


def test_padding_is_not_learnt():
    rpn = proposer()
    seen = []
    original = rpn.sample
    rpn.sample = lambda labels, targets, step: seen.append(labels) or original(labels, targets, step=step)
    scores = rpn(maps())
    rpn.losses(scores, batch(height=32, width=16), [target()], step=0)
    centres = (scores.anchors[:, 0] + scores.anchors[:, 2]) / 2
    assert ((seen[0][0] == NEITHER) == (centres >= 16)).all()


def test_proposals_are_the_best_without_repetition():
    rpn = proposer()
    scores = rpn(maps(2))
    proposals = rpn.propose(scores, batch(2, height=20), 10)
    for found in proposals:
        assert len(found.boxes) == len(found.objectness) == 10
        assert (found.objectness.diff() <= 0).all()
        assert (found.boxes[:, 1::2] <= 20).all() and (found.boxes >= 0).all()
        assert set(found.objectness.tolist()) <= set(scores.logits.flatten().tolist())
        assert not found.boxes.requires_grad
    alone = rpn.propose(
        AnchorScores(scores.anchors, scores.logits[1:], scores.deltas[1:], scores.per_level), batch(1, height=20), 10
    )
    assert torch.equal(alone[0].boxes, proposals[1].boxes)


def test_how_many_enter_suppression():
    """Two heaps of equal boxes: with twice as many candidates as are wanted, the second heap is reached."""
    rpn = proposer(strides=(4,), sizes=(8,))
    anchors = torch.tensor([[0.0, 0, 8, 8]] * 2 + [[16.0, 16, 24, 24]] * 2)
    scores = AnchorScores(anchors, torch.tensor([[4.0, 3, 2, 1]]), torch.zeros(1, 4, 4), [4])
    assert len(rpn.propose(scores, batch(), 2)[0].boxes) == 2
    assert rpn.propose(scores, batch(), 2, before=2)[0].objectness.tolist() == [4.0]
