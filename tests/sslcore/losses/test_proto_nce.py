import inspect
import math
import sys

import numpy as np
import pytest
import torch

from sslcore.losses import concentrations, proto_nce, prototype_nce

F64 = torch.float64


def by_loops(features, prototypes, assignments, phi):
    """The prototype term of PCL's equation 11 for one clustering, one pair at a time."""
    total = 0.0
    for v, s in zip(features, assignments.tolist(), strict=True):
        terms = [
            math.exp(float(v @ c / (v.norm() * c.norm())) / float(p)) for c, p in zip(prototypes, phi, strict=True)
        ]
        total -= math.log(terms[s] / sum(terms))
    return torch.tensor(total / len(features), dtype=F64)


def concentrations_by_loops(features, prototypes, assignments, smoothing):
    """PCL's equation 12, with the treatment of small clusters and of extremes of its code."""
    phi = np.zeros(len(prototypes))
    sizes = [int((assignments == j).sum()) for j in range(len(prototypes))]
    for j, size in enumerate(sizes):
        if size > 1:
            members = features[assignments == j]
            distances = [float((v - prototypes[j]).norm()) for v in members]
            phi[j] = sum(distances) / (size * math.log(size + smoothing))
    for j, size in enumerate(sizes):
        if size <= 1:
            phi[j] = phi.max()
    phi = phi.clip(np.percentile(phi, 10), np.percentile(phi, 90))
    return torch.tensor(phi / phi.mean())


def inputs(n=40, k=6, d=5):
    features = torch.randn(n, d, dtype=F64)
    prototypes = torch.randn(k, d, dtype=F64)
    assignments = torch.randint(0, k - 2, (n,))
    assignments[0] = k - 2  # a cluster of one; the last has none
    return features, prototypes, assignments


@pytest.mark.parametrize("temperature", [0.1, 1])
def test_equals_the_equation(temperature):
    features, prototypes, assignments = inputs()
    ours = proto_nce(features, prototypes, assignments, temperature=temperature)
    expected = by_loops(features, prototypes, assignments, [temperature] * 6)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)

    spread = torch.rand(6, dtype=F64) + 0.5
    ours = proto_nce(features, prototypes, assignments, temperature=temperature, concentration=spread)
    expected = by_loops(features, prototypes, assignments, temperature * spread / spread.mean())
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_concentrations_equal_pcl():
    features, prototypes, assignments = inputs()
    for smoothing in (10.0, 3.0):
        ours = concentrations(features, prototypes, assignments, smoothing=smoothing)
        expected = concentrations_by_loops(features, prototypes, assignments, smoothing)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_concentrations_of_points_on_their_centroids_are_one():
    prototypes = torch.randn(3, 4)
    assignments = torch.tensor([0, 0, 1, 1])
    assert torch.equal(concentrations(prototypes[assignments], prototypes, assignments), torch.ones(3))


@pytest.mark.parametrize("spread", [None, torch.tensor([0.5, 1.0, 1.5, 1.0], dtype=F64)])
def test_rows_without_a_cluster_contribute_nothing(spread):
    features, prototypes, assignments = inputs(5, 4, 3)
    features.requires_grad_()
    assignments[2] = -1
    loss = proto_nce(features, prototypes, assignments, temperature=0.3, concentration=spread)
    known = assignments >= 0
    others = proto_nce(features[known], prototypes, assignments[known], temperature=0.3, concentration=spread)
    torch.testing.assert_close(loss, others * 4 / 5)
    (gradient,) = torch.autograd.grad(loss, features)
    assert not gradient[2].any() and gradient[known].any()


