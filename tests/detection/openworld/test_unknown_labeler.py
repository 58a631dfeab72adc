import pytest
import torch
from torchvision.ops import box_iou

from detection.openworld import sampling
from detection.openworld.sampling import NOTHING, Moment
from detection.openworld.unknown_labeler import UnknownLabeler
from detection.structures import BACKGROUND, UNKNOWN, Target

NONE = torch.zeros(0, 4)
MOMENT = Moment(0, 0, (1,))


def at(*corners, side=10.0):
    """Squares at these left edges."""
    return torch.tensor([[x, 0.0, x + side, side] for x in corners])


def match(proposals, aim):
    """Of one image."""
    return sampling.match([proposals], [aim])


def choose_among(labeler, found, objectness, moment=MOMENT):
    """Of one image."""
    return labeler.choose_among(found, [objectness], moment)


def chosen(labeler, proposals, objectness, labelled=NONE, **more):
    mask = labeler.choose(proposals, torch.tensor(objectness, dtype=torch.float32), labelled, **more)
    return mask.nonzero()[:, 0].tolist()


def test_the_highest_objectness_among_all_proposals():
    proposals = at(0, 20, 40, 60, 80)
    assert chosen(UnknownLabeler(2), proposals, [1, 5, -3, 7, 2]) == [1, 3]
    assert chosen(UnknownLabeler(0), proposals, [1, 5, -3, 7, 2]) == []
    assert chosen(UnknownLabeler(9), proposals, [1, 5, -3, 7, 2]) == [0, 1, 2, 3, 4]
    assert chosen(UnknownLabeler(2), NONE, []) == []


def test_of_equal_objectness_the_earlier_proposal():
    assert chosen(UnknownLabeler(2), at(*range(0, 400, 20)), [0.0] * 20) == [0, 1]


def test_proposals_on_labelled_boxes_are_left_out_from_the_guard_on():
    # Squares of 10 shifted by 8 share 20 of 180: an IoU of 1/9.
    proposals, labelled = at(8, 100), at(0)
    assert chosen(UnknownLabeler(1, guard=0.1), proposals, [9, 1], labelled) == [1]
    assert chosen(UnknownLabeler(1, guard=0.12), proposals, [9, 1], labelled) == [0]


def test_what_the_previous_model_calls_known_is_left_out():
    proposals = at(0, 100)
    assert chosen(UnknownLabeler(1), proposals, [9, 1], previous=at(1)) == [1]
    assert chosen(UnknownLabeler(1), proposals, [9, 1], at(100), previous=at(1)) == []
    assert chosen(UnknownLabeler(1), proposals, [9, 1], previous=NONE) == [0]


def test_small_and_unsound_proposals_are_left_out():
    proposals = torch.cat([at(0), at(20, side=7.0), at(40)])
    assert chosen(UnknownLabeler(1, min_side=8), proposals, [1, 9, 0]) == [0]
    assert chosen(UnknownLabeler(2), proposals, [float("nan"), float("inf"), -5]) == [2]


def test_equals_loops():
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        corner = torch.rand(60, 2, generator=generator) * 90
        every = torch.cat([corner, corner + 2 + torch.rand(60, 2, generator=generator) * 40], dim=1)
        proposals, labelled, previous = every[:50], every[50:55], every[55:]
        objectness = torch.randn(50, generator=generator)
        free = [
            i
            for i, box in enumerate(proposals)
            if min(box[2] - box[0], box[3] - box[1]) >= 8
            and all(box_iou(box[None], other[None]) <= 0.1 for other in every[50:])
        ]
        expected = sorted(sorted(free, key=lambda i: -float(objectness[i]))[:3])
        mask = UnknownLabeler(3, guard=0.1, min_side=8).choose(proposals, objectness, labelled, previous=previous)
        assert mask.nonzero()[:, 0].tolist() == expected


def test_other_proposals_of_the_same_object_are_no_background():
    # Shifted by 2 of 10: an IoU of 2/3 with the chosen one. By 4: 3/7.
    found = match(at(0, 2, 4, 50, 200), Target(at(200), torch.tensor([2]), torch.tensor([False]), 1))
    choice = choose_among(UnknownLabeler(1), found, torch.tensor([9.0, 8, 7, 1, 99]))
    assert choice.pseudo[0].tolist() == [False, True, False, False, False, False]
    assert choice.candidates.labels[0].tolist() == [2, BACKGROUND, NOTHING, BACKGROUND, BACKGROUND, 2]


def test_regions_in_a_crowd_are_not_chosen():
    crowd = torch.tensor([[0.0, 0, 300, 300]])
    found = match(at(0, 400), Target(crowd, torch.tensor([2]), torch.tensor([True]), 1))
    choice = choose_among(UnknownLabeler(1), found, torch.tensor([9.0, 1]))
    assert choice.pseudo[0].tolist() == [False, False, True]


