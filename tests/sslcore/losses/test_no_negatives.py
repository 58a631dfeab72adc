import inspect
import math

import pytest
import torch

from sslcore.losses import negative_cosine, sinkhorn, swapped_prediction

F64 = torch.float64


def test_negative_cosine_equals_the_equation():
    p, z = (torch.randn(5, 4, dtype=F64, requires_grad=True) for _ in range(2))
    expected = -sum(float(a @ b / (a.norm() * b.norm())) for a, b in zip(p.detach(), z.detach(), strict=True)) / 5
    torch.testing.assert_close(negative_cosine(p, z).detach(), torch.tensor(expected, dtype=F64), rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(negative_cosine, (p, z))


def test_negative_cosine_of_half_precision_zeros_is_finite():
    p = torch.zeros(2, 4).half().requires_grad_()
    negative_cosine(p, torch.ones(2, 4).half()).backward()
    assert not p.grad.any()


def sinkhorn_by_loops(scores, epsilon, iterations):
    """SwAV's iteration on plain numbers: rows of Q are prototypes, columns are samples."""
    n, k = scores.shape
    q = [[math.exp(float(scores[i, j]) / epsilon) for i in range(n)] for j in range(k)]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        q = [[x / sum(row) / k for x in row] for row in q]
        columns = [sum(q[j][i] for j in range(k)) for i in range(n)]
        q = [[q[j][i] / columns[i] / n for i in range(n)] for j in range(k)]
    return torch.tensor([[q[j][i] * n for j in range(k)] for i in range(n)], dtype=F64)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_equals_the_definition(iterations):
    scores = torch.rand(7, 4, dtype=F64) * 2 - 1
    ours = sinkhorn(scores, epsilon=0.05, iterations=iterations)
    torch.testing.assert_close(ours, sinkhorn_by_loops(scores, 0.05, iterations), rtol=1e-9, atol=1e-9)


def test_sinkhorn_spreads_rows_evenly_also_with_a_tiny_epsilon():
    scores = torch.rand(64, 8) * 2 - 1
    codes = sinkhorn(scores, epsilon=0.05, iterations=200)
    torch.testing.assert_close(codes.sum(1), torch.ones(64))
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 8.0), rtol=1e-3, atol=1e-3)
    hard = sinkhorn(scores.half(), epsilon=0.001)
    assert hard.isfinite().all()
    torch.testing.assert_close(hard.sum(1), torch.ones(64))


def swapped_by_loops(scores, codes, temperature):
    total, pairs = 0.0, 0
    for s, code in enumerate(codes):
        for v, score in enumerate(scores):
            if s == v:
                continue
            for i in range(len(score)):
                exps = [math.exp(float(x) / temperature) for x in score[i]]
                total -= sum(float(c) * math.log(e / sum(exps)) for c, e in zip(code[i], exps, strict=True)) / len(
                    score
                )
            pairs += 1
    return torch.tensor(total / pairs, dtype=F64)


@pytest.mark.parametrize(("views", "coded"), [(2, 2), (2, 1), (5, 2)])
def test_swapped_prediction_equals_the_equation(views, coded):
    scores = [(torch.rand(6, 4, dtype=F64) * 2 - 1).requires_grad_() for _ in range(views)]
    codes = [sinkhorn(s) for s in scores[:coded]]
    with torch.no_grad():
        ours = swapped_prediction(scores, codes, temperature=0.1)
        torch.testing.assert_close(ours, swapped_by_loops(scores, codes, 0.1), rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(lambda *s: swapped_prediction(s, codes, temperature=0.1), tuple(scores))


def test_codes_are_constants():
    scores = [torch.randn(6, 4, requires_grad=True) for _ in range(2)]
    codes = [torch.full((6, 4), 0.25, requires_grad=True) for _ in range(2)]
    swapped_prediction(scores, codes, temperature=0.1).backward()
    assert codes[0].grad is None
    assert scores[0].grad is not None


def test_small_temperatures_stay_finite():
    scores = [(torch.rand(6, 4) * 2 - 1).half().requires_grad_() for _ in range(2)]
    loss = swapped_prediction(scores, [sinkhorn(s) for s in scores], temperature=0.005)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert scores[0].grad.isfinite().all()


def test_what_does_not_fit_is_named():
    swapped, spread = inspect.unwrap(swapped_prediction), inspect.unwrap(sinkhorn)
    one = torch.randn(3, 4)
    with pytest.raises(ValueError, match="two views"):
        swapped([one], [one], temperature=0.1)
    with pytest.raises(ValueError, match="two views and codes"):
        swapped([one, one], [], temperature=0.1)
    with pytest.raises(ValueError, match="same shape"):
        swapped([one, one[:2]], [one], temperature=0.1)
    with pytest.raises(ValueError, match="must be positive"):
        spread(one, epsilon=0.0)
