"""All images of a batch are labelled at once; here each is labelled alone, as it is described, and gives the same."""

from dataclasses import dataclass, replace

import pytest
import torch
from torchvision.ops import box_iou

from detection.openworld.head import OpenWorldHead
from detection.openworld.purity import purity_counts
from detection.openworld.sampling import filled_up
from detection.structures import Target
from detection.training.recipe import ClusteringSettings, DecisionSettings, UnknownSettings
from sslcore.random import uniform

SEED, REGIONS, POSITIVE, KNOWN = 3, 12, 0.3, 6
GUARD, MIN_SIDE = 0.1, 8.0


# --- one image at a time --------------------------------------------------------------------------------------------


@dataclass
class Alone:
    """A sample of one image."""

    boxes: torch.Tensor
    labels: torch.Tensor
    matched: torch.Tensor
    regress: torch.Tensor
    pseudo: torch.Tensor
    rows: torch.Tensor
    random: torch.Tensor | None = None


def label_alone(proposals, objectness, target, previous, *, step, k, compat):
    labelled = target.boxes.to(proposals)
    boxes = torch.cat([labelled, proposals])
    labels, matched = matched_alone(boxes, labelled, target)
    pseudo, random = torch.zeros(len(boxes), dtype=torch.bool), None
    if k > 0:
        pseudo, free = chosen_alone(boxes, labels, objectness, labelled, previous, k, compat)
        random = random_alone(proposals, free, target.key, step, k)
        labels = without_doubles_alone(boxes, labels, pseudo)
    drawn = sampled_alone(boxes, labels, matched, pseudo, target.key, step)
    if k > 0 and compat == "ore":
        drawn = ore_alone(drawn, torch.cat([torch.full((len(labelled),), 23.0), objectness]), labelled, k)
    return replace(drawn, random=random)


