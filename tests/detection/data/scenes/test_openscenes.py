import json
import shutil
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from detection.data.scenes import (
    ArtCatalogue,
    Drawing,
    Photographs,
    describe,
    kenney,
    make_openscenes,
    open_openscenes,
    openscenes,
)
from detection.data.scenes.openscenes import SIZES, SetSize
from detection.data.scenes.openscenes_tasks import deal_kenney
from detection.tasks import TaskSet
from sslcore.errors import ConfigError, DataError

SEEN = deal_kenney("M").far_seen
PARTS = ["train_1", "train_2", "train_3", "train_4", "val", "test"]


def fabricated_kenney(draw):
    """All classes of the demo's art: six clearly distinct drawings for every other class, one for the others."""
    drawings = []
    for group, classes in kenney.TABLE.items():
        for k, name in enumerate(classes):
            for number in range(1 if k % 2 else 6):
                shape = ("disc", "box", "triangle")[k % 3]
                pixels = np.array(draw(shape, number).crop((5, 5, 65, 45)))
                drawings.append(Drawing(f"{name}/{number}", name, group, pixels))
    return ArtCatalogue(drawings)


@pytest.fixture
def demo_art(draw, monkeypatch):
    """Stands in for the demo's drawings, which need the wheel."""
    art = fabricated_kenney(draw)
    monkeypatch.setattr(ArtCatalogue, "kenney", classmethod(lambda _: art))
    return art


@pytest.fixture(scope="module")
def made(draw, shared_photos, tmp_path_factory):
    """The demo's classes, tiny; tests only read it."""
    with pytest.MonkeyPatch.context() as patched:
        art = fabricated_kenney(draw)
        patched.setattr(ArtCatalogue, "kenney", classmethod(lambda _: art))
        folder = tmp_path_factory.mktemp("openscenes") / "set"
        return make_openscenes("M", "tiny", 0, folder=folder, backgrounds=shared_photos)


@pytest.fixture
def few(monkeypatch):
    """Very few images, for tests that compose several sets."""
    monkeypatch.setitem(SIZES, "tiny", SetSize(side=48, first=10, later=8, val=3, test=6))


@pytest.fixture
def own(tmp_path, draw):
    """n classes of own art, c0, c1, ...: the first one with the most drawings."""

    def write(count):
        root = tmp_path / f"own{count}"
        for k in range(count):
            (root / f"c{k}").mkdir(parents=True)
            for number in range(max(1, 4 - k)):
                draw(("disc", "box", "triangle")[k % 3], number).save(root / f"c{k}" / f"{number}.png")
        return root

    return write


def contents(made, part):
    return json.loads((made.folder / f"{part}.json").read_text())


def names_of(coco):
    return {category["id"]: category["name"] for category in coco["categories"]}


def objects_by_image(coco):
    """Image id -> class names of its objects."""
    names, found = names_of(coco), {image["id"]: [] for image in coco["images"]}
    for thing in coco["annotations"]:
        found[thing["image_id"]].append(names[thing["category_id"]])
    return found


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_the_folder_has_everything_it_is_said_to_have(made):
    assert sorted(p.name for p in made.folder.iterdir()) == sorted(
        ["images", "tasks.yaml", "manifest.json", *(f"{part}.json" for part in PARTS)]
    )
    assert made.train(3).name == "train_3.json"
    assert made.val.is_file()
    assert made.test.is_file()
    assert TaskSet.from_file(made.folder / "tasks.yaml") == made.tasks
    assert json.loads((made.folder / "manifest.json").read_text()) == made.manifest
    listed = {image["file_name"] for part in PARTS for image in contents(made, part)["images"]}
    assert listed == {p.name for p in made.images.iterdir()}
    with Image.open(made.images / min(listed)) as image:
        assert image.size == (96, 96)
    with pytest.raises(ValueError, match="task is between 1 and 4"):
        made.train(5)


def test_the_tasks_are_disjoint_and_every_one_mixes_beings_critters_items_and_vehicles(made):
    groups = {name: group for group, classes in kenney.TABLE.items() for name in classes}
    assert made.tasks.count == 4
    assert all(len(made.tasks.current(task)) >= 6 for task in range(1, 5))
    assert len(set(made.tasks.classes)) == len(made.tasks.classes) == 32
    assert not set(made.tasks.classes) & set(kenney.TABLE[kenney.FAR])
    for task in range(1, 5):
        assert {groups[name] for name in made.tasks.current(task)} == set(kenney.TABLE) - {kenney.FAR}


