import pytest
import torch

from sslcore.pretrain.probes.subsets import class_balanced, held_out

LABELS = torch.arange(1000) % 10


def test_fractions_are_balanced_nested_and_repeatable():
    one, ten = (class_balanced(LABELS, fraction=f, seed=3) for f in (0.01, 0.1))
    assert LABELS[one].bincount().tolist() == [1] * 10
    assert LABELS[ten].bincount().tolist() == [10] * 10
    assert set(one.tolist()) < set(ten.tolist())
    assert torch.equal(ten, class_balanced(LABELS, fraction=0.1, seed=3))
    assert not torch.equal(ten, class_balanced(LABELS, fraction=0.1, seed=4))
    assert len(class_balanced(LABELS, fraction=1.0, seed=3)) == 1000


def test_few_shots_and_small_classes():
    labels = torch.tensor([0] * 50 + [1] * 3 + [-1] * 20)
    rows = class_balanced(labels, per_class=5, seed=0)
    assert labels[rows].bincount().tolist() == [
        5,
        3,
    ]  # the small class gives all it has, unlabelled ones are never taken
    assert len(class_balanced(labels, fraction=1.0, seed=0)) == 53


def test_held_out_takes_a_share_of_every_class_and_never_all():
    labels = torch.tensor([0] * 40 + [1] * 2 + [2])
    keep, held = held_out(labels, 0.2, seed=0)
    assert labels[held].tolist() == [0] * 8 + [1]
    assert sorted(keep.tolist() + held.tolist()) == list(range(43))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either"),
        ({"fraction": 0.1, "per_class": 3}, "either"),
        ({"fraction": 1.5}, r"\(0, 1\]"),
        ({"per_class": 0}, "at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        class_balanced(LABELS, seed=0, **arguments)


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(ValueError, match="no labelled"):
        class_balanced(torch.full((3,), -1), per_class=1, seed=0)
    with pytest.raises(ValueError, match="two samples"):
        held_out(torch.arange(3), 0.5, seed=0)
