import pytest
import torch

from detection.engines.images import ImageTransform
from detection.structures import Target


def transform(min_size=64, max_size=96):
    return ImageTransform(
        min_size=min_size, max_size=max_size, divisible=32, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 2.0)
    )


def test_an_image_of_the_right_size_is_only_normalised_and_padded():
    image = torch.rand(3, 64, 80)
    batch = transform()([image])
    assert batch.tensors.shape == (1, 3, 64, 96)
    assert torch.allclose(batch.tensors[0, 0, :, :80], (image[0] - 0.5) / 0.5)
    assert torch.allclose(batch.tensors[0, 2, :, :80], image[2] / 2)
    assert not batch.tensors[..., 80:].any()
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
    assert batch.to_network(boxes, 0) is boxes
    assert torch.equal(batch.to_original(boxes, 0), boxes)


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((32, 40), (64, 80)),  # the shorter side to 64
        ((100, 400), (24, 96)),  # the longer side allows 96 only
        ((1, 1), (64, 64)),
        ((1, 20000), (1, 96)),  # a row is left
        ((4000, 5000), (64, 80)),
    ],
)
def test_sizes(size, resized):
    assert transform().resized(size) == resized


def test_boxes_go_there_and_back():
    batch = transform()([torch.rand(3, 32, 40), torch.rand(3, 128, 128)])
    assert batch.sizes == [(64, 80), (64, 64)] and batch.tensors.shape == (2, 3, 64, 96)
    assert batch.scale(0) == (2.0, 2.0)
    boxes = torch.tensor([[1.0, 2.0, 30.0, 32.0]])
    assert torch.equal(batch.to_network(boxes, 0), boxes * 2)
    assert torch.equal(batch.to_original(boxes * 2, 0), boxes)
    assert torch.equal(batch.to_original(torch.tensor([[-5.0, 0, 300, 300]]), 1), torch.tensor([[0.0, 0, 128, 128]]))
    targets = [Target(boxes, torch.tensor([2]), torch.tensor([False]), key=7), Target.empty(8)]
    first, second = batch.targets(targets)
    assert torch.equal(first.boxes, boxes * 2) and first.key == 7 and not len(second.boxes)
    assert torch.equal(targets[0].boxes, boxes)
    with pytest.raises(ValueError, match="2 images came with 1 targets"):
        batch.targets(targets[:1])


def test_a_large_photograph_is_averaged_and_not_sampled():
    image = torch.zeros(3, 640, 640)
    image[:, :, ::2] = 1  # columns that a sample at every tenth pixel would miss or hit alone
    batch = transform()([image])
    assert torch.allclose(batch.tensors[0, 0, :, 2:62], torch.zeros(64, 60), atol=0.05)  # (0.5 - mean) / std


def test_mean_and_deviation_travel_in_the_state():
    assert set(transform().state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 8, 8), float("nan")), "image 1 has pixels that are nan or infinite"),
        (torch.full((3, 8, 8), float("inf")), "image 1 has pixels that are nan or infinite"),
        (torch.full((3, 8, 8), 255.0), "image 1 has values from 255 to 255"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "image 1 is torch.uint8"),
        (torch.zeros(1, 8, 8), r"image 1 has shape \(1, 8, 8\)"),
        (torch.zeros(3, 0, 8), r"image 1 has shape \(3, 0, 8\)"),
        (torch.zeros(8, 8), r"image 1 has shape \(8, 8\)"),
    ],
)
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(ValueError, match=message):
        transform()([torch.rand(3, 8, 8), image])


def test_no_image_at_all():
    with pytest.raises(ValueError, match="no image in the batch"):
        transform()([])