def test_the_variant_s_gives_every_task_a_supercategory_of_its_own(demo_art, photos, few):
    tasks = make_openscenes("S", "tiny", 0, backgrounds=photos).tasks
    assert tasks.tasks == tuple(tuple(v) for group, v in kenney.TABLE.items() if group != kenney.FAR)
    assert tasks.count == 4
    assert all(len(tasks.current(task)) >= 6 for task in range(1, 5))


def test_every_training_image_shows_its_tasks_classes_and_two_to_four_other_objects(made):
    for task in range(1, 5):
        current = set(made.tasks.current(task))
        others = []
        for names in objects_by_image(contents(made, f"train_{task}")).values():
            labelled = sum(name in current for name in names)
            assert 1 <= labelled <= 4
            others.append(len(names) - labelled)
            assert set(names) <= {*made.tasks.classes, *SEEN}
        assert min(others) >= 1, "the composer leaves a thing out where there is no room"
        assert np.mean([2 <= n <= 4 for n in others]) > 0.9
        assert 2 <= np.mean(others) <= 4


def test_half_of_the_far_unknown_classes_are_in_every_part_and_half_in_the_test_only(made):
    far = set(kenney.TABLE[kenney.FAR])
    shown = {part: set(Counter(chain(*objects_by_image(contents(made, part)).values()))) & far for part in PARTS}
    assert len(SEEN) == 8
    assert shown["test"] - set(SEEN), "something is met for the first time"
    assert all(shown[part] and shown[part] <= set(SEEN) for part in PARTS if part != "test")
    assert len(shown["train_1"]) == len(SEEN)


def test_every_training_image_shows_something_that_no_task_has_named_yet(made):
    for task in range(1, 5):
        named = set(made.tasks.known(task))
        by_image = objects_by_image(contents(made, f"train_{task}")).values()
        unknown = [sum(name not in named for name in names) for names in by_image]
        assert np.mean([n > 0 for n in unknown]) > 0.9, "the composer leaves a thing out where there is no room"
        assert made.manifest["statistics"]["parts"][f"train_{task}"]["unknown_per_image"] == pytest.approx(
            np.mean(unknown), abs=1e-3
        )


def test_a_quarter_of_a_later_tasks_images_are_those_of_earlier_tasks_annotated_the_same(made):
    seen = {}
    for task in range(1, 5):
        coco = contents(made, f"train_{task}")
        images = {image["id"]: image for image in coco["images"]}
        again = [number for number in images if number in seen]
        assert len(again) == (0 if task == 1 else 8)
        assert len(images) == (48 if task == 1 else 32)
        for number in again:
            earlier = seen[number]
            assert earlier["image"] == images[number]
            assert earlier["things"] == [a for a in coco["annotations"] if a["image_id"] == number]
            assert earlier["distractors"] == [d for d in coco["distractors"] if d["image_id"] == number]
        for number, image in images.items():
            seen[number] = {
                "image": image,
                "things": [a for a in coco["annotations"] if a["image_id"] == number],
                "distractors": [d for d in coco["distractors"] if d["image_id"] == number],
            }


def test_ids_are_the_same_everywhere_and_nobody_elses(made):
    files = {part: contents(made, part) for part in PARTS}
    categories = files["test"]["categories"]
    assert all(coco["categories"] == categories for coco in files.values())
    names = [category["name"] for category in categories]
    assert tuple(names[:32]) == made.tasks.classes
    assert [category["id"] for category in categories] == list(range(1, 48))
    assert made.tasks.unknown_id == 0
    for key in ("images", "annotations", "distractors"):
        for part, coco in files.items():
            assert len({thing["id"] for thing in coco[key]}) == len(coco[key]), part
        training = {thing["id"] for part in PARTS[:4] for thing in files[part][key]}
        val, test = ({thing["id"] for thing in files[part][key]} for part in ("val", "test"))
        assert not training & val
        assert not training & test
        assert not val & test


def test_splits_share_neither_photographs_nor_the_drawings_kept_for_the_test(made, demo_art):
    photographs = {part: {image["background"] for image in contents(made, part)["images"]} for part in PARTS}
    photographs["train"] = set.union(*(photographs[part] for part in PARTS[:4]))
    assert not photographs["train"] & photographs["val"]
    assert not photographs["train"] & photographs["test"]
    assert not photographs["val"] & photographs["test"]
    drawings = {part: {a["drawing"] for a in contents(made, part)["annotations"]} for part in PARTS}
    for name in made.tasks.classes:
        if len(demo_art.of(name)) > 1:
            kept = {d.id for d in demo_art.of(name, "test")}
            assert all(not kept & drawings[part] for part in PARTS if part != "test")


