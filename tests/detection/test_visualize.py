import math

import numpy as np
import pytest
import torch
from PIL import Image

from detection.structures import UNKNOWN, Detections
from detection.visualize import PALETTE, SMALL, colour, draw

NAMES = ("background", "unknown", "cat", "dog")


def detections(*rows):
    """Rows (box, label, score, posterior)."""
    boxes, labels, scores, posteriors = zip(*rows) if rows else ([], [], [], [])
    n = len(rows)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(n, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float32),
        torch.zeros(n),
        torch.tensor(posteriors, dtype=torch.float32),
        torch.zeros(n, 2),
    )


def plain(width, height, shade=128):
    return Image.new("RGB", (width, height), (shade,) * 3)


def rgb(text):
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def test_known_boxes_have_the_colour_of_their_class_on_all_four_sides():
    picture = np.asarray(draw(plain(1000, 800), detections(([200, 300, 600, 700], 3, 0.9, 0.1)), NAMES))
    mine = (picture == rgb(colour(3))).all(axis=2)
    for x, y in ((400, 300), (400, 699), (200, 500), (599, 500)):  # somewhere within the line
        assert mine[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9].any()
    assert not mine[320:680, 220:580].any()  # the object itself stays free
    assert (picture[500, 400] == 128).all()


def test_unknown_boxes_are_dashed_in_black_and_white():
    picture = np.asarray(draw(plain(1000, 800), detections(([200, 300, 600, 700], UNKNOWN, 0.9, 0.8)), NAMES))
    assert np.ptp(picture.astype(int), axis=2).max() < 30  # no colour of a class
    column = picture[320:690, 202:208].astype(int).sum(axis=2).max(axis=1)
    changes = np.flatnonzero(np.diff(column > 600))
    assert len(changes) >= 10 and (column > 600).any() and (column < 200).any()


def test_all_colours_differ_and_labels_keep_theirs():
    assert len(set(PALETTE)) == len(PALETTE) >= 12
    assert colour(2) == PALETTE[0] == colour(2 + len(PALETTE))
    with pytest.raises(ValueError, match="not a known class"):
        colour(UNKNOWN)


def test_any_form_of_a_picture_gives_the_same_drawing():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    found = detections(([10, 10, 60, 60], 2, 0.5, 0.5))
    first = draw(picture, found, NAMES)
    for other in (array, tensor, tensor.float() / 255):
        assert np.array_equal(np.asarray(draw(other, found, NAMES)), np.asarray(first))
    assert np.array_equal(np.asarray(picture), array)  # the picture given is left alone


@pytest.mark.parametrize("size", [(160, 160), (160, 40), (1, 1), (639, 100)])
def test_small_pictures_are_enlarged_by_a_whole_number(size):
    picture = draw(plain(*size), detections(([0, 0, *size], 2, 0.5, 0.5)), NAMES)
    assert picture.width % size[0] == 0 and picture.width // size[0] == picture.height // size[1]
    assert 0.6 * SMALL <= max(picture.size) <= 1.5 * SMALL
    assert draw(plain(*size), detections(), NAMES, enlarge=False).size == size


def test_lines_and_letters_grow_with_the_picture():
    def covered(size):
        box = [size * x for x in (0.3, 0.3, 0.7, 0.7)]
        picture = np.asarray(draw(plain(size, size), detections((box, 2, 0.5, 0.5)), NAMES))
        return (picture != 128).any(axis=2).mean()

    assert covered(4000) == pytest.approx(covered(800), rel=0.25)


def test_weak_ones_are_left_out_and_the_strongest_are_kept():
    found = detections(([10, 10, 90, 90], 2, 0.2, 0), ([200, 10, 290, 90], 2, 0.9, 0), ([10, 200, 90, 290], 2, 0.6, 0))

    def drawn(**how):
        picture = np.asarray(draw(plain(700, 700), found, NAMES, **how))
        changed = (picture != 128).any(axis=2)
        return [bool(changed[y : y + 90, x : x + 90].any()) for x, y in ((10, 10), (200, 10), (10, 200))]

    assert drawn() == [True, True, True]
    assert drawn(min_score=0.5) == [False, True, True]
    assert drawn(limit=1) == [False, True, False]


def test_known_and_unknown_boxes_share_the_limit_and_the_others_are_counted():
    """Scores of unknown boxes are of another kind: were they ranked together, no known box would be seen."""
    unknown = [([10 + 60 * i, 400, 50 + 60 * i, 440], UNKNOWN, 0.9, 0.8) for i in range(10)]
    known = [([10 + 60 * i, 100, 50 + 60 * i, 140], 2, 0.4, 0.1) for i in range(3)]
    picture = np.asarray(draw(plain(700, 700), detections(*unknown, *known), NAMES, limit=6))

    def seen(x, y):
        return bool((picture[y : y + 40, x : x + 40] != 128).any())

    assert [seen(10 + 60 * i, 100) for i in range(3)] == [True, True, True]
    assert [seen(10 + 60 * i, 400) for i in range(5)] == [True, True, True, False, False]
    corner = picture[640:, 500:]
    assert (corner == 255).all(axis=2).mean() > 0.1  # a label that says how many more there are
    few = np.asarray(draw(plain(700, 700), detections(*known), NAMES, limit=6))
    assert (few[640:, 500:] == 128).all()


