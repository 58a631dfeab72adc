import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as T

from sslcore.augment import EvalView, RandomView, ViewSpec, crop_file_image
from sslcore.augment import view as view_module
from sslcore.pretrain.recipe import ViewSettings

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
EVERYTHING = ViewSpec(size=24, blur=0.5, blur_sigma=(0.5, 8.0), solarize=0.3)
PLAIN = ViewSpec(size=24, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0)


def photos(n=6, c=3, height=40, width=36):
    """Smooth colours, as photographs have, so that rounding and not noise decides the differences."""
    coarse = torch.rand(n, c, 5, 5)
    return (T.resize(coarse, [height, width], antialias=True).clamp(0, 1) * 255).byte()


def view_of(spec=EVERYTHING, c=3):
    return RandomView(spec, MEAN[:c], STD[:c])


def restore(views):
    """Undo the normalisation."""
    c = views.shape[1]
    return views * torch.tensor(STD[:c])[:, None, None] + torch.tensor(MEAN[:c])[:, None, None]


def test_the_spec_is_the_recipe_s():
    settings = ViewSettings().model_dump(exclude={"count"})
    assert dataclasses.asdict(ViewSpec(**settings)) == settings


# --- a view is a function of (seed, step, id, view) alone -----------------------------------------------------------


@pytest.mark.parametrize("size", [24, 96])  # both ways of resizing
def test_a_sample_alone_is_the_sample_in_any_batch(size):
    view = view_of(dataclasses.replace(EVERYTHING, size=size))
    images, ids = photos(), torch.tensor([3, 99, 7, 0, 12345, 8])
    batch = view(images, seed=1, step=2, ids=ids, view=0)
    for i in range(len(ids)):
        alone = view(images[i : i + 1], seed=1, step=2, ids=ids[i : i + 1], view=0)
        torch.testing.assert_close(alone[0], batch[i], rtol=0, atol=1e-5)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    again = view(images[order], seed=1, step=2, ids=ids[order], view=0)
    torch.testing.assert_close(again, batch[order], rtol=0, atol=1e-5)
    halves = [view(images[rows], seed=1, step=2, ids=ids[rows], view=0) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(halves), batch, rtol=0, atol=1e-5)


def test_the_same_call_gives_the_same_bits_and_draws_nothing_from_torch():
    images, ids = photos(), torch.arange(6)
    before = torch.get_rng_state()
    first, second = (view_of()(images, seed=1, step=2, ids=ids, view=0) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 3}, {"view": 1}, {"ids": torch.arange(6) + 6}])
