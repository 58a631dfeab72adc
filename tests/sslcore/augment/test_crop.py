import math

import pytest
import torch

from sslcore.augment.crop import DRAWS, crop_box, crop_boxes
from sslcore.random import uniform, uniform_row

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def boxes_of(n, height, width, scale=SCALE, ratio=RATIO, seed=0):
    draws = uniform(seed, 0, torch.arange(n), stream=0, draws=DRAWS)
    return crop_boxes(draws, height, width, scale=scale, ratio=ratio)


@pytest.mark.parametrize("shape", [(32, 32), (400, 400), (375, 500), (1, 1), (3, 500), (500, 3), (2, 2), (4000, 6000)])
def test_the_scalar_form_gives_the_same_boxes(shape):
    boxes = boxes_of(2000, *shape)
    for i in range(0, 2000, 7):
        draws = uniform_row(0, 0, i, stream=0, draws=DRAWS)
        assert crop_box(draws, *shape, scale=SCALE, ratio=RATIO) == tuple(boxes[i].tolist())


@pytest.mark.parametrize("shape", [(32, 32), (375, 500), (1, 1), (3, 500), (500, 3), (1, 900)])
@pytest.mark.parametrize("scale", [SCALE, (0.0, 0.01), (1.0, 1.0)])
def test_boxes_lie_inside(shape, scale):
    top, left, h, w = boxes_of(3000, *shape, scale=scale).unbind(dim=1)
    assert min(top.min(), left.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h).max() <= shape[0]
    assert (left + w).max() <= shape[1]


def test_areas_and_ratios_are_drawn_as_stated():
    """Small boxes always fit, so nothing is rejected: areas are uniform, log ratios too, places fill the image."""
    top, left, h, w = boxes_of(20000, 2000, 2000, scale=(0.01, 0.05)).double().unbind(dim=1)
    area, log_ratio = h * w / 4e6, torch.log(w / h)
    assert abs(area.mean() - 0.03) < 5 * 0.04 / math.sqrt(12 * 20000)
    assert abs(area.std() - 0.04 / math.sqrt(12)) < 2e-4
    assert abs(log_ratio.mean()) < 5 * 2 * math.log(4 / 3) / math.sqrt(12 * 20000)
    assert abs(log_ratio.std() - 2 * math.log(4 / 3) / math.sqrt(12)) < 2e-3
    for place, side in ((top, h), (left, w)):
        fraction = (place + 0.5) / (2000 - side + 1)
        assert abs(fraction.mean() - 0.5) < 0.01
        assert abs(fraction.std() - 1 / math.sqrt(12)) < 0.01


def test_every_place_of_a_small_image_is_reached():
    top, left, h, w = boxes_of(4000, 4, 4, scale=(0.25, 0.25), ratio=(1.0, 1.0)).unbind(dim=1)
    assert set(zip(top.tolist(), left.tolist(), strict=True)) == {(i, j) for i in range(3) for j in range(3)}
    assert (h == 2).all()
    assert (w == 2).all()


def test_a_box_that_never_fits_becomes_the_largest_central_one():
    assert boxes_of(1, 100, 1000, scale=(1.0, 1.0)).tolist() == [[0, 433, 100, 133]]
    assert boxes_of(1, 1000, 100, scale=(1.0, 1.0)).tolist() == [[433, 0, 133, 100]]
