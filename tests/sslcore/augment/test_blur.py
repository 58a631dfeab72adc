import pytest
import torch
from torchvision.transforms.v2 import functional as T

from sslcore.augment import gaussian_blur
from sslcore.augment.blur import blur_radius


@pytest.mark.parametrize(("shape", "radius"), [((20, 31), 3), ((9, 9), 8), ((40, 24), 1)])
def test_equals_torchvision_sample_by_sample(shape, radius):
    x, sigma = torch.rand(3, 3, *shape), torch.tensor([0.1, 0.9, 2.0])
    kernel = [2 * radius + 1] * 2
    expected = torch.stack([T.gaussian_blur(x[i], kernel, [float(sigma[i])] * 2) for i in range(3)])
    torch.testing.assert_close(gaussian_blur(x, sigma, radius=radius), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3)])
def test_kernels_wider_than_the_image_keep_its_range(shape):
    x = torch.rand(2, 1, *shape)
    blurred = gaussian_blur(x, torch.tensor([0.5, 3.0]), radius=12)
    assert torch.isfinite(blurred).all()
    assert blurred.min() >= x.min() - 1e-6
    assert blurred.max() <= x.max() + 1e-6


def test_sigma_zero_leaves_the_image():
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(gaussian_blur(x, torch.zeros(2), radius=2), x)


def test_a_flat_image_stays_flat():
    flat = torch.full((1, 1, 10, 10), 0.7)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([1.5]), radius=blur_radius(1.5)), flat)


def test_four_standard_deviations():
    assert [blur_radius(sigma) for sigma in (0.1, 1.0, 2.0)] == [1, 4, 8]