def test_gradcheck():
    features, prototypes, assignments = inputs(5, 4, 3)
    spread = torch.rand(4, dtype=F64) + 0.5
    features.requires_grad_(), prototypes.requires_grad_()
    temperature = torch.tensor(0.3, dtype=F64, requires_grad=True)
    for concentration in (None, spread):
        assert torch.autograd.gradcheck(
            lambda f, p, t, c=concentration: proto_nce(f, p, assignments, temperature=t, concentration=c),
            (features, prototypes, temperature),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("k", [20, 20_000])
def test_small_temperatures_stay_finite(dtype, k):
    features = torch.randn(32, 8).to(dtype).requires_grad_()
    prototypes, assignments = torch.randn(k, 8), torch.randint(0, k, (32,))
    loss = proto_nce(features, prototypes, assignments, temperature=0.005, concentration=torch.rand(k) + 0.1)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prototypes": torch.randn(6, 3)}, "of the same d"),
        ({"assignments": torch.zeros(3, dtype=torch.long)}, "one per feature"),
        ({"concentration": torch.ones(5)}, "one per prototype"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    features, prototypes, assignments = inputs()
    arguments = {
        "features": features,
        "prototypes": prototypes,
        "assignments": assignments,
        "temperature": 0.1,
    } | change
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(proto_nce)(**arguments)


@pytest.mark.parametrize(
    ("prototypes", "assignments", "message"),
    [((6, 3), 40, "of the same d"), ((6, 5), 3, "one per feature")],
)
def test_concentrations_name_what_does_not_fit(prototypes, assignments, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(concentrations)(
            torch.randn(40, 5), torch.randn(*prototypes), torch.zeros(assignments, dtype=torch.long)
        )


# --- labels in place of clusters -------------------------------------------------------------------------------------


def labelled_by_loops(features, labels, prototypes, temperature, valid):
    """Cross-entropy of cosine similarities to the prototypes that are there, over the rows whose own one is."""
    total, count = 0.0, 0
    for f, y in zip(features, labels.tolist(), strict=True):
        if y < 0 or not valid[y]:
            continue
        terms = [math.exp(float(f @ p / (f.norm() * p.norm())) / temperature) for p in prototypes]
        total -= math.log(terms[y] / sum(t for t, there in zip(terms, valid, strict=True) if there))
        count += 1
    return torch.tensor(total / max(count, 1), dtype=F64)


LABELS = [0, 4, 2, -1, 2, 1, 3, -5, 0, 2]


@pytest.mark.parametrize("valid", [None, [True, False, True, True, False]])
@pytest.mark.parametrize("is_large", [False, True])
def test_labelled_rows_equal_the_definition(valid, is_large, monkeypatch):
    if is_large:
        monkeypatch.setattr(sys.modules["sslcore.losses.proto_nce"], "is_small", lambda *args: False)
    features, prototypes, _ = inputs(n=10, k=5)
    labels = torch.tensor(LABELS)
    mask = None if valid is None else torch.tensor(valid)
    ours = prototype_nce(features, labels, prototypes, temperature=0.2, valid=mask)
    expected = labelled_by_loops(features, labels, prototypes, 0.2, valid or [True] * 5)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("is_large", [False, True])
def test_labelled_rows_have_the_right_gradients(is_large, monkeypatch):
    if is_large:
        monkeypatch.setattr(sys.modules["sslcore.losses.proto_nce"], "is_small", lambda *args: False)
    features, prototypes, _ = inputs(n=10, k=5)
    valid = torch.tensor([True, False, True, True, True])

    def loss(f, p):
        return prototype_nce(f, torch.tensor(LABELS), p, temperature=0.5, valid=valid)

    assert torch.autograd.gradcheck(loss, (features.requires_grad_(), prototypes.requires_grad_()))


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("valid", [[True] * 5, [False] * 5])
def test_nothing_to_compare_is_no_loss_and_no_gradient(is_large, valid, monkeypatch):
    if is_large:
        monkeypatch.setattr(sys.modules["sslcore.losses.proto_nce"], "is_small", lambda *args: False)
    labels = torch.full((10,), -1 if valid[0] else 2)
    features = inputs(n=10, k=5)[0].requires_grad_()
    loss = prototype_nce(features, labels, torch.randn(5, 5, dtype=F64), temperature=0.1, valid=torch.tensor(valid))
    loss.backward()
    assert loss.item() == 0
    assert float(features.grad.abs().sum()) == 0


def test_labelled_rows_say_what_does_not_fit():
    features, prototypes, _ = inputs(n=10, k=5)
    labels = torch.tensor(LABELS)
    with pytest.raises(ValueError, match="label 5 has no prototype: there are 5"):
        prototype_nce(features, labels + 1, prototypes, temperature=0.1)
    with pytest.raises(ValueError, match="temperature"):
        prototype_nce(features, labels, prototypes, temperature=0)
