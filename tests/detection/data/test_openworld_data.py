import json
import shutil

import numpy as np
import pytest
from PIL import Image

from detection.data.openworld import fingerprint, open_data, open_test, read_annotations
from detection.data.scenes import openscenes
from detection.data.settings import CocoData, OpenScenesData
from detection.data.views import train_view
from sslcore.errors import ConfigError, DataError


def write_split(folder, name, first, classes=("dog", "cat"), bbox=(1, 1, 5, 5)):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"{name}{i}.png" for i in range(2)]
    for file in names:
        Image.new("RGB", (16, 12)).save(folder / "images" / file)
    content = {
        "images": [{"id": first + i, "file_name": file, "width": 16, "height": 12} for i, file in enumerate(names)],
        "annotations": [
            {"id": first + k, "image_id": first, "category_id": k + 1, "bbox": list(bbox)} for k in range(len(classes))
        ],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(classes)],
    }
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def settings(tmp_path):
    def settings(**changes):
        values = {
            "tasks": str(tmp_path / "tasks.yaml"),
            "train": [str(tmp_path / "train.json")],
            "val": str(tmp_path / "val.json"),
            "test": str(tmp_path / "test.json"),
            "images": str(tmp_path / "images"),
        }
        return CocoData(name="coco", **{**values, **changes})

    (tmp_path / "tasks.yaml").write_text("name: pets\ntasks: [[dog], [cat]]\n")
    for k, name in enumerate(("train", "val", "test")):
        write_split(tmp_path, name, 10 * k)
    return settings


def test_opens_coco(settings, tmp_path):
    data = open_data(settings())
    assert data.tasks.tasks == (("dog",), ("cat",))
    assert data.train(1) is data.train(2)
    assert [image.file_name for image in data.val.images] == ["val0.png", "val1.png"]
    assert data.test.path(0) == tmp_path / "images" / "test0.png"
    assert data.folder == tmp_path / "images"
    assert data.ignored == ()
    with pytest.raises(ValueError, match="counts from 1 to 2"):
        data.train(3)
    assert train_view(data.train(2), data.tasks, 2).labels.tolist() == [3]


def test_one_file_for_each_task(settings, tmp_path):
    write_split(tmp_path, "more", 50, classes=("dog", "cat", "rock"))
    files = [str(tmp_path / "train.json"), str(tmp_path / "more.json")]
    data = open_data(settings(train=files))
    assert [image.id for image in data.train(2).images] == [50, 51]
    with pytest.raises(ConfigError, match=r"data\.train names 3 files and pets has 2 tasks"):
        open_data(settings(train=[*files, files[0]]))


def test_the_fingerprint_is_of_what_is_learnt_not_of_where_it_lies(settings, tmp_path):
    before = open_data(settings()).fingerprint
    (tmp_path / "moved.json").write_bytes((tmp_path / "val.json").read_bytes())
    assert open_data(settings(val=str(tmp_path / "moved.json"))).fingerprint == before
    write_split(tmp_path, "val", 10, bbox=(1, 1, 5, 6))
    assert open_data(settings()).fingerprint != before
    write_split(tmp_path, "val", 10)
    assert open_data(settings()).fingerprint == before
    (tmp_path / "tasks.yaml").write_text("name: pets\ntasks: [[cat], [dog]]\n")
    assert open_data(settings()).fingerprint != before


def test_the_test_images_have_a_category_for_every_class_and_the_data_are_the_same_data(settings, tmp_path):
    write_split(tmp_path, "test", 20, classes=("dog",))
    data = open_data(settings())
    assert (data.test.categories, data.test.category_ids) == (("dog", "cat"), (1, 2))
    roles = {role: read_annotations(tmp_path / f"{role}.json") for role in ("train", "val", "test")}
    assert data.fingerprint == fingerprint(data.tasks, roles)
    test, mark = open_test(settings())
    assert (test.categories, mark) == (data.test.categories, data.fingerprint)
    (tmp_path / "val.json").unlink()
    assert open_test(settings())[0].categories == data.test.categories


def test_boxes_are_cleaned_and_it_is_said(settings, tmp_path):
    write_split(tmp_path, "test", 20, bbox=(10, 8, 20, 20))
    data = open_data(settings())
    assert data.test.boxes.tolist() == [[10, 8, 16, 12]] * 2
    assert [(p.fatal, p.id) for p in data.ignored] == [(False, 20), (False, 21)]