@pytest.mark.parametrize("size", [(4000, 20), (20, 4000), (160, 4), (700, 3)])
def test_long_strips_get_a_margin_in_which_labels_hide_neither_the_strip_nor_each_other(size):
    length, wide = max(size), size[0] > size[1]
    spans = [(0.02 * length, 0.25 * length), (0.04 * length, 0.22 * length)]
    boxes = [[a, 0, b, size[1]] if wide else [0, a, size[0], b] for a, b in spans]
    found = detections((boxes[0], 2, 0.9, 0), (boxes[1], 3, 0.8, 0))
    picture = draw(plain(*size), found, NAMES)
    factor = max(picture.size) // length
    assert min(picture.size) > max(picture.size) / 8
    shown = np.asarray(picture)
    down = (picture.height - size[1] * factor) // 2 if wide else 0
    strip = shown[down : down + size[1] * factor, : size[0] * factor]
    margin = shown.copy()
    margin[down : down + size[1] * factor, : size[0] * factor] = 0
    for label in (2, 3):
        written = (margin == rgb(colour(label))).all(axis=2).sum()
        assert written > (max(picture.size) / 44) ** 2  # more than a letter's square
    assert (strip == 128).all(axis=2).mean() > (0.5 if min(size) * factor >= 16 else 0)  # the strip can be seen
    assert draw(plain(*size), found, NAMES, enlarge=False).size == size


def test_labels_of_boxes_in_one_place_all_find_room():
    def ink(count):
        rows = [([0, 0, 1, 1], 2, 0.9 - 0.01 * i, 0) for i in range(count)]
        return int((np.asarray(draw(plain(1, 1), detections(*rows), NAMES)) == rgb(colour(2))).all(axis=2).sum())

    one = ink(2) - ink(1)  # of a label, less the outline behind it
    assert ink(20) - ink(1) > 15 * one


def test_labels_do_not_hide_each_other():
    # Two boxes with the same upper left corner: the second label goes elsewhere, so more is covered than by one.
    def ink(*rows):
        picture = np.asarray(draw(plain(800, 800), detections(*rows), NAMES)).reshape(-1, 3)
        return int((picture == rgb(colour(2))).all(axis=1).sum())

    one = ink(([300, 300, 500, 500], 2, 0.9, 0))
    assert ink(([300, 300, 500, 500], 2, 0.9, 0), ([300, 300, 500, 500], 2, 0.8, 0)) > 1.25 * one


def test_labels_stay_within_the_picture():
    corner = detections(([0, 0, 30, 30], 2, 0.9, 0), ([770, 570, 800, 600], UNKNOWN, 0.9, 0.5))
    picture = np.asarray(draw(plain(800, 600), corner, NAMES))
    assert (picture == rgb(colour(2))).all(axis=2)[:60, :200].sum() > 500


@pytest.mark.parametrize(
    "box", [[-50, -50, 900, 900], [10, 10, 10, 10], [50, 50, 20, 20], [5000, 5000, 6000, 6000], [0, 0, 0.2, 0.2]]
)
def test_boxes_of_any_shape_are_drawn_or_cut(box):
    assert draw(plain(700, 700), detections((box, 2, 0.9, 0), (box, 1, 0.9, 0.3)), NAMES).size == (700, 700)


def test_values_that_are_not_finite():
    found = detections(([10, 10, 90, 90], 1, 0.9, math.nan), ([math.nan, 10, 90, 90], 2, 0.9, 0))
    assert draw(plain(700, 700), found, NAMES).size == (700, 700)


def test_nothing_found_is_the_picture():
    assert np.array_equal(np.asarray(draw(plain(700, 700), detections(), NAMES)), np.asarray(plain(700, 700)))


def test_many_boxes_are_no_trouble():
    boxes = torch.rand(3000, 2) * 600
    found = Detections(
        torch.cat([boxes, boxes + 40], dim=1), torch.full((3000,), 2), torch.rand(3000), *[torch.zeros(3000)] * 2,
        torch.zeros(3000, 1),
    )  # fmt: skip
    assert draw(plain(700, 700), found, NAMES).size == (700, 700)


def test_a_label_without_a_name_is_refused():
    with pytest.raises(ValueError, match="label 4, but there are names for 1 to 3"):
        draw(plain(700, 700), detections(([0, 0, 5, 5], 4, 0.5, 0)), NAMES)
    with pytest.raises(ValueError, match="label 0"):
        draw(plain(700, 700), detections(([0, 0, 5, 5], 0, 0.5, 0)), NAMES)


@pytest.mark.parametrize(
    "image", [np.zeros((5, 5)), np.zeros((5, 5, 3)), torch.zeros(5, 5, 3), torch.zeros(3, 5, 5, dtype=torch.int64)]
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match="image is"):
        draw(image, detections(), NAMES)
