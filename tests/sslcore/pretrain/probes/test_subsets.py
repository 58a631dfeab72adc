import pytest
import torch

from sslcore.pretrain.probes.subsets import balanced_share, held_out, per_class

LABELS = torch.arange(1000) % 10


def test_fractions_are_balanced_nested_and_repeatable():
    one, ten = (balanced_share(LABELS, f, seed=3) for f in (0.01, 0.1))
    assert LABELS[one].bincount().tolist() == [1] * 10
    assert LABELS[ten].bincount().tolist() == [10] * 10
    assert set(one.tolist()) < set(ten.tolist())
    assert torch.equal(ten, balanced_share(LABELS, 0.1, seed=3))
    assert not torch.equal(ten, balanced_share(LABELS, 0.1, seed=4))
    assert len(balanced_share(LABELS, 1.0, seed=3)) == 1000


def test_few_shots_and_small_classes():
    labels = torch.tensor([0] * 50 + [1] * 3 + [-1] * 20)
    rows = per_class(labels, 5, seed=0)
    assert labels[rows].bincount().tolist() == [
        5,
        3,
    ]  # the small class gives all it has, unlabelled ones are never taken
    assert len(balanced_share(labels, 1.0, seed=0)) == 53


def test_held_out_takes_a_share_of_every_class_and_never_all():
    labels = torch.tensor([0] * 40 + [1] * 2 + [2])
    keep, held = held_out(labels, 0.2, seed=0)
    assert labels[held].tolist() == [0] * 8 + [1]
    assert sorted(keep.tolist() + held.tolist()) == list(range(43))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        balanced_share(LABELS, 1.5, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        per_class(LABELS, 0, seed=0)


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(ValueError, match="no labelled"):
        per_class(torch.full((3,), -1), 1, seed=0)
    with pytest.raises(ValueError, match="two samples"):
        held_out(torch.arange(3), 0.5, seed=0)
