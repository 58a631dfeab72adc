"""Flip and colour of training images."""

import torch

from detection.structures import Target
from detection.training.augmenting import augment, flip_boxes
from detection.training.recipe import AugmentSettings


def some(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(8, 10) if i % 2 else (12, 6) for i in range(count)]
    images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    targets = [
        Target(torch.tensor([[1.0, 2, 4, 5]]), torch.tensor([2]), torch.tensor([False]), key=10 + i)
        for i in range(count)
    ]
    return images, targets


def test_a_box_stays_on_its_object():
    image = torch.zeros(3, 6, 10, dtype=torch.uint8)
    image[:, 2:5, 1:4] = 255
    target = Target(torch.tensor([[1.0, 2, 4, 5]]), torch.tensor([2]), torch.tensor([False]), 0)
    (out,), (changed,), (mirrored,) = augment([image], [target], AugmentSettings(flip=1), seed=0, step=0)
    left, top, right, bottom = changed.boxes[0].long().tolist()
    assert mirrored and (left, top, right, bottom) == (6, 2, 9, 5)
    assert out[:, top:bottom, left:right].min() == 1 and out.sum() == 27
    assert target.boxes[0].tolist() == [1, 2, 4, 5]  # the given one is not changed


def test_without_strength_only_the_scale_changes():
    images, targets = some()
    out, changed, mirrored = augment(images, targets, AugmentSettings(flip=0), seed=0, step=0)
    assert not any(mirrored)
    for before, after, a, b in zip(images, out, targets, changed, strict=True):
        torch.testing.assert_close(after, before.float() / 255)
        assert torch.equal(a.boxes, b.boxes)


def test_what_happens_to_an_image_depends_on_seed_step_and_key_alone():
    settings = AugmentSettings(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    images, targets = some()
    whole, boxes, mirrored = augment(images, targets, settings, seed=3, step=5)
    assert 0 < sum(mirrored) < 6
    for i in (4, 1):
        (one,), (box,), _ = augment([images[i]], [targets[i]], settings, seed=3, step=5)
        torch.testing.assert_close(one, whole[i], rtol=0, atol=1e-6)
        assert torch.equal(box.boxes, boxes[i].boxes)
    for where in ({"seed": 4, "step": 5}, {"seed": 3, "step": 6}):
        other = augment(images, targets, settings, **where)[0]
        assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))
    assert all(float(image.min()) >= 0 and float(image.max()) <= 1 for image in whole)


def test_an_image_without_boxes_is_no_special_case():
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    _, (changed,), _ = augment([image], [Target.empty(3)], AugmentSettings(flip=1), seed=0, step=0)
    assert changed.boxes.shape == (0, 4)
    assert flip_boxes(torch.zeros(0, 4), 7).shape == (0, 4)
