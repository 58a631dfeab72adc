import pytest
import torch
from torchvision.ops import batched_nms, box_iou, nms

from detection.openworld.suppression import strongest, suppress
from detection.structures import UNKNOWN


def boxes(n, generator, size=60.0):
    corner = torch.rand(n, 2, generator=generator) * size
    return torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=generator) * 30], dim=1)


def by_loop(found, labels, scores, iou):
    """One box at a time, the best first."""
    kept = []
    for i in sorted(range(len(found)), key=lambda i: -float(scores[i])):
        contends = [j for j in kept if labels[i] == labels[j] or UNKNOWN in (int(labels[i]), int(labels[j]))]
        if all(float(box_iou(found[i : i + 1], found[j : j + 1])) <= iou for j in contends):
            kept.append(i)
    return kept


def test_known_and_unknown_boxes_of_one_place():
    here = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [100, 0, 110, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.1])

    def kept(*labels):
        return suppress(here, torch.tensor(labels), scores, iou=0.5).tolist()

    assert kept(2, 2, 3, 2) == [0, 2, 3]  # of two known classes neither goes
    assert kept(2, UNKNOWN, 3, UNKNOWN) == [0, 2, 3]  # known suppresses unknown
    assert kept(UNKNOWN, 2, 3, 2) == [0, 3]  # unknown suppresses less certain known ones
    assert kept(2, UNKNOWN, UNKNOWN, 2) == [0, 3]
    assert kept(2, 3, UNKNOWN, 2) == [0, 1, 3]


def test_what_is_suppressed_suppresses_nothing():
    # A chain: each overlaps the next by 2/3, the next but one by 3/7.
    chain = torch.tensor([[x, 0.0, x + 10, 10] for x in (0, 2, 4, 6, 8)])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    assert suppress(chain, torch.full((5,), 2), scores, iou=0.5).tolist() == [0, 2, 4]


@pytest.mark.parametrize("block", [1024, 7])
def test_equals_the_loop(block, monkeypatch):
    monkeypatch.setattr("detection.openworld.suppression._BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    for n in (1, 5, 60):
        for _ in range(5):
            found, scores = boxes(n, generator), (torch.rand(n, generator=generator) * 10).round()
            labels = torch.randint(1, 4, (n,), generator=generator)
            assert suppress(found, labels, scores, iou=0.3).tolist() == by_loop(found, labels, scores, 0.3)


def test_known_classes_alone_equal_torchvision():
    generator = torch.Generator().manual_seed(1)
    found, scores = boxes(3000, generator), torch.rand(3000, generator=generator)
    labels = torch.randint(2, 5, (3000,), generator=generator)
    assert torch.equal(suppress(found, labels, scores, iou=0.5), batched_nms(found, scores, labels, 0.5))


def test_nothing_and_ten_thousand():
    nothing = suppress(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), iou=0.5)
    assert nothing.tolist() == []
    generator = torch.Generator().manual_seed(1)
    found, scores = boxes(10_000, generator, size=3000.0), torch.rand(10_000, generator=generator)
    kept = suppress(found, torch.full((10_000,), UNKNOWN), scores, iou=0.5)
    assert torch.equal(kept, nms(found, scores, 0.5))


@pytest.mark.parametrize("count", [1, 10, 25, 200])
def test_leaving_off_early_changes_none_of_the_strongest(count, monkeypatch):
    monkeypatch.setattr("detection.openworld.suppression._BLOCK", 20)
    generator = torch.Generator().manual_seed(1)
    found, scores = boxes(500, generator, size=200.0), torch.rand(500, generator=generator)
    labels = torch.where(torch.rand(500, generator=generator) < 0.2, UNKNOWN, 2)
    every = suppress(found, labels, scores, iou=0.3)
    some = suppress(found, labels, scores, iou=0.3, strongest_only=count)
    assert len(some) < len(every) or count == 200
    first, second = (rows[strongest(labels[rows], scores[rows], count)] for rows in (every, some))
    assert torch.equal(first, second)


def test_known_and_unknown_each_have_half_a_claim():
    labels = torch.tensor([2] * 6 + [UNKNOWN] * 6)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.2, 0.15, 0.1, 0.05])
    assert strongest(labels, scores, 4).tolist() == [0, 1, 6, 7]
    assert strongest(labels, scores, 5).tolist() == [0, 1, 2, 6, 7]  # the odd place goes to the highest score
    assert strongest(labels, scores, 20).tolist() == list(range(12))
    assert strongest(labels[:6], scores[:6], 4).tolist() == [0, 1, 2, 3]
    assert strongest(torch.tensor([2, UNKNOWN, 2, 2]), torch.tensor([0.1, 0.2, 0.3, 0.4]), 3).tolist() == [3, 2, 1]
    assert strongest(labels, scores, 1).tolist() == [0]
