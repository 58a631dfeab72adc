"""Images under names with more or fewer folders in front."""

import pytest

from detection.data.file_names import FileNames

NAMES = FileNames(["val/a.jpg", "train/b.jpg", "val/b.jpg", "c.jpg", "./deep/down/d.jpg"])


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("val/a.jpg", (0,)),
        ("a.jpg", (0,)),  # looked at in the folder val
        ("set/val/a.jpg", (0,)),  # looked at from above
        ("/home/me/set/val/a.jpg", (0,)),
        ("/val/a.jpg", (0,)),  # mounted at the root
        ("test/a.jpg", ()),  # another folder's
        ("b.jpg", (1, 2)),
        ("val/b.jpg", (2,)),
        ("x/val/b.jpg", (2,)),
        ("pictures/c.jpg", (3,)),
        ("deep/down/d.jpg", (4,)),
        ("down/d.jpg", (4,)),
        ("own/d.jpg", ()),  # folder by folder, not letter by letter
        ("al/a.jpg", ()),
        ("C.jpg", ()),
    ],
)
def test_folder_by_folder(name, places):
    assert NAMES.find(name) == places


def test_the_longest_name_of_those_with_which_a_path_ends():
    names = FileNames(["a.jpg", "val/a.jpg"])
    assert names.find("set/val/a.jpg") == (1,)
    assert names.find("set/train/a.jpg") == (0,)
    assert names.find("a.jpg") == (0,)


def test_listed_for_a_message():
    assert NAMES.listed((1, 2)) == "train/b.jpg or val/b.jpg"