def test_pictures_are_found_in_the_only_folder_that_has_them(settings, tmp_path):
    (tmp_path / "images").rename(tmp_path / "pictures")
    (tmp_path / "others").mkdir()
    data = open_data(settings(images=str(tmp_path)))
    assert data.test.path(0) == tmp_path / "pictures" / "test0.png"
    shutil.copytree(tmp_path / "pictures", tmp_path / "again")
    with pytest.raises(DataError, match=r"where 'test0\.png' should be"):  # which of the two is not for us to say
        open_data(settings(images=str(tmp_path)))


def test_one_missing_picture_is_named_and_hides_no_other(settings, tmp_path):
    (tmp_path / "images").rename(tmp_path / "pictures")
    (tmp_path / "pictures" / "train0.png").unlink()
    (tmp_path / "others").mkdir()
    with pytest.raises(DataError) as caught:
        open_data(settings(images=str(tmp_path)))
    (line,) = str(caught.value).splitlines()
    assert line.endswith(f"train.json  image 0: {tmp_path}/pictures/train0.png does not exist")


def test_pictures_are_in_the_folder_that_has_most_of_them(tmp_path):
    write_split(tmp_path, "train", 0)
    content = json.loads((tmp_path / "train.json").read_text())
    content["images"] = [{"id": i, "file_name": f"{i}.png", "width": 16, "height": 12} for i in range(6)]
    (tmp_path / "train.json").write_text(json.dumps(content))

    def found(**held):
        for place, numbers in held.items():
            (tmp_path / "root" / place).mkdir(parents=True)
            for i in numbers:
                Image.new("RGB", (16, 12)).save(tmp_path / "root" / place / f"{i}.png")
        place = read_annotations(tmp_path / "train.json", images=tmp_path / "root").folder
        shutil.rmtree(tmp_path / "root")
        return place.name

    assert found(some=[0], most=[1, 2, 3]) == "most"
    assert found(images=[0], pictures=[0, 1, 2, 3]) == "pictures"  # a stray one does not decide
    assert found(train=[0, 1, 2, 3], val=range(6)) == "train"  # of another split, which uses the same names
    assert found(one=[0, 1], other=[2, 3]) == "root"  # which of the two is not for us to say


def test_everything_fatal_is_said_before_anything_starts(settings, tmp_path):
    (tmp_path / "images" / "train1.png").unlink()
    content = json.loads((tmp_path / "test.json").read_text())
    content["annotations"][0]["category_id"] = 77
    (tmp_path / "test.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        open_data(settings(val=str(tmp_path / "train.json")))
    said = str(caught.value)
    assert "unknown category id 77" in said
    assert "train1.png does not exist" in said
    assert "is among the images of train" in said


def test_test_images_may_be_validation_images_only_where_nothing_is_fitted(settings, tmp_path):
    both = settings(val=str(tmp_path / "test.json"))
    with pytest.raises(DataError, match=r"set decision\.fit to none"):
        open_data(both)
    assert len(open_data(both, fits=False).ignored) == 2


def test_voc_lists_are_annotation_files_too(settings, tmp_path):
    root = tmp_path / "VOC2007"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (16, 12)).save(root / "JPEGImages" / "a.jpg")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("a\n")
    (root / "Annotations" / "a.xml").write_text(
        "<annotation><size><width>16</width><height>12</height></size><object><name>dog</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object></annotation>"
    )
    files = [str(root / "ImageSets" / "Main" / "trainval.txt"), str(tmp_path / "train.json")]
    data = open_data(settings(train=files))
    assert data.train(1).boxes.tolist() == [[0, 0, 4, 5]]
    assert data.train(1).path(0) == root / "JPEGImages" / "a.jpg"


def test_opens_scenes(tmp_path):
    made = openscenes.make_openscenes("M", "tiny", folder=tmp_path / "scenes")
    data = open_data(OpenScenesData(size="tiny", path=str(tmp_path / "scenes")))
    assert data.tasks == made.tasks
    assert len(data.trains) == made.tasks.count
    assert all(len(data.train(task).boxes) for task in range(1, data.tasks.count + 1))
    assert len(data.test.distractors)
    assert np.isin(data.tasks.classes, data.test.categories).all()
    assert not any(problem.fatal for problem in data.ignored)
    with pytest.raises(DataError):
        open_data(OpenScenesData(path=str(tmp_path)))
