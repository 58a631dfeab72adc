import numpy as np
from PIL import Image

from detection.discovery.sheets import crop


def test_a_crop_has_the_object_in_its_middle_with_some_surroundings():
    picture = Image.new("RGB", (200, 100), (128, 128, 128))
    picture.paste((220, 40, 40), (80, 30, 120, 60))  # 40 x 30
    tile = np.asarray(crop(picture, [80, 30, 120, 60], side=112, context=0.2))
    assert tile.shape == (112, 112, 3)
    # 40 + 2 * 8 pixels on 112: a factor of 2, so the object covers columns 16 to 96 and rows 26 to 86
    red = tile[..., 0] > tile[..., 1].astype(int) + 60
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert abs(columns[0] - 16) <= 2 and abs(columns[-1] - 95) <= 2
    assert abs(rows[0] - 26) <= 2 and abs(rows[-1] - 85) <= 2
    assert (tile[5, 5] == 128).all()


def test_beyond_the_edge_of_the_picture_it_is_plain():
    picture = Image.new("RGB", (40, 40), (10, 10, 10))
    tile = np.asarray(crop(picture, [0, 0, 20, 20], side=70, context=0.25))
    assert (tile[2, 2] == (236, 239, 243)).all() and (tile[40, 65] == 10).all()


def test_the_largest_and_the_smallest_box():
    picture = Image.new("RGB", (300, 20), (128, 128, 128))
    for box in ([0, 0, 300, 20], [150, 10, 150, 10], [299.5, 19.5, 300, 20]):
        assert crop(picture, box, side=64).size == (64, 64)
