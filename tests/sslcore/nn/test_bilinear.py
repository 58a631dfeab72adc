import pytest
import torch

from sslcore.nn import Bilinear


def test_similarity_is_q_w_k():
    bilinear = Bilinear(3).requires_grad_(False)
    weight = bilinear.weight
    query, key = torch.randn(2, 3), torch.randn(4, 3)
    expected = [[sum(q[i] * weight[i, j] * k[j] for i in range(3) for j in range(3)) for k in key] for q in query]
    torch.testing.assert_close(bilinear(query, key), torch.tensor(expected))
    torch.testing.assert_close(bilinear.project(query) @ key.T, bilinear(query, key))


def test_it_learns_and_starts_uniform_between_0_and_1():
    bilinear = Bilinear(64)
    bilinear(torch.randn(5, 64), torch.randn(5, 64)).diagonal().sum().backward()
    assert bilinear.weight.grad.any()
    weight = bilinear.weight.detach()
    assert 0 <= weight.min() < 0.01
    assert 0.99 < weight.max() < 1
    assert weight.mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_mean_of_the_matrix_does_nothing_after_a_fresh_layer_norm():
    bilinear = Bilinear(50)
    features = torch.nn.LayerNorm(50)(torch.randn(6, 50)).detach()
    centred = Bilinear(50)
    centred.weight.data = bilinear.weight.data - 0.5
    torch.testing.assert_close(bilinear(features, features), centred(features, features), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    bilinear = Bilinear(50)
    query, key = torch.randn(6, 50).to(dtype), torch.randn(7, 50).to(dtype)
    expected = bilinear(query.float(), key.float()), bilinear.project(query.float())
    with torch.autocast("cpu", torch.bfloat16):
        ours = bilinear(query, key), bilinear.project(query)
    torch.testing.assert_close(ours, expected)  # of the same dtype too


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Bilinear(0)