def test_another_seed_step_view_or_id_gives_another_view(change):
    images = photos()
    arguments = {"seed": 1, "step": 2, "ids": torch.arange(6), "view": 0}
    base, other = view_of()(images, **arguments), view_of()(images, **{**arguments, **change})
    assert ((base - other).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_large_batches_are_the_same_in_pieces():
    images, ids = photos(700, height=26, width=26), torch.arange(700)  # several chunks
    assert len(view_module._chunks(images, EVERYTHING.size)) > 1
    batch = view_of()(images, seed=0, step=0, ids=ids, view=0)
    torch.testing.assert_close(view_of()(images[666:], seed=0, step=0, ids=ids[666:], view=0), batch[666:])


@pytest.mark.parametrize("size", [24, 96])  # both ways of resizing
def test_chunks_and_threads_change_nothing(size, monkeypatch):
    view = view_of(dataclasses.replace(EVERYTHING, size=size))
    images, ids = photos(48), torch.arange(48)
    whole = view(images, seed=0, step=0, ids=ids, view=0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.testing.assert_close(view(images, seed=0, step=0, ids=ids, view=0), whole, rtol=0, atol=0)
        monkeypatch.setattr(view_module, "_CHUNK_ON_CPU", 5 * 3 * size * size)
        assert len(view_module._chunks(images, size)) == 10
        torch.testing.assert_close(view(images, seed=0, step=0, ids=ids, view=0), whole, rtol=0, atol=1e-5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_inputs_are_left_as_they_were():
    for images in (photos(), photos().float() / 255):
        kept = images.clone()
        view_of()(images, seed=0, step=0, ids=torch.arange(6), view=0)
        assert torch.equal(images, kept)
    crops = photos(height=24, width=24)
    kept = crops.clone()
    view_of().finish(crops, seed=0, step=0, ids=torch.arange(6), view=0)
    assert torch.equal(crops, kept)


# --- the whole equals torchvision's functions, one after the other --------------------------------------------------


def by_torchvision(view, image, seed, step, sample_id, number):
    """The same parameters through torchvision, in the order the module states."""
    spec = view.spec
    draws = view._draw(seed, step, torch.tensor([sample_id]), number)
    top, left, h, w = view.crop_box(seed, step, sample_id, number, *image.shape[-2:])
    x = T.resized_crop(image.float() / 255, top, left, h, w, [spec.size, spec.size], antialias=True)
    x = T.horizontal_flip(x) if draws.flip else x
    # Blends not clamped in between, as one linear map.
    luma = torch.tensor([0.2989, 0.587, 0.114])
    x = x * draws.brightness
    x = draws.contrast * x + (1 - draws.contrast) * (x.mean(dim=(1, 2)) @ luma)
    x = draws.saturation * x + (1 - draws.saturation) * torch.einsum("c,chw->hw", luma, x)
    x = T.adjust_hue(x.clamp(0, 1), float(draws.hue))
    x = T.rgb_to_grayscale(x, num_output_channels=3) if draws.grey else x
    radius = -int(-4 * spec.blur_sigma[1] * spec.size // 224)
    x = T.gaussian_blur(x, [2 * radius + 1] * 2, [float(draws.sigma)] * 2) if draws.blur else x
    x = T.solarize(x, 0.5) if draws.solarize else x
    return T.normalize(x, MEAN, STD)


@pytest.mark.parametrize("size", [24, 60])
def test_views_are_torchvision_s(size):
    view = view_of(dataclasses.replace(EVERYTHING, size=size, solarize=0.0))
    images, ids = photos(32), torch.arange(32)
    views = view(images.float() / 255, seed=4, step=1, ids=ids, view=2)
    for i in range(32):
        torch.testing.assert_close(views[i], by_torchvision(view, images[i], 4, 1, i, 2), rtol=0, atol=1e-4)


def test_uint8_and_float_images_differ_by_rounding_only():
    for size in (24, 60):
        view = view_of(dataclasses.replace(EVERYTHING, size=size, hue=0.0, solarize=0.0))
        images, ids = photos(), torch.arange(6)
        whole = restore(view(images, seed=0, step=0, ids=ids, view=0))
        fraction = restore(view(images.float() / 255, seed=0, step=0, ids=ids, view=0))
        assert (whole - fraction).abs().max() < 2 / 255


def test_values_stay_within_black_and_white():
    views = restore(view_of()(photos(64), seed=0, step=0, ids=torch.arange(64), view=0))
    assert views.min() > -1e-5
    assert views.max() < 1 + 1e-5


# --- probabilities and strengths ------------------------------------------------------------------------------------


def test_with_all_probabilities_zero_nothing_is_left_but_the_crop():
    images = photos(height=36)
    views = view_of(PLAIN)(images, seed=0, step=0, ids=torch.arange(6), view=0)
    expected = T.normalize(T.resize(images.float() / 255, [24, 24], antialias=True), MEAN, STD)
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-4)


def test_probability_one_is_always():
    images, ids = photos(32, height=24, width=24), torch.arange(32)
    base = restore(view_of(PLAIN)(images, seed=0, step=0, ids=ids, view=0))

    def only(**change):
        return restore(view_of(dataclasses.replace(PLAIN, **change))(images, seed=0, step=0, ids=ids, view=0))

    torch.testing.assert_close(only(flip=1.0), base.flip(-1))
    torch.testing.assert_close(only(grayscale=1.0), T.rgb_to_grayscale(base, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(only(solarize=1.0), T.solarize(base, 0.5), rtol=0, atol=1e-5)
    jittered = only(jitter=1.0, brightness=0.4, contrast=0.0, saturation=0.0, hue=0.0)
    assert ((jittered - base).abs().amax(dim=(1, 2, 3)) > 1e-3).all()
    blurred = only(blur=1.0, blur_sigma=(18.0, 18.0))
    assert (blurred.std(dim=(2, 3)) < base.std(dim=(2, 3))).all()


@pytest.mark.parametrize(("name", "field"), [("flip", "flip"), ("grayscale", "grey"), ("solarize", "solarize")])
def test_a_probability_is_a_frequency(name, field):
    chosen = getattr(view_of(ViewSpec(**{name: 0.3}))._draw(0, 0, torch.arange(20000), 0), field)
    assert abs(chosen.float().mean() - 0.3) < 0.015


def test_strengths_are_ranges_of_factors():
    spec = ViewSpec(jitter=1.0, brightness=0.4, contrast=1.5, saturation=0.0, hue=0.1, blur_sigma=(0.1, 2.0), size=112)
    draws = view_of(spec)._draw(0, 0, torch.arange(20000), 0)
    for values, low, high in [
        (draws.brightness, 0.6, 1.4),
        (draws.contrast, 0.0, 2.5),
        (draws.saturation, 1.0, 1.0),
        (draws.hue, -0.1, 0.1),
        (draws.sigma, 0.05, 1.0),
    ]:
        torch.testing.assert_close(values.min(), torch.tensor(low), rtol=0, atol=2e-3)
        torch.testing.assert_close(values.max(), torch.tensor(high), rtol=0, atol=2e-3)
        torch.testing.assert_close(values.mean(), torch.tensor((low + high) / 2), rtol=0, atol=0.03)


# --- kinds of images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 60])
@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (500, 3), (61, 2)])
@pytest.mark.parametrize("c", [1, 3])
def test_extreme_shapes(size, shape, c):
    view = view_of(dataclasses.replace(EVERYTHING, size=size), c)
    views = view(photos(4, c, *shape), seed=0, step=0, ids=torch.arange(4), view=0)
    assert views.shape == (4, c, size, size)
    assert torch.isfinite(views).all()


def test_one_channel_is_the_grey_of_three():
    """Brightness and contrast act alike on a grey image, with one channel or the same three times."""
    spec = dataclasses.replace(EVERYTHING, hue=0.0)
    grey, ids = photos(c=1), torch.arange(6)
    one = RandomView(spec, [0.5], [0.25])(grey, seed=0, step=0, ids=ids, view=0)
    three = RandomView(spec, [0.5] * 3, [0.25] * 3)(grey.expand(-1, 3, -1, -1), seed=0, step=0, ids=ids, view=0)
    torch.testing.assert_close(one.expand_as(three), three, rtol=0, atol=1e-3)


def test_half_precision_and_no_images():
    ids = torch.arange(6)
    views = view_of()((photos() / 255).half(), seed=0, step=0, ids=ids, view=0)
    assert views.dtype == torch.float32
    assert view_of()(photos(0), seed=0, step=0, ids=ids[:0], view=0).shape == (0, 3, 24, 24)


def test_autocast_does_not_reach_the_pixels():
    images, ids = photos(), torch.arange(6)
    expected = view_of()(images, seed=0, step=0, ids=ids, view=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(view_of()(images, seed=0, step=0, ids=ids, view=0), expected)


# --- the same view from a worker's crop -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [24, 60])
def test_crops_made_from_files_become_the_same_views(size):
    view = view_of(dataclasses.replace(EVERYTHING, size=size, hue=0.0, solarize=0.0))
    images, ids = photos(12), torch.arange(12)
    crops = []
    for i in range(12):
        box = view.crop_box(5, 6, i, 1, 40, 36)
        crops.append(crop_file_image(Image.fromarray(images[i].permute(1, 2, 0).numpy()), box, size))
    finished = restore(view.finish(torch.stack(crops), seed=5, step=6, ids=ids, view=1))
    assert (finished - restore(view(images, seed=5, step=6, ids=ids, view=1))).abs().max() < 2.5 / 255


def test_file_images_of_any_mode_and_wrong_boxes():
    pixels = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20))
    for mode in ("L", "P", "RGBA", "CMYK", "1"):
        assert crop_file_image(pixels.convert(mode), (1, 2, 8, 9), 5).shape == (3, 5, 5)
    fractional = crop_file_image(pixels, (0.5, 0.5, 9, 9), 5)
    assert fractional.dtype == torch.uint8
    assert crop_file_image(pixels, (0.1, 0.2, 9.9 + 1e-9, 19.8 + 1e-9), 5).shape == (3, 5, 5)
    for box in [(0, 0, 11, 5), (0, 16, 5, 5), (-1, 0, 5, 5), (0, 0, 0, 5)]:
        with pytest.raises(ValueError, match="must lie inside"):
            crop_file_image(pixels, box, 5)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "size is a side in pixels"),
        ({"flip": 1.5}, "flip is a probability"),
        ({"brightness": -1.0}, "brightness must be at least 0"),
        ({"hue": 0.6}, "hue must be in"),
        ({"scale": (0.5, 0.2)}, "scale must be a range"),
        ({"scale": (0.5, 1.2)}, "scale must be a range"),
        ({"ratio": (0.0, 1.0)}, "ratio must be a range"),
        ({"blur_sigma": (2.0, 1.0)}, "blur_sigma must be a range"),
    ],
)
def test_wrong_specs_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        ViewSpec(**change)


def test_wrong_images_are_refused():
    ids = torch.arange(2)
    with pytest.raises(ValueError, match="1 channels but mean and std 3"):
        view_of()(photos(2, 1), seed=0, step=0, ids=ids, view=0)
    with pytest.raises(ValueError, match="must be uint8, or floating point"):
        view_of()(photos(2).int(), seed=0, step=0, ids=ids, view=0)
    with pytest.raises(ValueError, match="at least one pixel"):
        view_of()(torch.rand(2, 3, 0, 4), seed=0, step=0, ids=ids, view=0)
    with pytest.raises(ValueError, match="24 pixels a side"):
        view_of().finish(photos(2), seed=0, step=0, ids=ids, view=0)
    with pytest.raises(ValueError, match="1 or 3 values"):
        RandomView(PLAIN, [0.5] * 2, [0.5] * 2)
    with pytest.raises(ValueError, match="std must be positive"):
        EvalView(24, [0.5], [0.0])
