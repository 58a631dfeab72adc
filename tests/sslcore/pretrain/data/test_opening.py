import os

import pytest
import torch
from PIL import Image

from sslcore.errors import DataError
from sslcore.pretrain.data import ImageArray, ImageFiles, open_images, recognise
from sslcore.pretrain.recipe import DataSettings


def save(path, colour, size=(10, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


def settings(path, **changes):
    return DataSettings(path=str(path), **{"workers": 2, **changes})


def test_class_folders_become_labels(folder):
    data = open_images(settings(folder))
    assert isinstance(data, ImageFiles)  # of several sizes
    assert data.classes == ["a", "b", "c"]
    assert data.paths[0] == os.path.join("a", "00.png")
    assert [data.classes[i] for i in data.labels] == [path[0] for path in data.paths]
    assert data.mean == (0.485, 0.456, 0.406)


def test_loose_images_have_no_labels(folder):
    save(folder / "loose.png", "red")
    assert open_images(settings(folder)).labels is None
    only = open_images(settings(folder / "a"))
    assert only.labels is None
    assert len(only) == 8


def test_splits_in_subfolders(tmp_path):
    for name in ("train/x/1.png", "train/y/2.png", "train/y/deep/3.png", "val/y/4.png", "Test/x/5.png"):
        save(tmp_path / name, "blue")
    train, validation, test = (open_images(settings(tmp_path), split) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (3, 1, 1)
    assert train.classes == validation.classes == test.classes == ["x", "y"]
    assert train.labels.tolist() == [0, 1, 1]


def test_validation_images_stand_in_for_test_images_and_share_the_training_labels(tmp_path):
    for name in ("train/x/1.png", "train/y/2.png", "train/z/2.png", "val/y/4.png", "val/z/4.png"):
        save(tmp_path / name, "blue")
    test = open_images(settings(tmp_path), "test")
    assert test.labels.tolist() == [1, 2]
    save(tmp_path / "val/new/1.png", "blue")
    with pytest.raises(DataError, match="'new'"):
        open_images(settings(tmp_path), "test")


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("train/1.png", "bus/2.png", "car/3.png"):
        save(tmp_path / name, "blue")
    assert open_images(settings(tmp_path)).classes == ["bus", "car", "train"]


def test_a_missing_split_says_what_to_do(folder, tmp_path):
    for split in ("test", "validation"):
        with pytest.raises(DataError, match=r"data\.validation"):
            open_images(settings(folder), split)
    save(tmp_path / "divided/train/1.png", "red")
    with pytest.raises(DataError, match="no test/"):
        open_images(settings(tmp_path / "divided"), "test")
    with pytest.raises(ValueError, match="split must be"):
        open_images(settings(folder), "all")


def test_the_held_out_share_is_a_partition_that_does_not_depend_on_how_images_are_held(tmp_path):
    for i in range(200):
        save(tmp_path / f"{i:03}.png", (i, 0, 0), size=(2, 2))
    parts = {}
    for hold in ("files", "memory"):
        train, held = (open_images(settings(tmp_path, validation=0.25, hold=hold), s) for s in ("train", "validation"))
        parts[hold] = train, held
        assert len(train) + len(held) == 200
        assert 30 < len(held) < 70
    (_, files), (_, memory) = parts["files"], parts["memory"]
    assert [int(path[:3]) for path in files.paths] == memory.images[:, 0, 0, 0].tolist()
    assert not set(files.paths) & set(parts["files"][0].paths)


def test_images_of_one_size_are_held_in_memory(tmp_path):
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        save(tmp_path / f"{i}.png", colour, size=(6, 4))
    data = open_images(settings(tmp_path))
    assert isinstance(data, ImageArray)
    assert data.images.shape == (3, 3, 4, 6)
    assert data.images[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_a_size_resizes_the_short_side_and_takes_the_centre(tmp_path):
    wide = Image.new("RGB", (40, 10), "red")
    wide.paste("blue", (15, 0, 25, 10))
    wide.save(tmp_path / "wide.png")
    save(tmp_path / "tall.png", "green", size=(8, 30))
    data = open_images(settings(tmp_path, size=10))
    assert data.images.shape == (2, 3, 10, 10)
    assert torch.equal(data.images[1], torch.tensor([0, 0, 255])[:, None, None].expand(3, 10, 10).byte())


def test_what_does_not_fit_stays_in_files_or_is_told(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", "red", size=(6, 4))
    assert isinstance(open_images(settings(tmp_path), room=3 * 3 * 4 * 6), ImageArray)
    assert isinstance(open_images(settings(tmp_path), room=3 * 3 * 4 * 6 - 1), ImageFiles)
    assert isinstance(open_images(settings(tmp_path, size=5), room=200), ImageFiles)
    assert isinstance(open_images(settings(tmp_path, hold="files")), ImageFiles)
    with pytest.raises(DataError, match="hold to files"):
        open_images(settings(tmp_path, hold="memory"), room=100)


def test_several_sizes_cannot_be_held_unless_a_size_is_given(folder):
    with pytest.raises(DataError, match=r"data\.size"):
        open_images(settings(folder, hold="memory"))
    assert open_images(settings(folder, hold="memory", size=12)).images.shape == (23, 3, 12, 12)


def test_one_odd_size_among_many_is_noticed(tmp_path):
    for i in range(200):
        save(tmp_path / f"{i:03}.png", "red", size=(2, 2))
    save(tmp_path / "001.png", "red", size=(3, 2))  # not among those looked at first
    assert isinstance(open_images(settings(tmp_path)), ImageFiles)
    with pytest.raises(DataError, match="2 x 3 pixels"):
        open_images(settings(tmp_path, hold="memory"))


def test_unreadable_images_are_left_out_up_to_the_limit(tmp_path):
    for i in range(8):
        save(tmp_path / f"{'xy'[i % 2]}/{i}.png", "red", size=(4, 4))
    (tmp_path / "x/2.png").write_bytes(b"nothing")
    (tmp_path / "y/5.png").write_bytes((tmp_path / "y/7.png").read_bytes()[:40])
    data = open_images(settings(tmp_path, size=4, bad_images=2))
    assert len(data) == 6
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [os.path.basename(path) for path, _ in data.bad] == ["2.png", "5.png"]
    with pytest.raises(DataError, match=r"2 images .* 1 are allowed .*2\.png.*bad_images"):
        open_images(settings(tmp_path, size=4, bad_images=1))


def test_a_folder_of_rubbish_is_told(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of the 3 images of .* can be read"):
        open_images(settings(tmp_path, size=4))


def test_every_kind_of_picture_becomes_three_channels(tmp_path):
    Image.new("L", (4, 4), 90).save(tmp_path / "0_grey.png")
    Image.new("CMYK", (4, 4), (0, 0, 0, 0)).save(tmp_path / "1_cmyk.jpg")
    Image.new("I;16", (4, 4), 65535).save(tmp_path / "2_deep.png")
    Image.new("P", (4, 4)).save(tmp_path / "3_palette.gif")
    Image.new("RGB", (4, 4), "red").save(
        tmp_path / "4_animated.gif", save_all=True, append_images=[Image.new("RGB", (4, 4), "blue")]
    )
    data = open_images(settings(tmp_path))
    assert data.images.shape == (5, 3, 4, 4)
    assert data.images[0].unique().tolist() == [90]
    assert int(data.images[1].min()) > 250
    assert data.images[2].unique().tolist() == [255]
    assert data.images[4, :, 0, 0].tolist() == [255, 0, 0]


def test_missing_and_empty_paths_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"data\.path is empty"):
        open_images(DataSettings())
    with pytest.raises(DataError, match="does not exist"):
        open_images(settings(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds no images"):
        open_images(settings(tmp_path))
    (tmp_path / "archive.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="unpack"):
        open_images(settings(tmp_path / "archive.zip"))
    with pytest.raises(DataError, match=r"does not exist; CIFAR-10 needs"):
        open_images(settings(tmp_path / "nowhere", kind="cifar10"))


def test_published_sets_have_no_validation_images_unless_a_share_is_set(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (folder / f"{name}.bin").write_bytes(bytes(3073 * 10))
    assert recognise(tmp_path) == "cifar10"
    with pytest.raises(DataError, match=r"data\.validation"):
        open_images(settings(tmp_path), "validation")
    train, held = (open_images(settings(tmp_path, validation=0.2), s) for s in ("train", "validation"))
    assert len(train) + len(held) == 50
    assert 0 < len(held) < 25
