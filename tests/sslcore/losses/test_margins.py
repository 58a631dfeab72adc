import inspect
import math

import pytest
import torch

from sslcore.losses import max_margin, n_pair, triplet

F64 = torch.float64


def inputs(*shape, count=2):
    return tuple(torch.randn(*shape, dtype=F64, requires_grad=True) for _ in range(count))


def close(ours, expected):
    torch.testing.assert_close(ours.detach(), torch.tensor(expected, dtype=F64), rtol=1e-9, atol=1e-9)


def test_max_margin_equals_the_equation():
    a, b = inputs(8, 3)
    same = torch.tensor([True, False] * 4)
    total = 0.0
    for i in range(8):
        distance = math.dist(a[i].tolist(), b[i].tolist())
        total += 0.5 * distance**2 if same[i] else 0.5 * max(0.0, 2.5 - distance) ** 2
    close(max_margin(a, b, same, margin=2.5), total / 8)
    assert torch.autograd.gradcheck(lambda a, b: max_margin(a, b, same, margin=2.5), (a, b))


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_triplet_equals_the_equation(distance):
    anchor, positive, negative = inputs(9, 3, count=3)
    power = 2 if distance == "squared" else 1
    total = 0.0
    for a, p, n in zip(anchor.tolist(), positive.tolist(), negative.tolist(), strict=True):
        total += max(0.0, math.dist(a, p) ** power - math.dist(a, n) ** power + 0.7)
    close(triplet(anchor, positive, negative, margin=0.7, distance=distance), total / 9)
    assert torch.autograd.gradcheck(lambda *x: triplet(*x, margin=0.7, distance=distance), (anchor, positive, negative))


@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 3, 3]])
def test_n_pair_equals_the_equation(labels):
    query, positive = inputs(6, 3)
    ids = None if labels is None else torch.tensor(labels)
    total = 0.0
    for i in range(6):
        others = (j for j in range(6) if j != i and (labels is None or labels[i] != labels[j]))
        total += math.log(
            1 + sum(math.exp(float(query[i].detach() @ (positive[j] - positive[i]).detach()) / 0.9) for j in others)
        )
    close(n_pair(query, positive, temperature=0.9, labels=ids), total / 6)
    lengths = sum(float((x.detach() ** 2).sum()) for x in (*query, *positive)) / 6
    close(n_pair(query, positive, temperature=0.9, labels=ids, l2=0.02), total / 6 + 0.02 * lengths)
    assert torch.autograd.gradcheck(lambda q, p: n_pair(q, p, temperature=0.9, labels=ids, l2=0.02), (query, positive))


def test_equal_embeddings_give_no_nan():
    a = torch.ones(3, 4, requires_grad=True)
    loss = max_margin(a, a.detach(), torch.tensor([True, False, False]), margin=1.0)
    loss = loss + triplet(a, a.detach(), a.detach(), margin=1.0, distance="euclidean")
    loss.backward()
    assert loss.isfinite()
    assert not a.grad.any()


def test_half_precision_is_computed_in_float32():
    a, b = torch.randn(2, 8, 16).half().unbind()
    assert max_margin(a, b, torch.ones(8, dtype=torch.bool), margin=1.0).dtype == torch.float32
    assert triplet(a, b, b, margin=1.0).dtype == torch.float32
    assert n_pair(a, b, temperature=0.005).isfinite()


def test_what_does_not_fit_is_named():
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match="must be positive"):
        max_margin(x, x, torch.ones(3, dtype=torch.bool), margin=0.0)
    with pytest.raises(ValueError, match="one per pair"):
        inspect.unwrap(max_margin)(x, x, torch.ones(2, dtype=torch.bool), margin=1.0)
    with pytest.raises(ValueError, match="anchor and positive and negative"):
        inspect.unwrap(triplet)(x, x, x[:2], margin=1.0)
    with pytest.raises(ValueError, match='"squared" or "euclidean"'):
        inspect.unwrap(triplet)(x, x, x, margin=1.0, distance="cosine")
