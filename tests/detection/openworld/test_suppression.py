import pytest
import torch
from torchvision.ops import batched_nms, box_iou, nms

from detection.openworld.suppression import strongest, suppress
from detection.structures import UNKNOWN

RULE = {"iou": 0.5, "sure": 0.7, "doubtful": 0.3}


def boxes(n, generator, size=60.0):
    corner = torch.rand(n, 2, generator=generator) * size
    return torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=generator) * 30], dim=1)


def by_loop(found, labels, scores, iou, sure, doubtful):
    """One box at a time, the best first: known ones, unknown ones, and known ones again."""

    def overlap(i, others):
        return any(float(box_iou(found[i : i + 1], found[j : j + 1])) > iou for j in others)

    known, unknown = list[int](), list[int]()
    best_first = sorted(range(len(found)), key=lambda i: -float(scores[i]))
    for i in best_first:
        if labels[i] != UNKNOWN and not overlap(i, [j for j in known if labels[j] == labels[i]]):
            known.append(i)
    for i in best_first:
        if labels[i] == UNKNOWN and not overlap(i, [j for j in known if scores[j] >= sure] + unknown):
            unknown.append(i)
    stays = {i for i in known if scores[i] >= doubtful or not overlap(i, unknown)} | set(unknown)
    return [i for i in best_first if i in stays]


def test_known_and_unknown_boxes_of_one_place():
    here = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [100, 0, 110, 10]])

    def kept(labels, scores):
        return suppress(here, torch.tensor(labels), torch.tensor(scores), **RULE).tolist()

    assert kept([2, 2, 3, 2], [0.9, 0.8, 0.7, 0.1]) == [0, 2, 3]  # of two known classes neither goes
    assert kept([2, UNKNOWN, 3, UNKNOWN], [0.7, 0.9, 0.1, 0.1]) == [0, 2, 3]  # sure, though the unknown score is higher
    assert kept([2, UNKNOWN, 3, 2], [0.6, 0.5, 0.29, 0.1]) == [0, 1, 3]  # the third is doubtful, the last far away
    assert kept([2, UNKNOWN, 3, 2], [0.6, 0.5, 0.3, 0.1]) == [0, 1, 2, 3]  # between both either stays
    assert kept([2, UNKNOWN, 3, 2], [0.8, 0.5, 0.2, 0.1]) == [0, 2, 3]  # what is suppressed suppresses nothing
    assert kept([UNKNOWN, UNKNOWN, 3, 2], [0.2, 0.4, 0.25, 0.1]) == [1, 3]


def test_what_is_suppressed_suppresses_nothing():
    # A chain: each overlaps the next by 2/3, the next but one by 3/7.
    chain = torch.tensor([[x, 0.0, x + 10, 10] for x in (0, 2, 4, 6, 8)])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    assert suppress(chain, torch.full((5,), 2), scores, **RULE).tolist() == [0, 2, 4]
    # The first unknown box goes for a sure known one and leaves the second where it is.
    labels, scores = torch.tensor([2, UNKNOWN, UNKNOWN, 2, 2]), torch.tensor([0.9, 0.8, 0.7, 0.2, 0.1])
    assert suppress(chain, labels, scores, **RULE).tolist() == [0, 2]


@pytest.mark.parametrize(("sure", "doubtful"), [(0.7, 0.3), (0.5, 0.5), (1.1, 0.0), (0.0, 0.0)])
def test_equals_the_loop(sure, doubtful):
    generator = torch.Generator().manual_seed(1)
    for n in (1, 5, 60):
        for _ in range(5):
            found, scores = boxes(n, generator), (torch.rand(n, generator=generator) * 10).round() / 10
            labels = torch.randint(1, 4, (n,), generator=generator)
            expected = by_loop(found, labels, scores, 0.3, sure, doubtful)
            assert suppress(found, labels, scores, iou=0.3, sure=sure, doubtful=doubtful).tolist() == expected


def test_known_classes_alone_equal_torchvision():
    generator = torch.Generator().manual_seed(1)
    found, scores = boxes(3000, generator), torch.rand(3000, generator=generator)
    labels = torch.randint(2, 5, (3000,), generator=generator)
    assert torch.equal(suppress(found, labels, scores, **RULE), batched_nms(found, scores, labels, 0.5))


def test_nothing_and_ten_thousand():
    nothing = suppress(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), **RULE)
    assert nothing.tolist() == []
    generator = torch.Generator().manual_seed(1)
    found, scores = boxes(10_000, generator, size=3000.0), torch.rand(10_000, generator=generator)
    kept = suppress(found, torch.full((10_000,), UNKNOWN), scores, **RULE)
    assert torch.equal(kept, nms(found, scores, 0.5))


def test_known_and_unknown_each_have_half_a_claim():
    labels = torch.tensor([2] * 6 + [UNKNOWN] * 6)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.2, 0.15, 0.1, 0.05])
    assert strongest(labels, scores, 4).tolist() == [0, 1, 6, 7]
    assert strongest(labels, scores, 5).tolist() == [0, 1, 2, 6, 7]  # the odd place goes to the highest score
    assert strongest(labels, scores, 20).tolist() == list(range(12))
    assert strongest(labels[:6], scores[:6], 4).tolist() == [0, 1, 2, 3]
    assert strongest(torch.tensor([2, UNKNOWN, 2, 2]), torch.tensor([0.1, 0.2, 0.3, 0.4]), 3).tolist() == [3, 2, 1]
    assert strongest(labels, scores, 1).tolist() == [0]
