"""The pictures that `surnia detect predict` and `unknowns` are given, and the names they go by."""

import os
from pathlib import Path

import pytest

from apps.given_images import find_images, list_given


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """odd/{normal,other}.jpg, odd/sub/normal.jpg, a/photos/x.jpg, b/photos/x.jpg; files as `os.scandir` sees them."""
    monkeypatch.chdir(tmp_path)
    for name in ("odd/normal.jpg", "odd/other.jpg", "odd/sub/normal.jpg", "a/photos/x.jpg", "b/photos/x.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def named(*places):
    """The name of each file that is looked at, by its path."""
    return {os.path.relpath(path): name for path, name in find_images(list_given([Path(place) for place in places]))}


def test_a_file_counts_once_however_often_it_is_given(folders, capsys):
    assert named("odd/sub", "odd/normal.jpg", "odd", "odd/sub/normal.jpg", "./odd") == {
        "odd/sub/normal.jpg": "sub/normal.jpg", "odd/normal.jpg": "odd/normal.jpg", "odd/other.jpg": "other.jpg",
    }  # fmt: skip
    assert capsys.readouterr().err == "note: 6 images were given again and are not looked at twice\n"
    assert list(named("odd", "odd/normal.jpg").values()) == ["normal.jpg", "other.jpg", "sub/normal.jpg"]
    assert capsys.readouterr().err == "note: 1 image was given again and is not looked at twice\n"


def test_a_link_is_the_file_it_leads_to(folders, capsys):
    Path("link.jpg").symlink_to("odd/other.jpg")
    Path("also").symlink_to("odd/sub")
    assert named("link.jpg", "odd", "also") == {
        "link.jpg": "link.jpg", "odd/normal.jpg": "normal.jpg", "odd/sub/normal.jpg": "sub/normal.jpg",
    }  # fmt: skip
    assert "2 images were given again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["a", "b"], ["a/photos/x.jpg", "b/photos/x.jpg"]),
        (["a/photos", "b/photos"], ["a/photos/x.jpg", "b/photos/x.jpg"]),
        (["a/photos", "odd"], ["x.jpg", "normal.jpg", "other.jpg", "sub/normal.jpg"]),
        (["a/photos/x.jpg", "b/../b/photos"], ["a/photos/x.jpg", "b/photos/x.jpg"]),
    ],
)
def test_files_of_equal_names_are_told_apart_by_the_folders_above_them(folders, capsys, places, names):
    assert list(named(*places).values()) == names
    assert capsys.readouterr().err == ""


def test_names_never_lead_upwards(folders, monkeypatch):
    monkeypatch.chdir("odd/sub")
    assert named("../normal.jpg", "../sub", "../../a/photos", "../../b") == {
        "../normal.jpg": "odd/normal.jpg", "normal.jpg": "sub/normal.jpg", "../../a/photos/x.jpg": "x.jpg",
        "../../b/photos/x.jpg": "photos/x.jpg",
    }  # fmt: skip
