import pytest
import torch
from torchvision.transforms.v2 import functional as T

from sslcore.augment import adjust_colour_, adjust_hue_, grayscale_, solarize_

ONE = torch.ones(4)


def images(c=3):
    pixels = torch.rand(4, c, 12, 10)
    pixels[1] = (pixels[1] * 2).round() / 2  # ties between channels, black, white, greys
    return pixels


def each(change, pixels, factors):
    return torch.stack([change(x, float(f)) for x, f in zip(pixels, factors, strict=True)])


FACTORS = [torch.tensor([0.0, 0.6, 1.0, 1.4]), torch.tensor([2.5, 0.1, 0.9, 1.01])]


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("c", [1, 3])
def test_each_factor_alone_is_torchvision_s(factors, c):
    x = images(c)
    brighter = adjust_colour_(x.clone(), factors, ONE, ONE)
    torch.testing.assert_close(brighter, each(T.adjust_brightness, x, factors), rtol=0, atol=1e-6)
    contrasted = adjust_colour_(x.clone(), ONE, factors, ONE)
    torch.testing.assert_close(contrasted, each(T.adjust_contrast, x, factors), rtol=0, atol=2e-5)
    saturated = adjust_colour_(x.clone(), ONE, ONE, factors)
    torch.testing.assert_close(saturated, each(T.adjust_saturation, x, factors), rtol=0, atol=5e-4 if c == 1 else 2e-5)


def test_in_any_order_when_nothing_is_clamped():
    """Why one order is enough: away from black and white the three commute."""
    x = 0.4 + 0.2 * images()
    b, c, s = torch.tensor([[0.8, 0.9, 1.1, 1.2], [0.7, 1.2, 1.0, 0.9], [1.3, 0.6, 1.0, 0.2]])
    ours = adjust_colour_(x.clone(), b, c, s)
    orders = [
        [(T.adjust_brightness, b), (T.adjust_contrast, c), (T.adjust_saturation, s)],
        [(T.adjust_saturation, s), (T.adjust_contrast, c), (T.adjust_brightness, b)],
        [(T.adjust_contrast, c), (T.adjust_brightness, b), (T.adjust_saturation, s)],
    ]
    for order in orders:
        theirs = x
        for change, factors in order:
            theirs = each(change, theirs, factors)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_whole_numbers_are_scaled_on_the_way():
    x = images()
    b, c, s = torch.rand(3, 4) + 0.5
    expected = adjust_colour_(x.clone(), b, c, s)
    torch.testing.assert_close(adjust_colour_(x * 255, b, c, s, peak=255.0), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("turns", [[-0.5, -0.25, -0.1, 0.0], [0.05, 0.1, 0.37, 0.5]])
def test_hue_is_torchvision_s(turns):
    x, turns = images(), torch.tensor(turns)
    torch.testing.assert_close(adjust_hue_(x.clone(), turns), each(T.adjust_hue, x, turns), rtol=0, atol=1e-5)


def test_a_third_of_a_turn_moves_the_channels_on():
    x = images()
    turned = adjust_hue_(x.clone(), torch.full((4,), 1 / 3))
    torch.testing.assert_close(turned, x[:, [2, 0, 1]], rtol=0, atol=1e-5)


def test_greys_have_no_hue():
    grey = images(1)
    assert torch.equal(adjust_hue_(grey.clone(), torch.full((4,), 0.3)), grey)
    three = grey.expand(-1, 3, -1, -1).clone()
    torch.testing.assert_close(adjust_hue_(three.clone(), torch.full((4,), 0.3)), three)


def test_grayscale_and_solarize_change_the_chosen_only():
    x, chosen = images(), torch.tensor([True, False, False, True])
    grey, solarized = grayscale_(x.clone(), chosen), solarize_(x.clone(), chosen)
    torch.testing.assert_close(grey[chosen], T.rgb_to_grayscale(x[chosen], 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(solarized[chosen], T.solarize(x[chosen], 0.5))
    assert torch.equal(grey[~chosen], x[~chosen])
    assert torch.equal(solarized[~chosen], x[~chosen])
    none = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(solarize_(x.clone(), none), x)
