import pytest
import torch
from torch import nn

from sslcore.nn import SplitBatchNorm2d, build_backbone, split_batch_norms


def part_by_part(x, splits, norms):
    """The definition: one batch norm for each part, on the samples j, j + splits, ..."""
    out = torch.empty_like(x)
    for j in range(splits):
        out[j::splits] = norms[j](x[j::splits])
    return out


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_equals_one_batch_norm_per_part(momentum, memory_format):
    splits, channels = 3, 4
    ours = SplitBatchNorm2d(channels, splits, momentum=momentum)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.uniform_(-1, 1)
    for _ in range(2):
        norms = [nn.BatchNorm2d(channels, momentum=momentum) for _ in range(splits)]
        for norm in norms:
            norm.load_state_dict(ours.state_dict())
        x = (torch.randn(6, channels, 5, 3) * 2 + 1).to(memory_format=memory_format)
        expected, found = part_by_part(x, splits, norms), ours(x)
        torch.testing.assert_close(found, expected)
        for name in ("running_mean", "running_var"):
            mean = torch.stack([getattr(norm, name) for norm in norms]).mean(0)
            torch.testing.assert_close(getattr(ours, name), mean)
        assert ours.num_batches_tracked == norms[0].num_batches_tracked


def test_gradients_equal_those_of_one_batch_norm_per_part():
    ours, norm = SplitBatchNorm2d(2, 2).double(), nn.BatchNorm2d(2).double()
    x, y = (torch.randn(4, 2, 3, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    weights = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    (ours(x) * weights).sum().backward()
    (part_by_part(y, 2, [norm, norm]) * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, norm.weight.grad)
    torch.testing.assert_close(ours.bias.grad, norm.bias.grad)


def test_in_eval_mode_it_is_batch_norm():
    ours, norm = SplitBatchNorm2d(4, 3), nn.BatchNorm2d(4)
    ours(torch.randn(6, 4, 2, 2) + 3)
    norm.load_state_dict(ours.state_dict())
    x = torch.randn(5, 4, 2, 2)  # 5 is not a multiple of 3, and need not be
    assert torch.equal(ours.eval()(x), norm.eval()(x))


def test_without_running_statistics_or_weights():
    ours = SplitBatchNorm2d(4, 2, affine=False, track_running_stats=False)
    x = torch.randn(4, 4, 2, 2)
    norm = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    torch.testing.assert_close(ours(x), part_by_part(x, 2, [norm, norm]))
    torch.testing.assert_close(ours.eval()(x), part_by_part(x, 2, [norm, norm]))


def test_conversion_keeps_weights_statistics_and_names():
    backbone = build_backbone("tiny", width=4)
    backbone(torch.randn(4, 3, 32, 32))
    before, parameters = backbone.state_dict(), list(backbone.parameters())
    before = {key: value.clone() for key, value in before.items()}
    converted = split_batch_norms(backbone, 2)
    assert converted is backbone
    assert {key: value.tolist() for key, value in converted.state_dict().items()} == {
        key: value.tolist() for key, value in before.items()
    }
    assert all(a is b for a, b in zip(parameters, converted.parameters(), strict=True))
    norms = [m for m in converted.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 6
    assert all(isinstance(norm, SplitBatchNorm2d) and norm.splits == 2 for norm in norms)


def test_conversion_of_a_lone_norm_keeps_its_settings():
    norm = nn.BatchNorm2d(3, eps=0.1, momentum=None, affine=False).eval()
    ours = split_batch_norms(norm, 4)
    assert isinstance(ours, SplitBatchNorm2d)
    assert (ours.eps, ours.momentum, ours.affine, ours.training) == (0.1, None, False, False)


def test_samples_of_other_parts_do_not_matter():
    ours = SplitBatchNorm2d(2, 2)
    x = torch.randn(4, 2, 3, 3)
    changed = x.clone()
    changed[1::2] += 10
    torch.testing.assert_close(ours(changed)[::2], ours(x)[::2])


def test_batches_that_cannot_be_split_are_refused():
    with pytest.raises(ValueError, match="a batch of 5 cannot be split into 2 equal parts"):
        SplitBatchNorm2d(2, 2)(torch.randn(5, 2, 3, 3))
    with pytest.raises(ValueError, match="at least 1"):
        SplitBatchNorm2d(2, 0)
