import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.scenes import Photographs
from detection.data.scenes.backgrounds import SHIPPED
from sslcore.errors import DataError


def test_a_folder_is_split_without_overlap(photos):
    names = [{p.name for p in photos.of(split)} for split in ("train", "val", "test")]
    assert [len(n) for n in names] == [6, 2, 2]
    assert len(set.union(*names)) == 10


def test_a_new_photograph_elsewhere_keeps_the_order_of_the_others(photographs, photos):
    assert Photographs.from_folder(photographs).fingerprint == photos.fingerprint
    Image.new("RGB", (64, 64)).save(photographs / "another.png")
    assert Photographs.from_folder(photographs).fingerprint != photos.fingerprint


def test_orientation_grey_and_size_are_taken_care_of(tmp_path):
    tall = Image.new("RGB", (3000, 2000))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    tall.save(tmp_path / "a.jpg", exif=exif)
    Image.new("L", (50, 40), 9).save(tmp_path / "b.png")
    Image.new("RGB", (40, 50)).save(tmp_path / "c.bmp")
    every = [p for split in ("train", "val", "test") for p in Photographs.from_folder(tmp_path).of(split)]
    shapes = {p.name: p.pixels.shape for p in every}
    assert shapes["a.jpg"][0] == 1024 > shapes["a.jpg"][1]
    assert shapes["b.png"] == (40, 50, 3)
    assert all(p.pixels.dtype == np.uint8 for p in every)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("x.jpg", b"nothing", "x.jpg is not an image that Surnia reads"), ("x.png", None, "x.png is only 8 x 8")],
)
def test_an_unusable_photograph_is_named(photographs, name, content, message):
    if content is None:
        Image.new("RGB", (8, 8)).save(photographs / name)
    else:
        (photographs / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Photographs.from_folder(photographs)


def test_missing_folder_and_too_few_photographs_are_named(tmp_path):
    with pytest.raises(DataError, match="is not a folder: backgrounds="):
        Photographs.from_folder(tmp_path / "nowhere")
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="holds 1 photographs: at least 3"):
        Photographs.from_folder(tmp_path)


def test_one_photograph_in_two_splits_is_refused(photos):
    train = photos.of("train")
    with pytest.raises(DataError, match="is there twice"):
        Photographs({"train": train, "val": train[:1], "test": photos.of("test")})


def test_without_scikit_image_the_line_that_installs_it_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else real(name))
    with pytest.raises(DataError, match=r"pip install scikit-image, or from Python .* backgrounds=folder"):
        Photographs.shipped()


def test_an_old_scikit_image_without_a_photograph_is_named(monkeypatch, tmp_path):
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: Spec)
    with pytest.raises(DataError, match="astronaut is not in the installed scikit-image"):
        Photographs.shipped()


def test_the_shipped_photographs_are_there_and_disjoint():
    pytest.importorskip("skimage")
    photos = Photographs.shipped()
    names = [name for split in ("train", "val", "test") for name in SHIPPED[split]]
    assert len(set(names)) == len(names) == 16
    assert "coins" not in names
    assert sum(len(photos.of(split)) for split in ("train", "val", "test")) == 16


def test_no_path_of_this_machine_is_in_a_name(photos):
    assert all(not Path(p.name).is_absolute() for p in photos.of("train"))


def test_photographs_go_through_the_one_reader(photographs):
    Image.fromarray(np.full((40, 40), 65535, np.uint16)).save(photographs / "wide.png")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(photographs / "clear.png")
    photos = Photographs.from_folder(photographs)
    every = {p.name: p.pixels for split in ("train", "val", "test") for p in photos.of(split)}
    assert every["wide.png"].min() == 255, "16 bits are scaled, not cut"
    assert every["clear.png"].min() == 255, "transparent parts are put on white"
