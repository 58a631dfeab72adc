import math

import pytest
import torch
from torchvision.ops import box_iou

from detection.openworld import sampling
from detection.openworld.sampling import NOTHING, Candidates, Moment
from detection.structures import BACKGROUND, UNKNOWN, Target

MOMENT = Moment(seed=1, step=5, keys=(77,))


def boxes(n, generator=None, low=0.0):
    corner = torch.rand(n, 2, generator=generator) * 80 + low
    return torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=generator) * 40], dim=1)


def target(found, labels, ignore=None, key=77):
    ignore = [False] * len(labels) if ignore is None else ignore
    return Target(torch.tensor(found, dtype=torch.float32).view(-1, 4), torch.tensor(labels), torch.tensor(ignore), key)


def match(proposals, aim):
    """Of one image."""
    return sampling.match([proposals], [aim])


def sample(found, pseudo, moment, **wanted):
    """Of one image."""
    (drawn,) = sampling.sample(found, pseudo, moment, **wanted)
    return drawn


def candidates(labels):
    found, count = boxes(len(labels))[None], len(labels)
    number = torch.arange(count)[None]
    return Candidates(found, torch.tensor([labels]), found + 1, torch.zeros(1, count), number, 0, [count])


def none(found):
    return torch.zeros_like(found.labels, dtype=torch.bool)


def test_proposals_take_the_label_of_the_box_they_overlap_best():
    # Intersections over unions with the two boxes: .6 and 0; 50/100 = .5 exactly; 40/100; 0 and .8.
    proposals = torch.tensor([[0.0, 0, 10, 6], [0, 0, 5, 10], [0, 0, 4, 10], [20, 20, 30, 28]])
    found = match(proposals, target([[0, 0, 10, 10], [20, 20, 30, 30]], [3, 2]))
    assert found.labelled == 2
    assert found.labels[0].tolist() == [3, 2, 3, 3, BACKGROUND, 2]
    assert found.matched[0, 2:4].tolist() == [[0, 0, 10, 10]] * 2
    assert found.matched[0, 4].tolist() == proposals[2].tolist()
    assert found.matched[0, 5].tolist() == [20, 20, 30, 30]


def test_of_two_boxes_that_overlap_a_proposal_the_better_one_counts():
    found = match(torch.tensor([[0.0, 0, 10, 9]]), target([[0, 0, 10, 10], [0, 0, 10, 9.5]], [2, 3]))
    assert found.labels[0, -1] == 3


def test_many_labelled_boxes_are_compared_a_few_at_a_time(monkeypatch):
    generator = torch.Generator().manual_seed(6)
    labelled = boxes(60, generator)
    labelled[40:50] = labelled[:10]  # equals, in another chunk: the first counts
    labelled[55] = labelled[55, [0, 1, 0, 1]]  # without area
    aim = Target(labelled, torch.arange(2, 62), torch.rand(60, generator=generator) < 0.2, 1)
    proposals = torch.cat([boxes(50, generator), labelled[:5], labelled[55:56]])
    monkeypatch.setattr("detection.openworld.sampling._TOGETHER", 60)
    whole = match(proposals, aim)
    monkeypatch.setattr("detection.openworld.sampling._TOGETHER", 4)
    monkeypatch.setattr("detection.openworld.sampling.CHUNK", 7)
    some = match(proposals, aim)
    assert torch.equal(some.labels, whole.labels) and torch.equal(some.matched, whole.matched)
    mine = [(label, n + 2) for n, label in enumerate(some.labels[0, -6:-1].tolist()) if not aim.ignore[n]]
    assert mine and all(label == expected for label, expected in mine)
    assert some.labels[0, -1] == BACKGROUND


def test_memory_grows_with_the_number_of_labelled_boxes_and_not_with_its_square():
    """Ten thousand of them once took gigabytes and half a minute."""
    generator = torch.Generator().manual_seed(6)
    aim = Target(boxes(3000, generator), torch.full((3000,), 2), torch.rand(3000, generator=generator) < 0.1, 1)
    with torch.profiler.profile(profile_memory=True) as profile:
        match(boxes(100, generator), aim)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 10 * 64 * 3100 * 4


