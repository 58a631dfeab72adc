import inspect
import math

import pytest
import torch

from sslcore.losses import nt_xent

F64 = torch.float64


def by_loops(view_a, view_b, temperature):
    """Equation 1 of SimCLR, one pair at a time."""
    z = [*view_a, *view_b]
    n = len(view_a)

    def similarity(i, j):
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm())) / temperature

    total = 0.0
    for i in range(2 * n):
        others = sum(math.exp(similarity(i, j)) for j in range(2 * n) if j != i)
        total -= math.log(math.exp(similarity(i, (i + n) % (2 * n))) / others)
    return torch.tensor(total / (2 * n), dtype=F64)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.07, 0.5, 1])
def test_equals_the_equation(n, temperature):
    a, b = torch.randn(2, n, 5, dtype=F64)
    torch.testing.assert_close(
        nt_xent(a, b, temperature=temperature), by_loops(a, b, temperature), rtol=1e-9, atol=1e-9
    )


def test_gradcheck():
    a, b = (torch.randn(4, 3, dtype=F64, requires_grad=True) for _ in range(2))
    temperature = torch.tensor(0.3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b, t: nt_xent(a, b, temperature=t), (a, b, temperature))


@pytest.mark.parametrize("n", [200, 1100])  # exponentials kept, and tiles formed twice
@pytest.mark.parametrize("temperature", [0.1, 0.01])  # symmetric tiles, and the running maximum
def test_large_batches_equal_plain_autograd(n, temperature):
    a, b = (torch.randn(n, 8, dtype=F64, requires_grad=True) for _ in range(2))
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    scores = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
    plain = torch.nn.functional.cross_entropy(scores, torch.arange(2 * n).roll(n))
    ours = nt_xent(a, b, temperature=temperature)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, [a, b]), torch.autograd.grad(plain, [a, b]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [8, 300])
def test_small_temperatures_stay_finite(dtype, n):
    a, b = (torch.randn(n, 16).to(dtype).requires_grad_() for _ in range(2))
    loss = nt_xent(a, b, temperature=0.005)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert a.grad.isfinite().all()
    assert a.grad.dtype == dtype


def test_one_image_has_no_negatives():
    a, b = torch.randn(2, 1, 4)
    assert nt_xent(a, b, temperature=0.1).abs() < 1e-5


def test_views_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"view_a \(3, 4\) and view_b \(2, 4\)"):
        inspect.unwrap(nt_xent)(torch.randn(3, 4), torch.randn(2, 4), temperature=0.1)
