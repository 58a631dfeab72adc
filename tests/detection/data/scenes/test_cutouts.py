import numpy as np
import pytest
from PIL import Image

from detection.data.scenes import Drawing, cutouts
from detection.data.scenes.cutouts import Cutout, Pose


@pytest.fixture
def box(draw):
    """A plain 60 x 40 rectangle."""
    return Cutout.of(Drawing("box/a", "box", "sprites", np.array(draw("box", 0).crop((5, 5, 65, 45)))))


def test_an_upright_rectangle_has_the_size_asked_for(box):
    for long_side in (12.0, 30.0, 60.0, 150.0):
        pixels = cutouts.cut(box, Pose(long_side))
        assert pixels.dtype == np.float32
        assert pixels[3].sum() / 255 == pytest.approx(long_side * long_side * 2 / 3, rel=0.05)
        rows, columns = np.flatnonzero((pixels[3] > 127).any(1)), np.flatnonzero((pixels[3] > 127).any(0))
        assert columns[-1] - columns[0] + 1 == pytest.approx(long_side, abs=1.01)
        assert rows[-1] - rows[0] + 1 == pytest.approx(long_side * 2 / 3, abs=1.01)


def test_turning_keeps_the_area_and_a_quarter_turn_swaps_the_sides(box):
    for angle in (17, 45, 90, 180, -120):
        assert cutouts.cut(box, Pose(50, angle))[3].sum() / 255 == pytest.approx(50 * 50 * 2 / 3, rel=0.05)
    turned = cutouts.cut(box, Pose(60, 90))[3] > 127
    assert turned.any(1).sum() == pytest.approx(60, abs=1)
    assert turned.any(0).sum() == pytest.approx(40, abs=1)


def test_a_positive_angle_turns_and_flip_mirrors():
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[:, :30] = (255, 0, 0, 255)  # left half red, right half blue
    pixels[:, 30:] = (0, 0, 255, 255)
    halves = Cutout.of(Drawing("h/h", "h", "s", pixels))
    red, _, blue, _ = cutouts.cut(halves, Pose(60))
    assert red.argmax(1)[22] < blue.argmax(1)[22]
    red, _, blue, _ = cutouts.cut(halves, Pose(60, flip=True))
    assert red.argmax(1)[22] > blue.argmax(1)[22]


def test_edges_carry_no_foreign_colour():
    """White on transparent black: a resampler that forgot to premultiply would leave a dark rim."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[8:56, 8:56] = 255
    red, _, _, alpha = cutouts.cut(Cutout.of(Drawing("w/w", "w", "s", pixels)), Pose(40, 20), blur=1.0)
    np.testing.assert_allclose(red, alpha, atol=2)


def test_light_never_exceeds_alpha_and_strength_zero_changes_nothing(box):
    pixels = cutouts.cut(box, Pose(40, 10))
    same = cutouts.light(pixels.copy(), np.random.default_rng(0), strength=0)
    np.testing.assert_allclose(same, pixels, atol=1e-3)
    for seed in range(20):
        lit = cutouts.light(pixels.copy(), np.random.default_rng(seed), strength=3)
        assert (lit[:3] <= lit[3] + 1e-4).all()
        assert (lit >= 0).all()
        np.testing.assert_array_equal(lit[3], pixels[3])


@pytest.mark.parametrize("place", [(0, 0), (-7, 5), (25, 28), (-100, 3), (40, 40)])
def test_paste_is_the_over_operator_cut_off_at_the_border(place):
    rng = np.random.default_rng(0)
    canvas = rng.uniform(0, 255, (3, 40, 40)).astype(np.float32)
    alpha = rng.uniform(0, 255, (1, 12, 15)).astype(np.float32)
    pixels = np.concatenate([alpha * rng.uniform(0, 1, (3, 12, 15)).astype(np.float32), alpha])
    expected = canvas.copy()
    for y in range(12):
        for x in range(15):
            at_x, at_y = place[0] + x, place[1] + y
            if 0 <= at_x < 40 and 0 <= at_y < 40:
                keep = 1 - pixels[3, y, x] / 255
                expected[:, at_y, at_x] = pixels[:3, y, x] + keep * expected[:, at_y, at_x]
    cutouts.paste(canvas, pixels, *place)
    np.testing.assert_allclose(canvas, expected, rtol=1e-5, atol=1e-3)


def test_a_shadow_darkens_and_only_near_the_outline(box):
    canvas = np.full((3, 90, 90), 200, np.float32)
    cutouts.cast_shadow(canvas, cutouts.cut(box, Pose(30)), 20, 25, blur=2.0, depth=0.5)
    assert canvas.max() == pytest.approx(200)
    assert canvas.min() == pytest.approx(100, abs=3)
    assert (canvas[:, 70:] == 200).all()
    assert (canvas[:, :, 70:] == 200).all()


def test_a_patch_has_the_outline_of_its_mask(box):
    mask = cutouts.cut(box, Pose(30, 30))
    piece = np.full((3, *mask.shape[1:]), 80, np.float32)
    patch = cutouts.patch(piece, mask)
    np.testing.assert_array_equal(patch[3], mask[3])
    np.testing.assert_allclose(patch[0], 80 * mask[3] / 255, rtol=1e-5)


def test_windows_have_the_size_asked_for_even_larger_than_the_photograph(photos):
    photo, rng = photos.of("train")[0], np.random.default_rng(0)
    for width, height in ((48, 48), (160, 120), (500, 90), (7, 400)):
        assert cutouts.window(photo, width, height, rng).size == (width, height)


def test_develop_adds_noise_of_the_size_asked_for():
    plain = cutouts.develop(np.full((3, 64, 64), 120, np.float32), np.random.default_rng(0), blur=0, noise=0)
    noisy = cutouts.develop(np.full((3, 64, 64), 120, np.float32), np.random.default_rng(0), blur=0, noise=5.0)
    assert plain.std(axis=(1, 2)).max() == 0
    assert noisy.std(axis=(1, 2)) == pytest.approx(5, rel=0.1)
    assert cutouts.interleaved(noisy).size == (64, 64)
    np.testing.assert_array_equal(cutouts.planes(Image.fromarray(noisy.transpose(1, 2, 0))), noisy)