def test_a_crowded_image_does_not_make_the_others_as_large():
    """If the others were filled up to as many, eight images would cost eight times as much as this one."""
    generator = torch.Generator().manual_seed(6)
    aims = [
        Target(boxes(count, generator), torch.full((count,), 2), torch.zeros(count).bool(), count)
        for count in (600, 1, 2, 3, 4, 5, 6, 7)
    ]

    def compared(targets):
        with torch.profiler.profile(record_shapes=True) as profile:
            sampling.match([boxes(100, generator) for _ in targets], targets)
        pairs = [event.input_shapes[0] for event in profile.events() if event.name == "aten::div"]
        return sum(math.prod(shape) for shape in pairs)

    assert compared(aims) < 2 * compared(aims[:1])


def test_matching_equals_loops():
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        proposals, labelled = boxes(30, generator), boxes(5, generator)
        ignore = torch.rand(5, generator=generator) < 0.4
        aim = Target(labelled, torch.tensor([2, 3, 4, 2, 3]), ignore, 1)
        found = match(proposals, aim)
        each = zip(found.boxes[0, 5:], found.labels[0, 5:].tolist(), found.matched[0, 5:], strict=True)
        for box, label, matched in each:
            best, which = 0.0, -1
            inside = False
            for g in range(5):
                overlap = float(box_iou(box[None], labelled[g : g + 1]))
                if not ignore[g] and overlap > best:
                    best, which = overlap, g
                size = (torch.minimum(box[2:], labelled[g, 2:]) - torch.maximum(box[:2], labelled[g, :2])).clamp(min=0)
                inside |= bool(ignore[g]) and float(size.prod() / (box[2:] - box[:2]).prod()) > 0.5
            expected = int(aim.labels[which]) if best >= 0.5 else NOTHING if inside else BACKGROUND
            assert label == expected
            assert torch.equal(matched, labelled[which] if best >= 0.5 else box)


def test_regions_mostly_inside_a_crowd_are_no_background():
    proposals = torch.tensor([[10.0, 10, 20, 20], [95, 0, 105, 10], [94, 0, 105, 10], [200, 200, 220, 220]])
    found = match(proposals, target([[0, 0, 100, 100], [0, 0, 100, 100]], [2, 3], [True, True]))
    # Wholly inside; 5 of 10 columns inside, which is not more than half; 6 of 11; outside.
    assert found.labels[0, 2:].tolist() == [NOTHING, BACKGROUND, NOTHING, BACKGROUND]
    assert found.labels[0, :2].tolist() == [NOTHING, NOTHING]


def test_an_ignored_box_takes_no_proposal_from_an_object():
    found = match(torch.tensor([[0.0, 0, 10, 10]]), target([[0, 0, 10, 10], [0, 0, 10, 9]], [2, 3], [True, False]))
    assert found.labels[0].tolist() == [NOTHING, 3, 3]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_images_without_labels_or_without_proposals(count):
    found = match(boxes(count), Target.empty(3))
    drawn = sample(found, none(found), MOMENT, regions=4, positive=0.5)
    assert drawn.labels.tolist() == [BACKGROUND] * min(count, 4)
    assert not drawn.regress.any()
    found = match(torch.zeros(0, 4), target([[0, 0, 9, 9]], [2]))
    drawn = sample(found, none(found), MOMENT, regions=4, positive=0.5)
    assert drawn.labels.tolist() == [2]
    assert drawn.boxes.tolist() == drawn.matched.tolist() == [[0, 0, 9, 9]]


