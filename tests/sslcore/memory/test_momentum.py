import math

import pytest
import torch
from torch import nn

from sslcore.memory import MomentumEncoder, cosine_momentum
from sslcore.memory import momentum as momentum_file


def encoder(dtype=torch.float32):
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).to(dtype)


def disturb(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_momentum_is_the_weight_of_the_old_value():
    online = encoder()
    ours = MomentumEncoder(online, 0.9)
    for momentum in (None, 0.5, 0.0, 1.0):
        disturb(online)
        m = 0.9 if momentum is None else momentum
        expected = [m * old + (1 - m) * new for old, new in zip(ours.module.parameters(), online.parameters())]
        ours.update(online, momentum)
        for parameter, value in zip(ours.module.parameters(), expected):
            torch.testing.assert_close(parameter.detach(), value.detach())


def test_it_starts_as_an_independent_copy_without_gradient():
    online = encoder()
    ours = MomentumEncoder(online, 0.9)
    before = [p.clone() for p in ours.parameters()]
    disturb(online)
    assert all(torch.equal(a, b) for a, b in zip(before, ours.parameters(), strict=True))
    assert not any(p.requires_grad for p in ours.parameters())
    assert all(p.requires_grad for p in online.parameters())
    assert not ours(torch.randn(5, 3, requires_grad=True)).requires_grad


def test_updates_write_in_place():
    online = encoder()
    ours = MomentumEncoder(online, 0.9, buffers="ema")
    pointers = [t.data_ptr() for t in ours.state_dict().values()]
    ours.update(online)
    assert [t.data_ptr() for t in ours.state_dict().values()] == pointers


def test_buffers_follow_the_rule():
    online = encoder()
    ours = {rule: MomentumEncoder(online, 0.75, buffers=rule) for rule in ("own", "copy", "ema")}
    online(3 * torch.randn(16, 3) + 1)
    online(torch.randn(16, 3))
    mean = online[1].running_mean
    for copy in ours.values():
        copy.update(online)
    assert not ours["own"].module[1].running_mean.any()
    assert ours["own"].module[1].num_batches_tracked == 0
    assert torch.equal(ours["copy"].module[1].running_mean, mean)
    assert ours["copy"].module[1].num_batches_tracked == 2
    torch.testing.assert_close(ours["ema"].module[1].running_mean, 0.25 * mean)
    assert ours["ema"].module[1].num_batches_tracked == 2


def test_own_statistics_are_of_what_the_copy_sees_in_train_mode():
    ours = MomentumEncoder(encoder(), 0.9)
    ours(torch.randn(8, 3) + 5)
    assert ours.module[1].running_mean.any()
    seen = ours.module[1].running_mean.clone()
    ours.eval()
    ours(torch.randn(8, 3) + 5)
    assert torch.equal(ours.module[1].running_mean, seen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_average_of_half_precision_weights_still_moves(dtype):
    online = encoder(dtype)
    ours = MomentumEncoder(online, 0.999)
    start = [p.detach().float() for p in ours.module.parameters()]
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(0.5)
    for _ in range(100):
        ours.update(online)
    for before, after, goal in zip(start, ours.module.parameters(), online.parameters(), strict=True):
        assert after.dtype == dtype
        expected = goal.float() + 0.999**100 * (before - goal.float())
        torch.testing.assert_close(after.detach().float(), expected.detach(), atol=1e-2, rtol=1e-2)
        assert (after.float() - before).abs().min() > 0.02  # of 0.5; 100 roundings to nearest would have kept it at 0


def test_casting_afterwards_keeps_the_averages_in_float32_and_back():
    online = encoder()
    ours = MomentumEncoder(online, 0.999).bfloat16()
    averages = [b for name, b in ours.named_buffers() if name.startswith("average_")]
    assert len(averages) == 6
    ours.bfloat16()
    assert all(b.dtype == torch.float32 for name, b in ours.named_buffers() if name.startswith("average_"))
    ours.update(online)  # float32 weights into a bfloat16 copy
    assert next(ours.module.parameters()).dtype == torch.bfloat16
    ours.float()
    assert not any(name.startswith("average_") for name, _ in ours.named_buffers())


def test_weights_of_several_types_are_grouped():
    online = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double(), nn.Linear(2, 2)])
    ours = MomentumEncoder(online, 0.5)
    disturb(online)
    expected = [(a + b) / 2 for a, b in zip(ours.module.parameters(), online.parameters())]
    ours.update(online)
    for parameter, value in zip(ours.module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value.detach())
    weights = list(online.parameters())
    groups = momentum_file._alike(weights, weights)
    assert sorted(len(group[0]) for group in groups) == [2, 4]


def test_an_update_never_waits_for_the_device():
    """On the meta device nothing has a value, so that reading one back raises."""
    online = encoder().to("meta")
    MomentumEncoder(online, 0.9, buffers="ema").update(online)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_copy_continues_alike(dtype):
    online = encoder(dtype)
    ours, copy = MomentumEncoder(online, 0.99, buffers="ema"), MomentumEncoder(encoder(dtype), 0.99, buffers="ema")
    disturb(online)
    ours.update(online)
    copy.load_state_dict(ours.state_dict())
    disturb(online)
    ours.update(online), copy.update(online)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, copy.state_dict()[name]), name


def test_another_network_is_refused():
    ours = MomentumEncoder(encoder(), 0.9)
    with pytest.raises(ValueError, match="weights are not those that were copied"):
        ours.update(nn.Linear(3, 4))
    online = encoder()
    online.register_buffer("extra", torch.zeros(1))
    ours.update(online)  # its own buffers are nobody else's business
    with pytest.raises(ValueError, match="buffers are not those that were copied"):
        MomentumEncoder(encoder(), 0.9, buffers="copy").update(online)


def test_momentum_outside_its_range_is_refused():
    for momentum in (-0.1, 1.5):
        with pytest.raises(ValueError, match="weight of the old value"):
            MomentumEncoder(encoder(), momentum)
        with pytest.raises(ValueError, match="weight of the old value"):
            MomentumEncoder(encoder(), 0.5).update(encoder(), momentum)


def test_the_momentum_rises_along_a_cosine():
    assert cosine_momentum(0.99, 0.0) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 0.5) == pytest.approx(0.995)
    assert cosine_momentum(0.99, 1.0) == 1.0
    assert cosine_momentum(0.9, 0.25, final=0.98) == pytest.approx(0.98 - 0.08 * (1 + math.cos(math.pi / 4)) / 2)
    with pytest.raises(ValueError, match="share of training"):
        cosine_momentum(0.99, 37.0)
