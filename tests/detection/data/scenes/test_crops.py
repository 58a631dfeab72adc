import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from detection.data.scenes import BACKGROUND, crops, make_crops, write_crop_folder
from sslcore.errors import DataError


@pytest.fixture
def parts(art, photos):
    return {"sprites": art, "backgrounds": photos}


def test_shapes_labels_and_drawings_agree(parts):
    made = make_crops("train", 60, 0, 32, background_count=5, **parts)
    assert made.images.shape == (65, 3, 32, 32)
    assert made.images.dtype == np.uint8
    assert made.classes == ["box", "disc", "triangle"]
    assert made.labels.dtype == np.int64
    assert len(made) == len(made.drawings) == 65
    for label, drawing in zip(made.labels[:60], made.drawings[:60], strict=True):
        assert drawing.split("/")[0] == made.classes[label]
    assert (made.labels[60:] == BACKGROUND).all()
    assert made.drawings[60:] == [""] * 5
    assert set(made.labels[:60]) == {0, 1, 2}


def test_objects_leaves_out_the_backgrounds(parts):
    made = make_crops("train", 10, 0, background_count=4, **parts)
    objects = made.objects()
    assert len(objects) == 10
    assert (objects.labels >= 0).all()
    np.testing.assert_array_equal(objects.images, made.images[:10])
    assert objects.objects() is objects


def test_a_crop_depends_on_seed_and_number_only(parts):
    short, long = make_crops("train", 5, 7, **parts), make_crops("train", 20, 7, background_count=3, **parts)
    np.testing.assert_array_equal(long.images[:5], short.images)
    assert not np.array_equal(make_crops("train", 5, 8, **parts).images, short.images)


def test_splits_share_no_drawing_of_a_class_with_several(parts):
    shown = {split: set(make_crops(split, 150, 0, 16, **parts).drawings) for split in ("train", "val", "test")}
    assert shown["train"] & shown["test"] == {"triangle/triangle0"}
    assert shown["val"] & shown["test"] == {"triangle/triangle0"}
    assert "disc/disc4" in shown["val"] - shown["train"]


def test_objects_fill_their_crops(parts):
    """The drawing's own colour covers a good part of most crops (the photographs are greyish)."""
    made = make_crops("train", 80, 0, **parts)
    spread = made.images.max(1).astype(int) - made.images.min(1)  # saturation of each pixel
    covered = (spread > 90).mean((1, 2))
    assert np.median(covered) > 0.2


def test_the_cache_returns_the_same_and_is_checked(parts, cache, monkeypatch):
    first = make_crops("val", 6, 0, **parts)
    (folder,) = (cache / "crops").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(crops, "_render", lambda *_: pytest.fail("made again"))
        again = make_crops("val", 6, 0, **parts)
    np.testing.assert_array_equal(again.images, first.images)
    assert (again.classes, again.drawings, again.split) == (first.classes, first.drawings, "val")

    damaged = bytearray((folder / "images.npy").read_bytes())
    damaged[500] ^= 1
    (folder / "images.npy").write_bytes(damaged)
    np.testing.assert_array_equal(make_crops("val", 6, 0, **parts).images, first.images)


def test_nothing_is_kept_without_the_cache(parts, cache):
    make_crops("val", 2, 0, cache=False, **parts)
    assert not cache.exists()


def test_folders_of_sprites_and_photographs_serve_as_well(sprites, photographs, parts):
    made = make_crops("train", 3, 0, sprites=sprites, backgrounds=photographs)
    np.testing.assert_array_equal(made.images, make_crops("train", 3, 0, **parts).images)


@pytest.mark.parametrize("size", [8, 9, 96])
def test_any_size_works(parts, size):
    assert make_crops("test", 30, 0, size, **parts).images.shape == (30, 3, size, size)


def test_the_folder_form_has_class_folders_of_pngs(parts, tmp_path):
    made = make_crops("train", 12, 0, background_count=2, **parts)
    folder = write_crop_folder(made, tmp_path / "crops")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["box", "disc", "triangle"]
    files = sorted(folder.glob("*/*.png"), key=lambda p: p.stem)
    assert len(files) == 12
    for k, path in enumerate(files):
        assert path.parent.name == made.classes[made.labels[k]]
        np.testing.assert_array_equal(np.asarray(Image.open(path)).transpose(2, 0, 1), made.images[k])
    write_crop_folder(made, folder, with_background=True)  # replaces its own
    assert len(list(folder.glob("background/*.png"))) == 2


def test_the_folder_form_does_not_touch_other_things(parts, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"")
    with pytest.raises(DataError, match="photos already holds something else"):
        write_crop_folder(make_crops("train", 2, 0, **parts), tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.png").exists()


def test_senseless_requests_are_refused(parts):
    with pytest.raises(ValueError, match="split is one of"):
        make_crops("exam", 1, 0, **parts)
    with pytest.raises(ValueError, match="size at least 8"):
        make_crops("train", 1, 0, 4, **parts)


def test_importing_the_package_costs_nothing_and_rendering_needs_no_torch():
    code = (
        "import sys, detection.data.scenes as scenes; assert 'numpy' not in sys.modules, 'numpy';"
        "scenes.compose_scenes, scenes.make_crops, scenes.ArtCatalogue; assert 'torch' not in sys.modules, 'torch';"
        "assert set(scenes.__all__) == {name for names in scenes._HOME.values() for name in names}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
