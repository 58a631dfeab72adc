import inspect
import math

import pytest
import torch

from sslcore.losses import sup_con
from sslcore.losses.sup_con import numbered

F64 = torch.float64


def by_loops(features, labels, temperature, form):
    """Equations 2 and 3 of SupCon, one pair at a time; anchors without a positive do not count."""
    n = len(features)
    losses = []
    for i in range(n):
        exps = {
            j: math.exp(float(features[i] @ features[j] / (features[i].norm() * features[j].norm())) / temperature)
            for j in range(n)
            if j != i
        }
        positives = [j for j in exps if labels[j] == labels[i]]
        if not positives:
            continue
        everyone = sum(exps.values())
        if form == "out":
            losses.append(-sum(math.log(exps[p] / everyone) for p in positives) / len(positives))
        else:
            losses.append(-math.log(sum(exps[p] / everyone for p in positives) / len(positives)))
    return torch.tensor(sum(losses) / len(losses) if losses else 0.0, dtype=F64)


LABELS = (
    [0, 1, 0, 1, 0, 1],
    [3, 3, 3, 3, 3, 3],
    [-7, 10**12, 5, 5, -7, 2],  # any integers; two anchors without a positive
    [0, 1, 2, 3, 4, 5],  # no positives at all
)


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("labels", LABELS)
def test_equals_the_equation(form, labels):
    features, labels = torch.randn(6, 4, dtype=F64), torch.tensor(labels)
    ours = sup_con(features, labels, temperature=0.2, form=form)
    torch.testing.assert_close(ours, by_loops(features, labels, 0.2, form), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("labels", LABELS[:3])
def test_gradcheck(form, labels):
    features = torch.randn(6, 3, dtype=F64, requires_grad=True)
    temperature = torch.tensor(0.3, dtype=F64, requires_grad=True)
    labels = torch.tensor(labels)
    assert torch.autograd.gradcheck(lambda f, t: sup_con(f, labels, temperature=t, form=form), (features, temperature))


@pytest.mark.parametrize("form", ["out", "in"])
def test_without_positives_loss_and_gradient_are_zero(form):
    features = torch.randn(6, 4, requires_grad=True)
    for count in (6, 1, 0):
        loss = sup_con(features[:count], torch.arange(count), temperature=0.1, form=form)
        loss.backward()
        assert loss == 0
        assert not features.grad.any()


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("n", [40, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_small_temperatures_stay_finite(form, n, dtype):
    features = torch.randn(n, 16).to(dtype).requires_grad_()
    loss = sup_con(features, torch.randint(0, n // 2, (n,)), temperature=0.005, form=form)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


def test_labels_are_renumbered_in_order():
    labels = torch.tensor([5, -1, 5, 10**12, -1, 0])
    assert torch.equal(numbered(labels), torch.unique(labels, return_inverse=True)[1])
    assert numbered(labels[:0]).shape == (0,)


def test_what_does_not_fit_is_named():
    call = inspect.unwrap(sup_con)
    with pytest.raises(ValueError, match=r"need labels \(n,\)"):
        call(torch.randn(3, 4), torch.zeros(2, dtype=torch.long), temperature=0.1)
    with pytest.raises(ValueError, match='"out" or "in"'):
        call(torch.randn(3, 4), torch.zeros(3, dtype=torch.long), temperature=0.1, form="both")