def test_objects_are_at_most_their_share_and_background_fills_up():
    found = candidates([2] * 10 + [BACKGROUND] * 30)
    drawn = sample(found, none(found), MOMENT, regions=16, positive=0.25)
    assert drawn.labels.tolist() == [2] * 4 + [BACKGROUND] * 12
    assert drawn.regress.tolist() == [True] * 4 + [False] * 12
    assert torch.equal(drawn.matched[:4], drawn.boxes[:4] + 1)
    assert torch.equal(drawn.matched[4:], drawn.boxes[4:])
    assert len(set(map(tuple, drawn.boxes.tolist()))) == 16
    assert torch.equal(found.boxes[0, drawn.rows], drawn.boxes)


def test_rows_that_fill_up_count_for_nothing():
    found = candidates([2] * 10 + [BACKGROUND] * 3 + [NOTHING] * 7)
    drawn = sample(found, none(found), MOMENT, regions=16, positive=0.25)
    assert drawn.labels.tolist() == [2] * 4 + [BACKGROUND] * 3 + [NOTHING] * 9
    assert drawn.regress.sum() == 4


def test_pseudo_unknowns_are_always_in_the_sample_and_regress_nowhere():
    found = candidates([2] * 10 + [BACKGROUND] * 200)
    pseudo = none(found)
    pseudo[0, [50, 120]] = True
    pseudo[0, 3] = True  # an object cannot be one
    for key in range(20):
        drawn = sample(found, pseudo, Moment(1, 5, (key,)), regions=8, positive=0.25)
        assert drawn.labels.tolist() == [2, 2, UNKNOWN, UNKNOWN] + [BACKGROUND] * 4
        assert drawn.pseudo.tolist() == [False, False, True, True] + [False] * 4
        assert sorted(drawn.rows[2:4].tolist()) == [50, 120]
        assert not drawn.regress[2:].any()


def test_objects_that_an_oracle_labels_unknown_are_objects():
    found = candidates([UNKNOWN, BACKGROUND])
    drawn = sample(found, none(found), MOMENT, regions=4, positive=0.5)
    assert drawn.labels.tolist() == [UNKNOWN, BACKGROUND]
    assert drawn.regress.tolist() == [True, False]
    assert not drawn.pseudo.any()


def test_the_choice_depends_on_seed_step_and_image_alone():
    found = candidates([2] * 30 + [BACKGROUND] * 100)

    def rows(seed, step, key):
        return sample(found, none(found), Moment(seed, step, (key,)), regions=16, positive=0.25).rows.tolist()

    assert rows(1, 5, 77) == rows(1, 5, 77)
    others = [rows(2, 5, 77), rows(1, 6, 77), rows(1, 5, 78)]
    assert all(other != rows(1, 5, 77) for other in others)
    torch.manual_seed(99)
    assert rows(1, 5, 77) == rows(1, 5, 77)


def test_a_labelled_box_is_drawn_alike_whatever_the_number_of_proposals():
    labelled = boxes(40)
    aim = Target(labelled, torch.full((40,), 2), torch.zeros(40).bool(), 77)
    far = boxes(60, low=500.0)
    few, many = match(far[:20], aim), match(far, aim)
    drawn = [sample(found, none(found), MOMENT, regions=16, positive=0.5).rows[:8].tolist() for found in (few, many)]
    assert drawn[0] == drawn[1]


def test_every_candidate_has_the_same_chance():
    found = candidates([2] * 8 + [BACKGROUND] * 24)
    counts = torch.zeros(32)
    for key in range(2000):
        counts[sample(found, none(found), Moment(0, 0, (key,)), regions=8, positive=0.25).rows] += 1
    # 2 of 8 objects and 6 of 24 background: a quarter each; the deviation of a count is 19.
    assert (counts - 500).abs().max() < 80


def test_arguments_that_do_not_fit_are_named():
    found = candidates([2, BACKGROUND])
    with pytest.raises(ValueError, match="regions must be at least 1 and positive a share"):
        sample(found, none(found), MOMENT, regions=4, positive=1.5)
    with pytest.raises(ValueError, match="pseudo must be one per candidate"):
        sample(found, torch.zeros(1, 3).bool(), MOMENT, regions=4, positive=0.5)
