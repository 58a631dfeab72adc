import inspect
import math

import pytest
import torch

from sslcore.losses import hinge_clustering

F64 = torch.float64


def by_loops(features, labels, prototypes, margin, valid=None):
    """Equation 1 of ORE, one pair at a time; summed over classes, averaged over rows."""
    total = 0.0
    for f, y in zip(features.tolist(), labels.tolist(), strict=True):
        for j, p in enumerate(prototypes.tolist()):
            if valid is not None and not valid[j]:
                continue
            distance = math.dist(f, p)
            total += distance if j == y else max(0.0, margin - distance)
    return torch.tensor(total / len(features), dtype=F64)


def inputs(n=6, k=5, d=4):
    features = torch.randn(n, d, dtype=F64, requires_grad=True)
    return features, torch.randint(0, k, (n,)), torch.randn(k, d, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("margin", [1.0, 2.5, 10.0])
@pytest.mark.parametrize("valid", [None, [True, False, True, True, False], [False] * 5])
def test_equals_the_equation(margin, valid):
    features, labels, prototypes = inputs()
    valid = None if valid is None else torch.tensor(valid)
    ours = hinge_clustering(features, labels, prototypes, margin=margin, valid=valid)
    expected = by_loops(features, labels, prototypes, margin, valid)
    torch.testing.assert_close(ours.detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("valid", [None, [True, False, True, True, False]])
def test_gradcheck(valid):
    features, labels, prototypes = inputs()
    valid = None if valid is None else torch.tensor(valid)
    assert torch.autograd.gradcheck(
        lambda f, p: hinge_clustering(f, labels, p, margin=2.5, valid=valid), (features, prototypes)
    )


def test_prototypes_that_are_not_valid_do_not_repel():
    features = torch.tensor([[0.1, 0.0]], requires_grad=True)
    prototypes = torch.tensor([[0.1, 1.0], [0.0, 0.0]])  # the second was never filled
    valid = torch.tensor([True, False])
    loss = hinge_clustering(features, torch.tensor([0]), prototypes, margin=5.0, valid=valid)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(1.0))
    torch.testing.assert_close(features.grad, torch.tensor([[0.0, -1.0]]))


def test_rows_without_a_class_contribute_nothing_and_do_not_count():
    features, labels, prototypes = inputs()
    labels[1], labels[4] = -1, -7
    loss = hinge_clustering(features, labels, prototypes, margin=2.5)
    gradients = torch.autograd.grad(loss, (features, prototypes))
    known = labels >= 0
    alone = hinge_clustering(features[known], labels[known], prototypes, margin=2.5)
    torch.testing.assert_close(loss, alone)
    torch.testing.assert_close(gradients, torch.autograd.grad(alone, (features, prototypes)))
    assert not gradients[0][~known].any()


def test_no_row_has_a_class():
    features, labels, prototypes = inputs()
    loss = hinge_clustering(features, torch.full_like(labels, -1), prototypes, margin=2.5)
    loss.backward()
    assert loss == 0
    assert not features.grad.any() and not prototypes.grad.any()


def test_features_on_their_prototype_get_no_gradient():
    prototypes = torch.randn(4, 2048).relu()
    features = prototypes[[1, 3]].clone().requires_grad_()
    loss = hinge_clustering(features, torch.tensor([1, 3]), prototypes, margin=1.0)
    loss.backward()
    assert loss == 0
    assert not features.grad.any()


def test_no_rows():
    features = torch.randn(0, 4, requires_grad=True)
    loss = hinge_clustering(features, torch.zeros(0, dtype=torch.long), torch.randn(3, 4), margin=1.0)
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    features = (10 * torch.randn(16, 512)).to(dtype)
    labels, prototypes = torch.randint(0, 5, (16,)), 10 * torch.randn(5, 512)
    wide = hinge_clustering(features.float(), labels, prototypes, margin=400.0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(hinge_clustering(features, labels, prototypes, margin=400.0), wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prototypes": torch.randn(5, 3)}, "of the same d"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "one per feature"),
        ({"valid": torch.ones(4, dtype=torch.bool)}, "one per prototype"),
        ({"labels": torch.tensor([0, 1, 2, 3, 4, 5])}, "label 5 has no prototype: there are 5"),
        ({"margin": -1.0}, "must be positive"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    features, labels, prototypes = inputs()
    arguments = {"features": features, "labels": labels, "prototypes": prototypes, "margin": 1.0} | change
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(hinge_clustering)(**arguments)