def test_boxes_are_inside_large_enough_and_distractors_are_beside_the_annotations(made):
    for part in PARTS:
        coco = contents(made, part)
        for thing in coco["annotations"] + coco["distractors"]:
            x, y, w, h = thing["bbox"]
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= 96
            assert thing["visible"] >= 0.5
        assert all("category_id" not in thing for thing in coco["distractors"])
        per_image = Counter(thing["image_id"] for thing in coco["distractors"])
        assert 0 < max(per_image.values()) <= 2
    things = contents(made, "test")["annotations"]
    assert any(thing["truncated"] for thing in things)
    assert any(thing["visible"] < 0.9 and not thing["truncated"] for thing in things)
    assert min(max(thing["full_bbox"][2:]) for thing in things) >= 12


def test_classes_are_long_tailed_in_training_and_even_in_the_test(made):
    objects = {name: of["objects"] for name, of in made.manifest["statistics"]["classes"].items()}
    for task in range(1, 5):
        current = made.tasks.current(task)
        first, last = (sum(objects[name][f"train_{task}"] for name in half) for half in (current[:4], current[4:]))
        assert first > 1.3 * last
    leading, trailing = (
        sum(objects[name]["test"] for task in range(1, 5) for name in made.tasks.current(task)[half])
        for half in (slice(0, 4), slice(4, 8))
    )
    assert 0.7 < leading / trailing < 1.4


# --- statistics ------------------------------------------------------------------------------------------------------


def test_the_manifest_counts_what_the_files_have(made):
    statistics = made.manifest["statistics"]
    for part in PARTS:
        coco, of = contents(made, part), statistics["parts"][part]
        by_image = objects_by_image(coco)
        assert of["images"] == len(by_image)
        assert of["objects"] == len(coco["annotations"]) == sum(of["box_sides"].values())
        assert of["objects_per_image"] == pytest.approx(len(coco["annotations"]) / len(by_image), abs=1e-3)
        assert of["labelled_per_image"] + of["unlabelled_per_image"] == pytest.approx(of["objects_per_image"], abs=1e-3)
        assert sum(of["images_by_unlabelled"].values()) == of["images"]
        assert of["truncated"] == pytest.approx(np.mean([a["truncated"] for a in coco["annotations"]]), abs=1e-3)
        counted = Counter(name for names in by_image.values() for name in names)
        showing = Counter(name for names in by_image.values() for name in set(names))
        for name, about in statistics["classes"].items():
            assert about["objects"][part] == counted[name]
            assert about["images"][part] == showing[name]
    assert [statistics["parts"][f"train_{k}"]["recurring"] for k in (1, 2, 3, 4)] == [0, 0.25, 0.25, 0.25]
    assert statistics["classes"]["robot"]["task"] == 1
    assert statistics["classes"]["bush"]["task"] is None


def test_box_sides_are_put_into_bins_by_the_root_of_their_area():
    boxes = [(4, 9), (16, 16), (20, 28.8), (300, 300), (24, 24)]  # sides 6, 16, 24, 300, 24
    found = openscenes.openscenes_statistics._histogram([{"bbox": [0, 0, w, h]} for w, h in boxes])
    assert {name: count for name, count in found.items() if count} == {"0-16": 1, "16-24": 1, "24-32": 2, "192-": 1}


def test_the_description_has_a_line_for_every_part_and_every_class(made):
    lines = describe(made.manifest["statistics"]).splitlines()
    assert [line.split()[0] for line in lines[2:8]] == PARTS
    assert "25%" in lines[3]
    assert {line.split()[1] for line in lines[11:]} == {*made.tasks.classes, *kenney.TABLE[kenney.FAR]}
    robot = next(line for line in lines if " robot " in line)
    labelled = made.manifest["statistics"]["classes"]["robot"]["objects"]["train_1"]
    assert robot.split()[:2] == ["1", "robot"]
    assert str(labelled) in robot.split()


# --- the same again --------------------------------------------------------------------------------------------------


def test_the_seed_decides_every_byte(demo_art, photos, few, tmp_path):
    def folder_hash(name, **settings):
        settings = {"variant": "M", "size": "tiny", "seed": 0, **settings}
        return make_openscenes(**settings, folder=tmp_path / name, backgrounds=photos).manifest["hash"]

    first = folder_hash("a")
    assert folder_hash("b") == first
    assert folder_hash("two processes", workers=2) == first
    assert folder_hash("c", seed=1) != first
    assert folder_hash("d", variant="S") != first


