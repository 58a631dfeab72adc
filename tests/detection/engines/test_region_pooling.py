from collections import OrderedDict

import pytest
import torch

from detection.engines.region_pooling import RegionPool

STRIDES = (4, 8, 16)


def maps(dtype=torch.float64):
    torch.manual_seed(0)
    return OrderedDict(
        (str(i), torch.randn(3, 5, 64 // s, 96 // s, dtype=dtype, requires_grad=True)) for i, s in enumerate(STRIDES)
    )


def boxes():
    """Of all sizes, over the border, outside, without area; one image without a region."""
    torch.manual_seed(1)
    corner = torch.rand(40, 2) * 90 - 10
    some = torch.cat([corner, corner + torch.rand(40, 2) ** 3 * 80], dim=1)
    some[0, 2:] = some[0, :2]
    some[1] = torch.tensor([0.0, 0.0, 96.0, 64.0])
    some[2] = torch.tensor([500.0, 500.0, 600.0, 600.0])
    return [some[:25], some[:0], some[25:]]


@pytest.mark.parametrize("points", [1, 2])
def test_values_and_gradients_are_those_of_torchvision(points):
    pool = RegionPool(["0", "1", "2"], STRIDES, side=7, points=points, canonical=40)
    levels = pool.torchvisions.map_levels(boxes())
    assert set(levels.tolist()) == {0, 1, 2}
    mine, theirs = maps(torch.float32), maps(torch.float32)
    got = pool({**mine, "unused": None}, boxes())
    wanted = pool.torchvisions(theirs, boxes(), [(64, 96)] * 3)
    assert got.shape == wanted.shape == (40, 5, 7, 7)
    assert torch.allclose(got, wanted, atol=1e-4)
    weights = torch.randn_like(got)
    (got * weights).sum().backward()
    (wanted * weights).sum().backward()
    for a, b in zip(mine.values(), theirs.values()):
        assert torch.allclose(a.grad, b.grad, atol=1e-3)


def test_a_large_region_comes_from_a_coarse_map():
    """From `canonical` pixels on from the third map, from half of it on from the second."""
    pool = RegionPool(["0", "1", "2"], STRIDES, side=2, points=1, canonical=40)
    constant = OrderedDict((str(i), torch.full((1, 1, 64 // s, 64 // s), float(i))) for i, s in enumerate(STRIDES))
    sides = [10.0, 19.0, 21.0, 39.0, 41.0, 60.0]
    found = pool(constant, [torch.tensor([[0.0, 0.0, s, s] for s in sides])])
    assert found.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0, 0, 1, 1, 2, 2])


def test_a_ramp_is_read_at_the_bins_centres():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    pool = RegionPool(["0"], [4], side=2, points=1, canonical=40)
    found = pool(OrderedDict([("0", ramp)]), [torch.tensor([[8.0, 8.0, 24.0, 24.0]])])
    assert found[0, 0].tolist() == [[3.0, 5.0], [3.0, 5.0]]  # columns 2 to 6, bins of 2


def test_no_region_at_all():
    pool = RegionPool(["0", "1", "2"], STRIDES, side=7, points=2, canonical=40)
    assert pool(maps(), [torch.zeros(0, 4)] * 3).shape == (0, 5, 7, 7)


def test_half_precision_maps_are_read_in_single_precision():
    pool = RegionPool(["0", "1", "2"], STRIDES, side=7, points=2, canonical=40)
    half = OrderedDict((name, m.detach().bfloat16()) for name, m in maps().items())
    assert pool(half, boxes()).dtype == torch.float32
