import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sslcore.pretrain.probes.linear import linear_probe, linear_probe_sgd
from sslcore.pretrain.probes.subsets import per_class


def blobs(n, classes=4, dim=10, noise=1.5, seed=0):
    """Gaussian clouds around fixed centres: separable but not perfectly."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return centres[labels] + noise * torch.randn(n, dim, generator=generator), labels


TRAIN, TEST = blobs(400), blobs(200, seed=1)


@pytest.mark.parametrize("penalty", [0.1, 1e-3])
def test_equals_scikit_learn_at_the_same_penalty(penalty):
    scale = torch.logspace(-2, 2, 10)  # standardisation must undo this
    train, test = TRAIN[0] * scale + 5, TEST[0] * scale + 5
    ours = linear_probe(train, TRAIN[1], test, TEST[1], classes=4, penalties=[penalty]).model
    standard = ((train - train.mean(0)) / train.std(0, correction=0)).double().numpy()
    theirs = LogisticRegression(C=1 / (len(train) * penalty), tol=1e-8, max_iter=2000).fit(standard, TRAIN[1].numpy())
    torch.testing.assert_close(ours.weight.double(), torch.tensor(theirs.coef_), atol=2e-3, rtol=2e-3)


def test_finds_what_is_linear_and_reports_its_choice():
    result = linear_probe(*TRAIN, *TEST, classes=4)
    assert result.top1 > 0.8
    assert result.top5 == 1.0  # four classes
    assert result.held_out_top1 > 0.75
    assert (result.train_samples, result.test_samples) == (400, 200)


def test_labels_without_relation_stay_at_chance():
    noise = torch.randint(0, 4, (400,))
    assert linear_probe(TRAIN[0], noise, TEST[0], TEST[1], classes=4).top1 < 0.45


def test_the_test_labels_choose_nothing():
    """Whatever the test labels are, the model is the same."""
    first = linear_probe(*TRAIN, *TEST, classes=4)
    second = linear_probe(*TRAIN, TEST[0], TEST[1].flip(0), classes=4)
    assert first.penalty == second.penalty
    assert torch.equal(first.model.weight, second.model.weight)


def test_the_penalty_is_chosen_strong_where_features_are_mostly_noise():
    generator = torch.Generator().manual_seed(5)
    wide = [torch.cat([x, torch.randn(len(x), 300, generator=generator)], 1) for x in (TRAIN[0], TEST[0])]
    chosen = linear_probe(wide[0], TRAIN[1], wide[1], TEST[1], classes=4)
    weak = linear_probe(wide[0], TRAIN[1], wide[1], TEST[1], classes=4, penalties=[1e-6])
    assert chosen.penalty >= 0.01
    assert chosen.top1 > weak.top1


def test_dead_dimensions_do_no_harm():
    dead = torch.cat([TRAIN[0], torch.full((400, 1), 1e3)], 1), torch.cat([TEST[0], torch.full((200, 1), 1e3 + 1)], 1)
    result = linear_probe(dead[0], TRAIN[1], dead[1], TEST[1], classes=4)
    assert result.top1 == linear_probe(*TRAIN, *TEST, classes=4).top1


def test_classes_absent_from_training_and_single_samples_are_fine():
    train = torch.eye(3), torch.tensor([0, 1, 2])  # one sample each: nothing can be held out
    result = linear_probe(*train, torch.eye(3), torch.tensor([0, 1, 3]), classes=5)
    assert result.top1 == pytest.approx(2 / 3)
    assert result.held_out_top1 is None


def test_sgd_comes_near_the_convex_solution():
    convex = linear_probe(*TRAIN, *TEST, classes=4)
    sgd = linear_probe_sgd(*TRAIN, *TEST, classes=4, epochs=30, lr=0.1, batch_size=64)
    assert abs(sgd.top1 - convex.top1) < 0.06
    again = linear_probe_sgd(*TRAIN, *TEST, classes=4, epochs=30, lr=0.1, batch_size=64)
    assert torch.equal(sgd.model.weight, again.model.weight)


def test_few_shots_learn_from_as_many_of_each_class():
    few = linear_probe(*TRAIN, *TEST, classes=4, shots=5)
    assert few.train_samples == 20
    rows = per_class(TRAIN[1], 5, seed=0)
    assert few.top1 == linear_probe(TRAIN[0][rows], TRAIN[1][rows], *TEST, classes=4).top1
    assert few.top1 < linear_probe(*TRAIN, *TEST, classes=4).top1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
        linear_probe(*TRAIN, *TEST, classes=3)
    with pytest.raises(ValueError, match="diverged"):
        linear_probe(TRAIN[0] * math.inf, TRAIN[1], *TEST, classes=4)
    with pytest.raises(ValueError, match="at least one"):
        linear_probe(TRAIN[0][:0], TRAIN[1][:0], *TEST, classes=4)