def test_the_same_request_finds_its_set_again_and_a_damaged_one_is_made_anew(demo_art, photos, few, cache, monkeypatch):
    said: list[str] = []
    first = make_openscenes("M", "tiny", 0, backgrounds=photos, say=said.append)
    assert first.folder.is_relative_to(cache)
    assert said.pop().startswith("composing OpenScenes: ")
    with monkeypatch.context() as patched:
        patched.setattr(openscenes, "_build", lambda *_: pytest.fail("made again"))
        assert make_openscenes("M", "tiny", 0, backgrounds=photos, say=said.append) == first
        assert not said
        assert open_openscenes(first.folder) == first
    (first.folder / "val.json").write_text("{}")
    with pytest.raises(DataError, match=r"is not as it was made: val\.json was changed; delete the folder"):
        open_openscenes(first.folder)
    assert make_openscenes("M", "tiny", 0, backgrounds=photos) == first


def test_what_is_in_a_folder_already_is_not_touched(demo_art, photos, few, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(DataError, match="thesis already holds something else: name a new folder, or delete this one"):
        make_openscenes("M", "tiny", 0, folder=tmp_path / "thesis", backgrounds=photos)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
    make_openscenes("M", "tiny", 0, folder=tmp_path / "set", backgrounds=photos)
    (tmp_path / "set" / "test.json").unlink()
    with pytest.raises(DataError, match=r"set is not as it was made: test\.json was deleted"):
        make_openscenes("M", "tiny", 0, folder=tmp_path / "set", backgrounds=photos)
    with pytest.raises(DataError, match="set already holds something else"):
        make_openscenes("M", "tiny", 1, folder=tmp_path / "set", backgrounds=photos)


def test_a_folder_that_is_no_openscenes_is_named_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(DataError, match="nowhere holds no OpenScenes: make it with `surnia detect data openscenes"):
        open_openscenes(tmp_path / "nowhere")


@pytest.mark.parametrize("wrong", [{"variant": "X"}, {"size": "huge"}, {"seed": -1}, {"workers": 0}])
def test_senseless_requests_are_refused(wrong):
    with pytest.raises(ValueError, match="variant is M or S"):
        make_openscenes(**wrong)


# --- own art ---------------------------------------------------------------------------------------------------------


def test_own_art_is_dealt_into_tasks(own, photographs, few, tmp_path):
    made = make_openscenes("M", "tiny", 0, folder=tmp_path / "set", sprites=own(6), backgrounds=photographs)
    # c5 has one drawing only, like c4 and c3, and is the last of them: far unknown, and being the only such class met
    # in training, too.
    assert made.tasks.tasks == (("c0", "c2", "c4"), ("c1", "c3"))
    assert sorted(p.name for p in made.folder.glob("*.json")) == sorted(
        ["train_1.json", "train_2.json", "val.json", "test.json", "manifest.json"]
    )
    for part in ("train_1", "train_2", "test"):
        assert "c5" in {n for names in objects_by_image(contents(made, part)).values() for n in names}
    shutil.rmtree(tmp_path / "own6")
    assert open_openscenes(made.folder).tasks == made.tasks


def test_too_few_classes_are_named_with_what_is_needed(own, photos):
    with pytest.raises(DataError, match=r"own3 has 3 classes to learn \(c0, c1, c2\): OpenScenes needs at least 4"):
        make_openscenes("M", "tiny", 0, sprites=own(3), backgrounds=photos)


def test_own_photographs_must_be_enough_for_distractors_in_every_split(own, photographs, photos):
    for k in range(5):
        (photographs / f"photo{k}.bmp").unlink()
    with pytest.raises(DataError, match=r"photographs leaves one photograph for the split 'val'.* at least 8"):
        make_openscenes("M", "tiny", 0, sprites=own(4), backgrounds=photographs)
    few_tests = Photographs({**{s: photos.of(s) for s in ("train", "val")}, "test": photos.of("test")[:1]})
    with pytest.raises(DataError, match="leaves one photograph for the split 'test'"):
        make_openscenes("M", "tiny", 0, sprites=own(5), backgrounds=few_tests)


def test_a_class_with_a_reserved_name_is_refused_before_anything_is_composed(own, photos, few, cache, monkeypatch):
    root = own(4)
    (root / "c0").rename(root / "unknown")
    with pytest.raises(ConfigError, match="unknown"):
        make_openscenes("M", "tiny", 0, sprites=root, backgrounds=photos)
    assert not (cache / "openscenes").exists()
