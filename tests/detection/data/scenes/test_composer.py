import dataclasses

import numpy as np
import pytest

from detection.data.scenes import ArtCatalogue, Drawing, ObjectGroup, Photographs, SceneComposer, SceneConfig
from sslcore.errors import DataError

KNOWN = ObjectGroup(("disc", "box"), count=(2, 4), name="known")
OTHER = ObjectGroup(("triangle",), count=(1, 2), name="other")
CONFIG = SceneConfig(groups=(KNOWN, OTHER), width=128, height=96)


@pytest.fixture
def composer(art, photos):
    return SceneComposer(CONFIG, art, photos, seed=3)


@pytest.fixture
def scenes(composer):
    return [composer.scene(index) for index in range(25)]


def test_a_scene_depends_on_seed_and_number_only(art, photos, composer, scenes):
    again = SceneComposer(CONFIG, art, photos, seed=3)
    for index in (24, 3, 7):  # in another order, by another composer
        assert again.scene(index).jpeg == scenes[index].jpeg
        assert again.scene(index).objects == scenes[index].objects
    assert SceneComposer(CONFIG, art, photos, seed=4).scene(7).jpeg != scenes[7].jpeg
    assert len({scene.jpeg for scene in scenes}) == 25


def test_the_key_names_everything_the_pixels_depend_on(art, photos, composer, photographs):
    others = [
        SceneComposer(CONFIG, art, photos, seed=4),
        SceneComposer(dataclasses.replace(CONFIG, noise=1.0), art, photos, seed=3),
        SceneComposer(dataclasses.replace(CONFIG, split="val"), art, photos, seed=3),
        SceneComposer(CONFIG, art.subset(["triangle", "box", "disc"]), photos, seed=3),
    ]
    assert len({composer.key, *(other.key for other in others)}) == 5
    assert SceneComposer(CONFIG, art, Photographs.from_folder(photographs), seed=3).key == composer.key


def test_counts_are_within_the_ranges_of_each_group(scenes):
    for scene in scenes:
        assert scene.image.shape == (96, 128, 3)
        groups = [thing.group for thing in scene.objects]
        assert 2 <= groups.count("known") <= 4
        assert 1 <= groups.count("other") <= 2
        assert 0 <= len(scene.distractors) <= 2
        assert {t.class_name for t in scene.objects if t.group == "known"} <= {"disc", "box"}
    assert any(scene.distractors for scene in scenes)


def test_boxes_lie_inside_the_image_and_inside_the_full_box(scenes):
    for scene in scenes:
        for thing in scene.objects + scene.distractors:
            x, y, w, h = thing.bbox
            fx, fy, fw, fh = thing.full_bbox
            assert w > 0
            assert h > 0
            assert x >= 0
            assert y >= 0
            assert x + w <= 128
            assert y + h <= 96
            assert fx <= x
            assert fy <= y
            assert x + w <= fx + fw
            assert y + h <= fy + fh
            assert thing.truncated == (fx < 0 or fy < 0 or fx + fw > 128 or fy + fh > 96)
            assert 0 < thing.area <= w * h
            assert CONFIG.min_visible <= thing.visible <= 1


def test_occlusion_and_truncation_happen_and_are_recorded(art, photos):
    crowded = dataclasses.replace(CONFIG, groups=(dataclasses.replace(KNOWN, count=(6, 8)),), truncation=0.5)
    composer = SceneComposer(crowded, art, photos, seed=0)
    things = [thing for index in range(15) for thing in composer.scene(index).objects]
    assert any(t.visible < 0.9 and not t.truncated for t in things)
    assert any(t.truncated for t in things)
    assert all(t.visible >= crowded.min_visible for t in things)