def matched_alone(boxes, labelled, target):
    labels = torch.full((len(boxes),), 0)
    if not len(labelled):
        return labels, boxes
    ends = torch.minimum(labelled[:, None, 2:], boxes[:, 2:])
    sides = (ends - torch.maximum(labelled[:, None, :2], boxes[:, :2])).clamp(min=0)
    shared, areas = sides[..., 0] * sides[..., 1], (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    overlap = box_iou(labelled, boxes).nan_to_num(0).masked_fill(target.ignore[:, None], -1)
    best, which = overlap.max(dim=0)
    inside = shared.masked_fill(~target.ignore[:, None], 0).amax(dim=0) / areas.clamp(min=1e-9)
    is_object = best >= 0.5
    labels = torch.where(is_object, target.labels[which], torch.where(inside > 0.5, -1, labels))
    labels[: len(labelled)][target.ignore] = -1
    return labels, torch.where(is_object[:, None], labelled[which], boxes)


def chosen_alone(boxes, labels, objectness, labelled, previous, k, compat):
    """Which candidates are pseudo-unknowns, and which proposals could have been."""
    proposals, free = boxes[len(labelled) :], labels[len(labelled) :] == 0
    chosen = torch.zeros_like(free)
    if compat is None:
        taken = labelled if previous is None else torch.cat([labelled, previous])
        free &= (proposals[:, 2:] - proposals[:, :2]).amin(dim=1) >= MIN_SIDE
        if len(taken):
            free &= box_iou(taken, proposals).nan_to_num(0).amax(dim=0) <= GUARD
        allowed = free & objectness.isfinite()
        order = objectness.masked_fill(~allowed, -torch.inf).sort(descending=True, stable=True).indices[:k]
        chosen[order] = allowed[order]
    return torch.cat([chosen.new_zeros(len(labelled)), chosen]), free


def random_alone(proposals, free, key, step, k):
    priority = priorities_alone(key, step, 101, len(proposals))
    drawn = torch.where(free, priority, 1 << 24).sort(stable=True).indices[:k]
    return proposals[drawn] * free[drawn, None]


def without_doubles_alone(boxes, labels, pseudo):
    double = (box_iou(boxes[pseudo], boxes) >= 0.5).any(dim=0) & ~pseudo
    return labels.masked_fill(double & (labels == 0), -1)


def sampled_alone(boxes, labels, matched, pseudo, key, step):
    """Objects up to their share, pseudo-unknowns, background, the rest; each in the order of its random numbers."""
    priority = priorities_alone(key, step, 100, len(boxes))
    is_object = labels > 0
    place = ordered(torch.where(is_object, 0, 1), priority).argsort()
    chosen = is_object & (place < int(POSITIVE * REGIONS))
    group = torch.where(labels == 0, 2, 3)
    group = torch.where(pseudo & (labels == 0), 1, torch.where(chosen, 0, group))
    rows = ordered(group, priority)[:REGIONS]
    group = group[rows]
    labels = torch.where(group == 1, 1, torch.where(group == 3, -1, labels[rows]))
    regress = group == 0
    matched = torch.where(regress[:, None], matched[rows], boxes[rows])
    return Alone(boxes[rows], labels, matched, regress, group == 1, rows)


def ore_alone(drawn, objectness, labelled, k):
    counts = drawn.labels >= 0
    logits = torch.where(drawn.labels > 0, -1.0, objectness[drawn.rows])
    order = logits.masked_fill(~counts, -torch.inf).sort(descending=True, stable=True).indices[:k]
    pseudo = torch.zeros_like(counts)
    pseudo[order] = counts[order]
    labels, matched, regress = torch.where(pseudo, 1, drawn.labels), drawn.matched, drawn.regress
    if len(labelled):
        best = labelled[box_iou(drawn.boxes, labelled).argmax(dim=1)]
        matched, regress = torch.where(pseudo[:, None], best, matched), regress | pseudo
    return replace(drawn, labels=labels, matched=matched, regress=regress, pseudo=pseudo)


def purity_alone(sample, truth, kinds):
    """What the pseudo-unknowns of one image lie on, and what as many random proposals do."""
    random = sample.random()[: int(sample.pseudo.sum())]
    random = random[(random[:, 2:] > random[:, :2]).all(dim=1)]
    counts = torch.zeros(2, 5, dtype=torch.int64)
    for row, regions in zip(counts, (sample.boxes[sample.pseudo], random), strict=True):
        for overlaps in box_iou(regions, truth).nan_to_num(0):
            row[kinds[overlaps.argmax()] if len(truth) and overlaps.max() >= 0.5 else 4] += 1
    return counts


def priorities_alone(key, step, stream, count):
    return (uniform(SEED, step, torch.tensor([key]), stream=stream, draws=count)[0] * 2.0**24).long()


def ordered(group, priority):
    return ((group << 24) + priority).argsort(stable=True)


# --- the same -------------------------------------------------------------------------------------------------------


def boxes(count, generator):
    corner = torch.rand(count, 2, generator=generator) * 90
    found = torch.cat([corner, corner + 3 + torch.rand(count, 2, generator=generator) * 50], dim=1)
    return found.round() if count % 2 else found  # many equal overlaps


def image(key, proposals, labelled, generator):
    """With proposals on labelled boxes and on each other, crowds, a box without area and equal or no objectness."""
    objects = boxes(labelled, generator)
    given = boxes(proposals, generator)
    near = objects[: proposals // 4] + torch.rand(min(labelled, proposals // 4), 4, generator=generator) * 6
    given[: len(near)] = near
    given[proposals // 2 :] = given[: (proposals + 1) // 2] + 1.0
    objectness = torch.randn(proposals, generator=generator).round(decimals=key % 3)
    if proposals > 4:
        objectness[1], objectness[3] = torch.nan, torch.inf
    if labelled > 3:
        objects[2, 2] = objects[2, 0]
    labels = torch.randint(2, 2 + KNOWN, (labelled,), generator=generator)
    ignore = torch.rand(labelled, generator=generator) < 0.3
    return given, objectness, Target(objects, labels, ignore, key), boxes(key % 4, generator)


SIZES = {
    "unequal": [(40, 5), (7, 70), (0, 3), (25, 0), (60, 1), (3, 2), (0, 0)],
    "equal": [(30, 4)] * 5,
    "nothing labelled": [(20, 0), (9, 0)],
    "no proposals": [(0, 2), (0, 9)],
    "nothing": [(0, 0), (0, 0)],
    "one image": [(50, 6)],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("compat", [None, "ore"])
@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("has_previous", [False, True])
def test_a_batch_is_labelled_as_each_of_its_images_alone(sizes, compat, k, has_previous):
    head = OpenWorldHead(
        [f"class {i}" for i in range(KNOWN)],
        4,
        unknowns=UnknownSettings(per_image=k, guard=GUARD, min_side=MIN_SIDE, compat=compat),
        clustering=ClusteringSettings(loss="none"),
        decision=DecisionSettings(),
        regions=REGIONS,
        positive=POSITIVE,
        seed=SEED,
    )
    generator = torch.Generator().manual_seed(len(sizes))
    for step in range(6):
        images = [image(5 * n + step, *size, generator) for n, size in enumerate(sizes)]
        proposals, objectness, targets, previous = (list(part) for part in zip(*images, strict=True))
        truth = [torch.cat([target.boxes, boxes(n % 3 * 4, generator)]) for n, target in enumerate(targets)]
        kinds = [torch.randint(5, (len(each),), generator=generator) for each in truth]
        counts = torch.zeros(2, 5, dtype=torch.int64)
        given = previous if has_previous else None
        samples = head.label(proposals, objectness, targets, step=step, progress=0.9, previous=given)
        for i, (sample, target) in enumerate(zip(samples, targets, strict=True)):
            earlier = previous[i] if has_previous else None
            alone = label_alone(proposals[i], objectness[i], target, earlier, step=step, k=k, compat=compat)
            for field in ("boxes", "labels", "matched", "regress", "pseudo", "rows"):
                assert torch.equal(getattr(sample, field), getattr(alone, field)), (field, step, i)
            if k == 0:
                assert sample.random is None
                continue
            random = sample.random()
            assert torch.equal(random[: len(alone.random)], alone.random)
            assert not random[len(alone.random) :].any()
            counts += purity_alone(sample, truth[i], kinds[i])
        if k > 0:
            assert torch.equal(purity_counts(samples, filled_up(truth), filled_up(kinds)), counts)