def test_as_many_random_proposals_are_drawn_among_those_that_could_have_been_chosen():
    labelled = Target(at(0), torch.tensor([2]), torch.tensor([False]), 1)
    proposals = at(0, *range(100, 300, 20))
    found, objectness = match(proposals, labelled), torch.arange(11.0)
    seen = set()
    for key in range(50):
        random = choose_among(UnknownLabeler(2), found, objectness, Moment(0, 0, (key,))).random_of(0)
        assert random.shape == (2, 4)
        seen |= set(random[:, 0].tolist())
    assert seen == set(range(100, 300, 20))
    found = match(at(0, 100), labelled)
    random = choose_among(UnknownLabeler(2), found, torch.zeros(2)).random_of(0)
    assert random.tolist() == [[100, 0, 110, 10], [0, 0, 0, 0]]


# --- the original choice --------------------------------------------------------------------------------------------


def ore_sample(objectness, labelled, proposals, k=1):
    """Everything is sampled; objectness in the order of the sample."""
    found = match(proposals, labelled)
    labeler = UnknownLabeler(k, compat="ore")
    choice = choose_among(labeler, found, torch.zeros(len(proposals)))
    assert not choice.pseudo.any()
    (drawn,) = sampling.sample(choice.candidates, choice.pseudo, MOMENT, regions=100, positive=1.0)
    own = torch.tensor([23.0] * found.labelled + objectness)[drawn.rows]
    return labeler.relabel_as_ore(drawn, own, labelled.boxes)


def label_of(drawn, row):
    return int(drawn.labels[drawn.rows == row])


ONE = Target(at(0), torch.tensor([2]), torch.tensor([False]), 1)


def test_ore_takes_parts_of_known_objects_and_regresses_to_them():
    # Defects (a) and (c): shifted by 4 is background with an IoU of 3/7, twice the guard of ours.
    drawn = ore_sample([5.0, 1.0], ONE, at(4, 100))
    assert [label_of(drawn, row) for row in range(3)] == [2, UNKNOWN, BACKGROUND]
    pseudo = drawn.pseudo
    assert int(pseudo.sum()) == 1
    assert drawn.regress[pseudo].tolist() == [True]
    assert drawn.matched[pseudo].tolist() == at(0).tolist()


def test_ore_calls_a_known_object_unknown_where_background_logits_are_below_minus_one():
    # Defect (b), with the known box itself the first of the two that carry a logit of -1.
    drawn = ore_sample([-2.0, -3.0], ONE, at(50, 100))
    assert [label_of(drawn, row) for row in range(3)] == [UNKNOWN, BACKGROUND, BACKGROUND]
    drawn = ore_sample([-0.5, -3.0], ONE, at(50, 100))
    assert [label_of(drawn, row) for row in range(3)] == [2, UNKNOWN, BACKGROUND]


def test_ore_equals_a_loop_over_what_was_sampled():
    # Defect (d): the highest objectness of all is not taken when it is not in the sample.
    generator = torch.Generator().manual_seed(7)
    for key in range(10):
        proposals = at(*range(4, 2004, 20))
        objectness = torch.randn(100, generator=generator)
        found = match(proposals, ONE)
        labeler, moment = UnknownLabeler(2, compat="ore"), Moment(0, 0, (key,))
        (drawn,) = sampling.sample(found, torch.zeros(1, 101).bool(), moment, regions=10, positive=0.2)
        logits = torch.cat([torch.tensor([23.0]), objectness])[drawn.rows]
        literal = [-1.0 if label > 0 else float(x) for x, label in zip(logits, drawn.labels.tolist(), strict=True)]
        expected = sorted(range(10), key=lambda i: -literal[i])[:2]
        assert labeler.relabel_as_ore(drawn, logits, ONE.boxes).pseudo.nonzero()[:, 0].tolist() == sorted(expected)


def test_ore_without_a_labelled_box():
    drawn = ore_sample([5.0, 6.0], Target.empty(1), at(4, 100))
    assert drawn.labels[drawn.rows].sort().values.tolist() == [BACKGROUND, UNKNOWN]
    assert not drawn.regress.any()


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="guard"):
        UnknownLabeler(1, guard=2)
    with pytest.raises(ValueError, match='compat is None or "ore"'):
        UnknownLabeler(1, compat="owod")
    with pytest.raises(ValueError, match=r"objectness must be one per proposal, \(2,\)"):
        UnknownLabeler(1).choose(at(0, 50), torch.zeros(3), NONE)
