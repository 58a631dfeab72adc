import pytest
import torch
from PIL import Image
from torchvision.transforms import v2 as T

from sslcore.augment import EvalView

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def by_torchvision(images, size, resize):
    steps = [T.Resize(resize, antialias=True), T.CenterCrop(size), T.ToDtype(torch.float32, scale=True)]
    return T.Compose([*steps, T.Normalize(MEAN, STD)])(images)


@pytest.mark.parametrize("shape", [(40, 40), (37, 64), (64, 37), (20, 90)])
@pytest.mark.parametrize(("size", "resize"), [(24, 32), (24, 24), (33, 64)])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_equals_torchvision(shape, size, resize, kind):
    images = torch.randint(0, 256, (3, 3, *shape), dtype=torch.uint8)
    images = images if kind == "uint8" else images.float() / 255
    torch.testing.assert_close(
        EvalView(size, MEAN, STD, resize)(images), by_torchvision(images, size, resize), rtol=0, atol=1e-5
    )


def test_without_resize_images_keep_their_size_unless_too_small():
    images = torch.randint(0, 256, (2, 3, 40, 31), dtype=torch.uint8)
    expected = T.functional.normalize(images[..., 8:32, 4:28].float() / 255, MEAN, STD)
    torch.testing.assert_close(EvalView(24, MEAN, STD)(images), expected)
    torch.testing.assert_close(EvalView(36, MEAN, STD)(images), by_torchvision(images, 36, 36))
    exact = images[..., :31]
    assert EvalView(31, MEAN, STD)(exact[..., :31, :]).shape == (2, 3, 31, 31)


def test_one_channel_and_extreme_shapes():
    view = EvalView(8, [0.5], [0.5], 9)
    for shape in [(1, 1), (3, 500), (500, 3)]:
        assert torch.isfinite(view(torch.randint(0, 256, (2, 1, *shape), dtype=torch.uint8))).all()


@pytest.mark.parametrize("resize", [None, 24, 32])
def test_files_give_the_same_view(resize):
    view = EvalView(24, MEAN, STD, resize)
    image = T.functional.resize(torch.rand(3, 4, 4), [50, 37]).mul(255).byte()
    crop = view.crop_file_image(Image.fromarray(image.permute(1, 2, 0).numpy()))
    restored = (view.finish(crop[None]) - view(image[None])) * torch.tensor(STD)[:, None, None]
    assert restored.abs().max() < 1.5 / 255


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"resize \(20\) is the shorter side before a crop of 24"):
        EvalView(24, MEAN, STD, 20)
    with pytest.raises(ValueError, match="size is a side in pixels"):
        EvalView(0, MEAN, STD)
    with pytest.raises(ValueError, match="24 pixels a side"):
        EvalView(24, MEAN, STD).finish(torch.zeros(1, 3, 25, 25, dtype=torch.uint8))
