"""Names of the pictures that `surnia detect predict` draws, and its lines."""

import pytest
import torch

from apps.detect_predict import line, picture_names
from detection.structures import Detections


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["one.png"], ["one.png"]),
        (["one.jpg", "two.JPEG"], ["one.png", "two.png"]),
        (["one.png", "one.jpg"], ["one.png", "one.jpg.png"]),
        (["one.jpg", "one.png"], ["one.jpg.png", "one.png"]),
        (["one.jpg", "one.bmp"], ["one.jpg.png", "one.bmp.png"]),
        (["One.jpg", "one.bmp"], ["One.jpg.png", "one.bmp.png"]),
        (["a/one.jpg", "b/one.bmp"], ["a/one.png", "b/one.png"]),
        (["one.jpg", "one.png", "one.jpg.png"], ["one.jpg.png.png", "one.png", "one.jpg.png"]),
        (["v1.2.jpg", "plain"], ["v1.2.png", "plain.png"]),
    ],
)
def test_pictures_have_one_suffix_and_never_the_same_name(names, files):
    assert picture_names(names) == dict(zip(names, files, strict=True))


def test_a_line_counts_what_its_picture_does_not_show():
    n = 3
    found = Detections(
        torch.zeros(n, 4), torch.tensor([1, 2, 1]), torch.ones(n), torch.zeros(n), torch.zeros(n), torch.zeros(n, 1)
    )
    names = ("background", "unknown", "cat")
    assert line("a.jpg", found, names) == "a.jpg: 1 cat, 2 unknown"
    assert line("a.jpg", found, names, 2) == "a.jpg: 1 cat, 2 unknown (2 not drawn)"
    assert line("a.jpg", found[:0], names) == "a.jpg: nothing"
    assert line("a.jpg", found, ("background", "unknown", "cat, dog")) == "a.jpg: 1 'cat, dog', 2 unknown"
