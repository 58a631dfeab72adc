import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as T

from sslcore.augment import resize_crops
from sslcore.augment.resize import _by_matrices, _by_sample, resize_matrix

BOXES = [(0, 0, 40, 30), (3, 5, 20, 17), (39, 29, 1, 1), (0, 7, 40, 2), (10, 0, 3, 30), (2, 2, 24, 24)]


def by_torchvision(images, boxes, size):
    return torch.stack([T.resized_crop(x, *box, [size, size], antialias=True) for x, box in zip(images, boxes)])


@pytest.mark.parametrize("size", [1, 8, 24, 48, 64])
@pytest.mark.parametrize("c", [1, 3])
def test_both_forms_equal_torchvision_on_floats(size, c):
    images, boxes = torch.rand(len(BOXES), c, 40, 30), torch.tensor(BOXES)
    expected = by_torchvision(images, BOXES, size)
    dense = _by_matrices(images, boxes, size, None, torch.float32)
    torch.testing.assert_close(dense, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(_by_sample(images, boxes, size, None), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("c", [1, 3])
def test_whole_numbers(channels_last, c):
    images, boxes = torch.randint(0, 256, (len(BOXES), c, 40, 30), dtype=torch.uint8), torch.tensor(BOXES)
    expected = by_torchvision(images, BOXES, 24).float()
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(_by_sample(images, boxes, 24, None), expected)
    # torchvision rounds twice, once a direction.
    assert (_by_matrices(images, boxes, 24, None, torch.float32) - expected).abs().max() <= 1.01


def test_bfloat16_is_as_exact_as_its_three_digits():
    images, boxes = torch.randint(0, 256, (len(BOXES), 3, 40, 30), dtype=torch.uint8), torch.tensor(BOXES)
    exact = _by_matrices(images, boxes, 24, None, torch.float32)
    error = _by_matrices(images, boxes, 24, None, torch.bfloat16) - exact
    assert error.abs().max() < 2.5
    assert error.abs().mean() < 0.5


@pytest.mark.parametrize("size", [24, 64])
def test_flip_mirrors_the_chosen(size):
    images, boxes = torch.rand(len(BOXES), 3, 40, 30), torch.tensor(BOXES)
    flip = torch.tensor([True, False] * 3)
    plain, flipped = resize_crops(images, boxes, size), resize_crops(images, boxes, size, flip)
    torch.testing.assert_close(flipped[flip], plain[flip].flip(-1), rtol=0, atol=1e-5)
    assert torch.equal(flipped[~flip], plain[~flip])


def test_a_box_sees_nothing_outside_itself():
    images = torch.full((1, 1, 40, 40), torch.nan)
    images[:, :, 10:20, 10:20] = 1.0
    inside = resize_matrix(torch.tensor([10]), torch.tensor([10]), 40, 24)
    assert not inside[:, :, :10].any()
    assert not inside[:, :, 20:].any()
    torch.testing.assert_close(inside.sum(dim=2), torch.ones(1, 24))
    assert torch.equal(_by_sample(images, torch.tensor([[10, 10, 10, 10]]), 24, None), torch.ones(1, 1, 24, 24))


def test_the_size_of_images_decides_the_form_and_both_agree():
    images, boxes = torch.rand(3, 3, 60, 60), torch.tensor([[0, 0, 60, 60], [5, 9, 31, 44], [20, 20, 16, 16]])
    large = resize_crops(images, boxes, 32)
    torch.testing.assert_close(large, _by_matrices(images, boxes, 32, None, torch.float32), rtol=0, atol=1e-5)
    whole = F.interpolate(images[:1], (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(large[:1], whole)
