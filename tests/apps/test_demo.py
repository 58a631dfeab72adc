"""The demo with drawn shapes and stages of a few steps: its order, its page, and going on after an interruption."""

import json
import re

import numpy as np
import pytest
from support.control import small_recipe as acting_recipe
from support.drawn import draw_set, drawn_recipe, open_drawn
from support.recipes import small_recipe

from apps import demo, demo_control, demo_detection, demo_features
from apps.demo_detection import FoundGroups, Learning, true_names
from apps.demo_page import add_groups
from apps.recipe_files import shipped_file
from apps.recipe_text import dump
from apps.recipes import load_recipe
from apps.report import Page
from detection.data.scenes import CropSet
from detection.discovery import Wanted
from detection.discovery.grouping import Group
from detection.training.recipe import DetectionRecipe
from sslcore.errors import ConfigError
from sslcore.pretrain.recipe import Recipe

STEPS = 2


def crops(split, count, *, seed=0):
    """Ten classes of tinted noise."""
    rng = np.random.default_rng([seed, len(split)])
    labels = np.arange(count) % 10
    images = rng.integers(0, 90, (count, 3, 48, 48)) + 16 * labels[:, None, None, None]
    return CropSet(
        images=images.astype(np.uint8),
        labels=labels.astype(np.int64),
        drawings=np.zeros(count, dtype=np.int64),
        classes=tuple(f"class {i}" for i in range(10)),
        split=split,
    )


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The demo made small enough for a test; gives the data of its detector."""
    data = open_drawn(draw_set(tmp_path / "drawn"))
    backbone = {"name": "tiny", "width": 4}
    pretraining = small_recipe(backbone=backbone, batch_size=32, max_steps=2 * STEPS, diagnostics=False)
    recipes = {"pretrain": pretraining, "detection": drawn_recipe(unknowns={"start": 0.0}), "control": acting_recipe()}
    for folder, recipe in recipes.items():
        (tmp_path / f"{folder}.yaml").write_text(dump(recipe))

    def stand_in(name, folder="pretrain"):
        return tmp_path / f"{folder}.yaml"

    for module in (demo, demo_control, demo_detection):
        monkeypatch.setattr(module, "shipped_file", stand_in)
    monkeypatch.setattr(demo, "TRAIN", 96)
    monkeypatch.setattr(demo, "TEST", 96)
    monkeypatch.setattr(demo_features, "PENALTIES", (1.0,))
    monkeypatch.setattr(demo, "make_crops", crops)
    monkeypatch.setattr(demo_detection, "make_openscenes", lambda *given, **named: None)
    monkeypatch.setattr(demo_detection, "open_data", lambda settings: data)
    monkeypatch.setattr(demo_detection, "GROUPS", 2)
    monkeypatch.setattr(demo_detection, "WANTED", Wanted(score=0.0))
    return data


@pytest.fixture
def unwritten(monkeypatch):
    """Nothing is measured of the backbone and no report written: for tests of the order of things."""
    monkeypatch.setattr(demo, "evaluate", lambda *given: [])
    monkeypatch.setattr(demo, "pretraining_page", lambda *given: Page("demo", ""))
    monkeypatch.setattr(demo, "add_detection", lambda page, found: page.section("found"))
    monkeypatch.setattr(demo, "write_detection_report", lambda *given, **named: None)


def go(path, **given):
    return demo.run(path, command=["surnia", "demo"], threads=1, **given)


def test_from_crops_to_a_second_task(small, tmp_path, capsys):
    path = tmp_path / "demo"
    assert go(path, steps=STEPS, seed=1) == 0
    said = capsys.readouterr().out
    assert [line[:4] for line in said.splitlines() if line[1:4] == "/9 "] == [f"{i}/9 " for i in range(1, 10)]
    assert f"surnia detect unknowns {path / 'detection'}" in said
    assert len(said.splitlines()) < 60

    page = (path / "report.html").read_text()
    for heading in ("Does it know more than before?", "A detector on it, and what it does not know",
                    "What it called unknown, in groups", "More kinds of things", "And now it acts",
                    "With your own pictures"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page
    linked = re.findall(r'href="([^"]*)"', page)
    assert linked == ["unknowns/index.html", "detection/report.html", "control/report.html"]
    assert all((path / place).exists() for place in linked)
    assert "Group 1: " in page
    results = json.loads((path / "detection" / "results.json").read_text())
    assert [task["task"] for task in results["by_task"]] == [1, 2]
    assert results["seed"] == 1
    assert results["recipe"]["network"]["weights"] == str(path)
    names = (path / "unknowns" / "names.yaml").read_text()
    assert f"surnia detect learn {path / 'detection'} {path / 'unknowns' / 'names.yaml'}" in names


@pytest.mark.parametrize("place", ["pretraining", "task 1", "groups", "task 2", "acting"])
def test_interrupted_anywhere_it_goes_on(small, unwritten, tmp_path, monkeypatch, capsys, place):
    path = tmp_path / "demo"
    with monkeypatch.context() as patched:
        interrupt(patched, place)
        assert go(path, steps=STEPS) == 130
    said = capsys.readouterr().out
    assert f"surnia demo --resume {path}" in said
    assert go(path, resume=True) == 0
    assert json.loads((path / "run.json").read_text())["status"] == "finished"
    assert len(json.loads((path / "detection" / "results.json").read_text())["by_task"]) == 2


def interrupt(patched, place):
    """Ctrl-C at the beginning of a stage."""

    def stop(*given, **named):
        raise KeyboardInterrupt

    if place == "pretraining":
        patched.setattr(demo, "pretrain", stop)
    elif place == "acting":
        patched.setattr(demo_control, "one", stop)
    elif place == "groups":
        patched.setattr(Learning, "find_groups", stop)
    else:
        real, wanted = Learning.learn, int(place[-1])
        patched.setattr(Learning, "learn", lambda self, task: stop() if task == wanted else real(self, task))


def test_a_signal_while_training_leaves_its_exit_code(small, unwritten, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Learning, "learn", lambda self, task: (True, 143))
    assert go(tmp_path / "demo", steps=STEPS) == 143
    assert "surnia demo --resume" in capsys.readouterr().out
    assert json.loads((tmp_path / "demo" / "run.json").read_text())["status"] == "stopped"


def test_interrupted_before_anything_was_trained(small, tmp_path, monkeypatch, capsys):
    def stop(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "make_crops", stop)
    assert go(tmp_path / "demo") == 130
    assert "starts anew" in capsys.readouterr().out


def test_another_kind_of_run_cannot_be_continued_as_a_demo(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"command": ["surnia", "pretrain", "folder_cpu"]}))
    with pytest.raises(ConfigError, match="is not a demo"):
        go(tmp_path, resume=True)


def test_without_unknown_objects_there_are_no_groups(small, unwritten, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_detection, "WANTED", Wanted(score=1.0))
    monkeypatch.setattr(demo, "add_detection", lambda page, found: groups_section(page, found.groups))
    path = tmp_path / "demo"
    assert go(path, steps=STEPS) == 0
    assert "Too few unknown objects were found to group them" in (path / "report.html").read_text()


def groups_section(page, groups):
    page.section("What it called unknown, in groups")
    add_groups(page, groups)


def test_the_detector_begins_with_the_backbone_that_was_pretrained():
    """A detector refuses a backbone of another width."""
    pretraining, _ = load_recipe(str(shipped_file("demo")), Recipe)
    detection, _ = load_recipe(str(shipped_file("demo", "detection")), DetectionRecipe)
    assert pretraining.backbone.name == detection.network.name
    assert pretraining.backbone.width == detection.network.width
    assert detection.tasks == 2


def test_steps_in_proportion(tmp_path, monkeypatch):
    base, _ = load_recipe(str(shipped_file("demo", "detection")), DetectionRecipe)
    monkeypatch.setattr(Learning, "_open", lambda self, threads: None)
    half = Learning(tmp_path, seed=0, threads=1, share=0.5).recipe
    least = Learning(tmp_path, seed=0, threads=1, share=1e-6).recipe
    assert half.first.steps == base.first.steps / 2
    assert (least.first.steps, least.later.steps, least.finetune.steps) == (1, 1, 1)


def test_a_run_goes_on_with_the_recipe_it_was_begun_with(small, tmp_path):
    path = tmp_path / "demo"
    (path / "detection").mkdir(parents=True)
    begun = drawn_recipe(first={"steps": 77})
    (path / "detection" / "recipe.yaml").write_text(dump(begun))
    assert Learning(path, seed=9, threads=1).recipe == begun.model_copy(update={"threads": 1})


def test_what_groups_really_are():
    group = Group(1, np.array([0, 2, 3]), np.ones(3))
    found = FoundGroups(None, None, None, ["ship", "key", "ship", "no object"], 4)
    assert found.mostly(group) == [("ship", pytest.approx(2 / 3)), ("no object", pytest.approx(1 / 3))]


def test_true_names_come_from_the_annotation(tmp_path):
    data = open_drawn(draw_set(tmp_path / "drawn"))
    train = data.train(2)

    class Unknowns:
        images = (0, 5)
        boxes = np.stack([train.boxes[train.box_image == 5][0], [60.0, 60, 64, 64]])
        box_image = np.array([1, 0])

        def path(self, image):
            return train.path(self.images[image])

        def __len__(self):
            return 2

    name = train.categories[train.box_category[train.box_image == 5][0]]
    assert true_names(Unknowns(), train, data.tasks) == [name, "no object"]
