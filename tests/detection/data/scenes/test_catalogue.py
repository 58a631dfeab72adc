import numpy as np
import pytest
from PIL import Image

from detection.data.scenes import ArtCatalogue
from detection.data.scenes.catalogue import SPLITS, split_of_group
from sslcore.errors import DataError
from sslcore.storage import files


def test_folders_are_classes_and_drawings_are_cut_to_what_is_visible(art):
    assert art.classes == ["box", "disc", "triangle"]
    assert {d.id for d in art.of("triangle")} == {"triangle/triangle0"}
    assert all(d.pixels.shape == (40, 60, 4) for d in art.of("box"))  # without its transparent margin
    assert art.supercategory("disc") == "sprites"


def test_a_level_of_folders_above_the_classes_is_the_supercategory(sprites, tmp_path):
    (tmp_path / "deep").mkdir()
    sprites.rename(tmp_path / "deep" / "shapes")
    art = ArtCatalogue.from_folder(tmp_path / "deep")
    assert art.classes == ["box", "disc", "triangle"]
    assert art.supercategory("box") == "shapes"


def test_names_are_in_natural_order(sprites):
    for old, new in ((0, 10), (1, 9)):
        (sprites / "box" / f"box{old}.png").rename(sprites / "box" / f"box{new}.png")
    assert [d.id for d in ArtCatalogue.from_folder(sprites).of("box")] == ["box/box2", "box/box9", "box/box10"]


def test_near_duplicates_share_a_group_and_so_a_split(sprites):
    twin = np.array(Image.open(sprites / "disc" / "disc2.png"))
    twin[20:24, 20:24, :3] = 255  # a small mark: still the same drawing
    Image.fromarray(twin[:, ::-1]).save(sprites / "disc" / "disc9.png")  # and mirrored
    art = ArtCatalogue.from_folder(sprites)
    groups = {d.id: d.group for d in art.of("disc")}
    assert groups["disc/disc9"] == groups["disc/disc2"]
    assert sorted(set(groups.values())) == [0, 1, 2, 3, 4, 5]
    assert {"disc/disc2", "disc/disc9"} <= {d.id for d in art.of("disc", "test")}


def test_splits_share_no_drawing_where_a_class_can_be_divided(art):
    ids = {split: {d.id for d in art.of("disc", split)} for split in SPLITS}
    assert ids["train"] == {"disc/disc0", "disc/disc1", "disc/disc3"}
    assert ids["val"] == {"disc/disc4"}
    assert ids["test"] == {"disc/disc2", "disc/disc5"}
    assert art.is_held_out("disc")
    assert art.is_held_out("box")
    assert not art.is_held_out("triangle")
    assert art.of("triangle", "test") == art.of("triangle", "train") == art.of("triangle")
    assert art.of("box", "val") == art.of("box", "train")  # three drawings: too few for a validation of their own


@pytest.mark.parametrize("groups", range(1, 40))
def test_every_class_has_training_drawings_and_most_of_them(groups):
    splits = [split_of_group(k, groups) for k in range(groups)]
    assert splits.count("train") >= groups / 2
    assert splits.count("test") == (groups // 3 if groups >= 3 else 0)


def test_the_fingerprint_changes_with_one_pixel(sprites, art):
    image = Image.open(sprites / "box" / "box1.png")
    image.putpixel((20, 20), (0, 0, 0, 255))
    image.save(sprites / "box" / "box1.png")
    assert ArtCatalogue.from_folder(sprites).fingerprint != art.fingerprint


def test_a_subset_keeps_groups_and_order(art):
    subset = art.subset(["triangle", "disc"])
    assert subset.classes == ["triangle", "disc"]
    assert subset.of("disc", "test") == art.of("disc", "test")
    with pytest.raises(DataError, match="no drawings of the class 'cube'; there are: box, disc, triangle"):
        art.subset(["cube"])


def test_a_huge_sprite_is_shrunk(sprites):
    Image.new("RGBA", (2000, 100), (9, 9, 9, 255)).save(sprites / "box" / "wide.png")
    assert max(ArtCatalogue.from_folder(sprites).of("box")[-1].pixels.shape) == 512


def test_a_palette_with_transparency_is_read(sprites):
    Image.open(sprites / "box" / "box0.png").quantize().save(sprites / "box" / "box7.png")
    assert ArtCatalogue.from_folder(sprites).of("box")[-1].pixels.shape == (40, 60, 4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: Image.new("RGB", (9, 9)).save(f / "box" / "x.png"), "x.png has no transparency"),
        (lambda f: Image.new("RGBA", (9, 9)).save(f / "box" / "x.png"), "x.png is wholly transparent"),
        (lambda f: files.write_bytes(f / "box" / "x.png", b"no picture"), "x.png is not an image that Surnia reads"),
        (lambda f: files.write_bytes(f / "x.png", b""), "x.png lies outside a class folder"),
        (lambda f: (f / "a/b/c").mkdir(parents=True) or files.write_bytes(f / "a/b/c/x.png", b""), "outside a class"),
    ],
)
def test_what_cannot_be_a_sprite_is_named(sprites, spoil, message):
    spoil(sprites)
    with pytest.raises(DataError, match=message):
        ArtCatalogue.from_folder(sprites)


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="is not a folder: sprites="):
        ArtCatalogue.from_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no transparent PNG in a class folder"):
        ArtCatalogue.from_folder(tmp_path)


def test_a_truncated_png_is_named(sprites):
    whole = (sprites / "disc" / "disc1.png").read_bytes()
    (sprites / "disc" / "disc1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"disc1\.png is damaged"):
        ArtCatalogue.from_folder(sprites)
