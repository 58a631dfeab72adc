import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from detection.data.scenes import ObjectGroup, SceneConfig, coco, compose_scenes, render_scenes
from sslcore.errors import DataError

CONFIG = SceneConfig(groups=(ObjectGroup(("disc", "triangle"), count=(1, 3)),), width=64, height=64, distractors=(1, 1))


@pytest.fixture
def parts(art, photos):
    return {"sprites": art, "backgrounds": photos}


def test_the_folder_holds_images_annotations_and_a_manifest_with_hashes(tmp_path, parts, art):
    made = compose_scenes(CONFIG, 6, 0, folder=tmp_path / "set", **parts)
    contents = made.read()
    assert [image["id"] for image in contents["images"]] == [1, 2, 3, 4, 5, 6]
    for image in contents["images"]:
        with Image.open(made.folder / "images" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"]) == (64, 64)
    assert [c["name"] for c in contents["categories"]] == art.classes
    assert {c["supercategory"] for c in contents["categories"]} == {"sprites"}
    for annotation in contents["annotations"]:
        assert annotation["iscrowd"] == 0
        assert annotation["area"] > 0
        assert len(annotation["bbox"]) == 4
        assert art.classes[annotation["category_id"] - 1] == annotation["drawing"].split("/")[0]
    assert len({a["id"] for a in contents["annotations"]}) == len(contents["annotations"])
    assert len(contents["distractors"]) == 6
    assert all("category_id" not in d and d["photograph"] for d in contents["distractors"])

    files = made.manifest["files"]
    assert set(files) == {"annotations.json", *(f"images/{i['file_name']}" for i in contents["images"])}
    for name, sha in files.items():
        assert hashlib.sha256((made.folder / name).read_bytes()).hexdigest() == sha
    assert json.loads((made.folder / "manifest.json").read_text()) == made.manifest


def test_category_ids_are_the_same_in_every_set_of_a_catalogue(parts):
    train = render_scenes(CONFIG, 1, 0, **parts)[1]
    other = dataclasses.replace(CONFIG, groups=(ObjectGroup(("box",)),), split="test")
    assert render_scenes(other, 1, 0, **parts)[1]["categories"] == train["categories"]


def test_memory_jpeg_and_png_hold_the_same_pixels(tmp_path, parts):
    images, annotations = render_scenes(CONFIG, 4, 5, **parts)
    assert images.shape == (4, 3, 64, 64)
    assert images.dtype == np.uint8
    for form in ("jpeg", "png"):
        made = compose_scenes(CONFIG, 4, 5, folder=tmp_path / form, form=form, **parts)
        contents = made.read()
        assert contents["annotations"] == annotations["annotations"]
        for image, expected in zip(contents["images"], images, strict=True):
            pixels = np.asarray(Image.open(made.folder / "images" / image["file_name"]))
            np.testing.assert_array_equal(pixels.transpose(2, 0, 1), expected)


def test_two_processes_make_the_same_set(tmp_path, parts):
    one = compose_scenes(CONFIG, 5, 0, folder=tmp_path / "one", **parts)
    two = compose_scenes(CONFIG, 5, 0, folder=tmp_path / "two", workers=2, **parts)
    assert one.manifest["hash"] == two.manifest["hash"]


def test_the_same_request_finds_its_scenes_again(parts, cache, monkeypatch):
    first = compose_scenes(CONFIG, 3, 0, **parts)
    assert first.folder.is_relative_to(cache)
    monkeypatch.setattr(coco.SceneComposer, "scene", lambda *_: pytest.fail("composed again"))
    assert compose_scenes(CONFIG, 3, 0, **parts) == first


def test_a_damaged_set_in_the_cache_is_made_anew(parts):
    first = compose_scenes(CONFIG, 3, 0, **parts)
    image = first.folder / "images" / "train-000001.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:-3] + b"abc")
    assert compose_scenes(CONFIG, 3, 0, **parts) == first
    assert image.read_bytes() == content


def test_a_folder_with_something_else_is_not_touched(tmp_path, parts):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="thesis already holds something else: name a new folder"):
        compose_scenes(CONFIG, 2, 0, folder=tmp_path / "thesis", **parts)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    compose_scenes(CONFIG, 2, 0, folder=tmp_path / "set", **parts)
    with pytest.raises(DataError, match="set already holds something else"):
        compose_scenes(CONFIG, 2, 1, folder=tmp_path / "set", **parts)  # another seed


def test_a_composition_that_fails_leaves_nothing_behind(tmp_path, parts, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco.SceneComposer, "scene", fail)
    with pytest.raises(KeyboardInterrupt):
        compose_scenes(CONFIG, 2, 0, folder=tmp_path / "here" / "set", **parts)
    assert not list((tmp_path / "here").iterdir())


def test_an_unwritable_cache_is_named(tmp_path, parts, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SURNIA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="file"):
        compose_scenes(CONFIG, 1, 0, **parts)


def test_pycocotools_style_readers_find_what_they_need(parts):
    _, contents = render_scenes(CONFIG, 3, 0, **parts)
    ids = {image["id"] for image in contents["images"]}
    assert all(a["image_id"] in ids for a in contents["annotations"] + contents["distractors"])
    json.dumps(contents, allow_nan=False)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"workers": 0}, {"form": "gif"}])
def test_senseless_requests_are_refused(parts, wrong):
    with pytest.raises(ValueError, match="count and workers"):
        compose_scenes(CONFIG, **{"count": 1, "seed": 0, **wrong}, **parts)
