import pytest
import torch
from torchvision.transforms.v2.functional import rgb_to_grayscale

from sslcore.augment import EvalView, ViewSpec
from sslcore.backbones.views import MatchingEvalView, MatchingRandomView, match_channels

COLOUR = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8)
GREY = COLOUR[:, :1]


def test_channels_are_repeated_or_turned_grey():
    assert torch.equal(match_channels(GREY, 3), GREY.repeat(1, 3, 1, 1))
    difference = match_channels(COLOUR, 1).int() - rgb_to_grayscale(COLOUR).int()
    assert difference.abs().max() <= 1
    torch.testing.assert_close(match_channels(COLOUR.float(), 1), rgb_to_grayscale(COLOUR.float()), rtol=1e-3, atol=0.1)
    assert match_channels(COLOUR, 3) is COLOUR


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("images", [COLOUR, GREY])
def test_views_take_any_channels(images, channels):
    mean, std, ids = [0.4] * channels, [0.2] * channels, torch.arange(3)
    view = MatchingEvalView(8, mean, std, resize=8)
    assert torch.equal(view(images), EvalView(8, mean, std, resize=8)(match_channels(images, channels)))
    assert view.finish(images[..., :8, :8]).shape == (3, channels, 8, 8)
    random = MatchingRandomView(ViewSpec(size=8), mean, std)
    assert random(images, seed=0, step=0, ids=ids, view=0).shape == (3, channels, 8, 8)
    assert random.finish(images[..., :8, :8], seed=0, step=0, ids=ids, view=0).shape == (3, channels, 8, 8)