def test_boxes_fit_the_pixels(art, photos):
    """Without light, noise or distractors the visible box of each object is where its colour is."""
    config = SceneConfig(
        groups=(ObjectGroup(("triangle",), count=(1, 1)),),
        distractors=(0, 0),
        shadow=0,
        blur=0,
        noise=0,
        jpeg=(95, 95),
        object_size=(0.3, 0.5),
    )
    dark = {
        split: [dataclasses.replace(p, pixels=p.pixels // 8) for p in photos.of(split)] for split in ("train", "val")
    }
    composer = SceneComposer(config, art, Photographs({**dark, "test": photos.of("test")}), seed=0)
    for index in range(10):
        scene = composer.scene(index)
        red = scene.image[..., 0].astype(int) - scene.image[..., 2] > 70  # the triangle is red
        rows, columns = np.flatnonzero(red.sum(1) > 0), np.flatnonzero(red.sum(0) > 0)
        found = columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        np.testing.assert_allclose(scene.objects[0].bbox, found, atol=3)
        assert scene.objects[0].area == pytest.approx(red.sum(), rel=0.12)


def test_slender_things_are_made_large_enough_to_recognise(photos):
    bar = np.full((10, 60, 4), 255, np.uint8)
    config = SceneConfig(
        groups=(ObjectGroup(("bar",), count=(1, 1)),),
        width=100,
        height=100,
        rotation=0,
        truncation=0,
        distractors=(0, 0),
    )
    art = ArtCatalogue([Drawing("bar/bar", "bar", "sprites", bar)])

    def short_sides(at_least):
        composer = SceneComposer(dataclasses.replace(config, min_short_side=at_least), art, photos, seed=0)
        return [min(composer.scene(k).objects[0].full_bbox[2:]) for k in range(12)]

    assert min(short_sides(0)) <= 4
    assert min(short_sides(7)) >= 6  # a pixel of rounding
    assert max(short_sides(50)) <= 10, "a thing never grows beyond the largest size because it is slender"


def test_splits_use_their_own_photographs_and_drawings(art, photos):
    for split in ("train", "val", "test"):
        composer = SceneComposer(dataclasses.replace(CONFIG, split=split), art, photos, seed=0)
        names = {p.name for p in photos.of(split)}
        drawings = {d.id for name in art.classes for d in art.of(name, split)}
        for index in range(12):
            scene = composer.scene(index)
            assert scene.background in names
            assert {t.drawing for t in scene.objects} <= drawings
            assert all(t.group in names - {scene.background} for t in scene.distractors)  # another photograph


def test_a_long_tail_makes_the_first_class_more_frequent(art, photos):
    group = ObjectGroup(("box", "disc", "triangle"), count=(4, 4), tail=1.5)
    np.testing.assert_allclose(group.frequencies, np.array([1, 2**-1.5, 3**-1.5]) / (1 + 2**-1.5 + 3**-1.5))
    composer = SceneComposer(SceneConfig(groups=(group,), width=200, height=200), art, photos, seed=0)
    names = [thing.class_name for index in range(30) for thing in composer.scene(index).objects]
    counts = [names.count(name) for name in group.classes]
    np.testing.assert_allclose(np.array(counts) / len(names), group.frequencies, atol=0.1)


def test_a_crowd_that_does_not_fit_leaves_things_out_rather_than_hiding_them(art, photos):
    config = SceneConfig(
        groups=(ObjectGroup(("box",), count=(60, 60)),), width=64, height=64, object_size=(0.6, 0.9), min_visible=0.9
    )
    scene = SceneComposer(config, art, photos, seed=0).scene(0)
    assert 1 <= len(scene.objects) < 60
    assert all(thing.visible >= 0.9 for thing in scene.objects)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "exam"}, "split is one of train, val, test"),
        ({"width": 16}, "at least 32 pixels"),
        ({"distractors": (3, 1)}, "distractors is a count"),
        ({"object_size": (0.5, 0.1)}, "object_size"),
        ({"min_visible": 0.0}, "min_visible"),
        ({"jpeg": (80, 100)}, "jpeg"),
    ],
)
def test_a_senseless_configuration_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **wrong)


def test_a_senseless_group_or_an_unknown_class_is_refused(art, photos):
    with pytest.raises(ValueError, match="a group needs classes"):
        ObjectGroup((), count=(1, 2))
    with pytest.raises(ValueError, match="a group needs classes"):
        ObjectGroup(("box",), count=(3, 2))
    with pytest.raises(DataError, match="no drawings of the class 'cat'"):
        SceneComposer(SceneConfig(groups=(ObjectGroup(("cat",)),)), art, photos, seed=0)


def test_distractors_need_a_second_photograph(art, photos):
    few = Photographs({"train": photos.of("train")[:1], "val": photos.of("val"), "test": photos.of("test")})
    with pytest.raises(DataError, match="distractors are cut from other photographs"):
        SceneComposer(CONFIG, art, few, seed=0)
    SceneComposer(dataclasses.replace(CONFIG, distractors=(0, 0)), art, few, seed=0).scene(0)


def test_the_share_of_held_out_drawings_can_be_set(art, photos):
    def shown(held_out):
        config = SceneConfig(
            (ObjectGroup(("disc",), count=(4, 6)),), split="test", held_out=held_out, width=96, height=96
        )
        composer = SceneComposer(config, art, photos, seed=0)
        drawings = [thing.drawing for i in range(12) for thing in composer.scene(i).objects]
        own = {drawing.id for drawing in art.of("disc", "test")}
        return sum(drawing in own for drawing in drawings) / len(drawings)

    assert shown(1.0) == 1
    assert shown(0.0) == 0
    assert 0.3 < shown(0.5) < 0.7
