import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from sslcore.pretrain.optim import LARS, build_optimizer, build_schedule, warmup_cosine
from sslcore.pretrain.recipe import OptimizerSettings


def lars_by_loops(weight, grads, lr, momentum, decay, trust):
    """The definition, one step and one tensor at a time."""
    velocity = torch.zeros_like(weight)
    for grad in grads:
        grad = grad + decay * weight
        norms = weight.norm(), grad.norm()
        ratio = trust * norms[0] / norms[1] if norms[0] > 0 and norms[1] > 0 else 1.0
        velocity = momentum * velocity + ratio * grad
        weight = weight - lr * velocity
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_equals_the_definition(decay):
    start, grads = torch.randn(3, 4, dtype=torch.float64), list(torch.randn(5, 3, 4, dtype=torch.float64))
    weight = nn.Parameter(start.clone())
    optimizer = LARS([weight], 0.5, momentum=0.9, weight_decay=decay, trust=0.02)
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
    torch.testing.assert_close(weight.data, lars_by_loops(start, grads, 0.5, 0.9, decay, 0.02), rtol=1e-12, atol=0)


def test_lars_moves_a_zero_weight_by_the_plain_gradient():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, -2.0])
    LARS([weight], 0.1, trust=0.001).step()
    torch.testing.assert_close(weight.data, torch.tensor([-0.1, 0.2]))


def test_lars_without_adaptation_is_sgd():
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ours = LARS([{"params": [a], "adapt": False}], 0.1, momentum=0.9, weight_decay=0.01)
    sgd = torch.optim.SGD([b], 0.1, momentum=0.9, weight_decay=0.01)
    for grad in torch.randn(4, 3):
        a.grad, b.grad = grad.clone(), grad.clone()
        ours.step(), sgd.step()
    torch.testing.assert_close(a.data, b.data)


def test_norms_and_biases_are_left_out_of_decay_and_scaling_when_asked():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    settings = OptimizerSettings(name="lars", weight_decay=0.5, exclude_norm_and_bias=True)
    matrices, vectors = build_optimizer(model, settings, lr=0.1).param_groups
    assert [p.ndim for p in matrices["params"]] == [2] and {p.ndim for p in vectors["params"]} == {1}
    assert matrices["weight_decay"] == 0.5 and matrices["adapt"]
    assert vectors["weight_decay"] == 0.0 and not vectors["adapt"]


def test_frozen_parameters_are_not_given_to_the_optimiser():
    model = nn.Linear(3, 4).requires_grad_(False)
    model.bias.requires_grad_(True)
    (group,) = build_optimizer(model, OptimizerSettings(), lr=0.1).param_groups
    assert group["params"] == [model.bias]


def test_the_schedule_rises_linearly_and_falls_along_a_cosine():
    factor = [warmup_cosine(step, warmup=4, total=12, final=0.1) for step in range(13)]
    assert factor[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factor[8] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert factor[12] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(factor[4:]))


def test_the_final_rate_is_stated_in_the_recipes_units():
    settings = OptimizerSettings(lr=0.3, final_lr=0.003, warmup_epochs=1)
    optimizer = build_optimizer(nn.Linear(2, 2), settings, lr=0.6)
    schedule = build_schedule(optimizer, settings, steps_per_epoch=2, total=10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), schedule.step()
    assert rates[0] == pytest.approx(0.3) and rates[1] == pytest.approx(0.6)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.006)
