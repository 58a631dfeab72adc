import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.drawn import COLOURS, TASKS, draw_set, drawn_recipe, open_drawn

from apps.recipe_text import dump
from apps.report.detection import write_detection_report
from apps.report.detection.curves import beginnings, by_stage, precision_curves
from apps.report.detection.decision import _caption, flatten
from apps.report.detection.evidence import look_again
from apps.report.detection.run import DetectionRun
from apps.report.detection.scenes import caption, picture
from apps.report.detection.tables import write_tables
from apps.report.detection.verdicts import Judgement, Verdict, judge_images, strongest
from apps.report.page import Page
from detection.evaluation import DetectionArrays, GroundTruth
from detection.evaluation.comparison import Comparison, Found, Truths, compare
from detection.tasks import TaskSet
from detection.training.runner import detect_train
from sslcore.errors import CheckpointError
from sslcore.storage import RunDirectory

SECTIONS = (
    "Task by task", "What it sees", "From unknown to known", "Known or unknown: how it is decided",
    "Precision, recall, and whether the posterior can be trusted", "Embeddings and prototypes",
    "What was labelled unknown in training", "Training", "Recipe",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_drawn(draw_set(tmp_path_factory.mktemp("drawn"), test=12))


def trained(path, data, **changes):
    recipe = drawn_recipe(**changes)
    with RunDirectory.create(path, recipe=dump(recipe), command=["surnia", "detect", "train"], seed=3) as directory:
        detect_train(recipe, directory, data=data, quiet=True, say=lambda sentence: None)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    return trained(tmp_path_factory.mktemp("run") / "run", data)


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """A recipe whose test images neither have a yellow object nor a category for it."""
    folder = draw_set(tmp_path_factory.mktemp("lacking"))
    content = json.loads((folder / "test.json").read_text())
    yellow = next(each["id"] for each in content["categories"] if each["name"] == "yellow")
    content["categories"] = [each for each in content["categories"] if each["id"] != yellow]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] != yellow]
    (folder / "test.json").write_text(json.dumps(content))
    TASKS.save(folder / "tasks.yaml")
    files = {role: str(folder / f"{role}.json") for role in ("val", "test")}
    train = [str(folder / f"train_{task}.json") for task in (1, 2)]
    data = {
        "name": "coco",
        "tasks": str(folder / "tasks.yaml"),
        "train": train,
        "images": str(folder / "images"),
        **files,
    }
    recipe = drawn_recipe()
    return recipe.model_validate({**recipe.as_dict(), "data": {**data, "workers": 0}})


def text_of(path, data=None):
    return write_detection_report(path, data=data).read_text()


@pytest.fixture(scope="module")
def page(run, data):
    return text_of(run, data)


def test_a_report_is_whole_and_needs_nothing_from_outside(page):
    for section in SECTIONS:
        assert f"<h2>{section}</h2>" in page
    assert "What could not be read" not in page
    assert not re.search(r"https?://|@import|url\(", page)
    links = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(links) > 10
    assert all(link.startswith("data:image/") for link in links)
    assert "mode strict" in page
    assert "scores of at least 0.05 and at most 100 detections" in page


def test_a_class_that_the_test_images_do_not_know_can_be_found_in_them_all_the_same(lacking, tmp_path):
    with RunDirectory.create(tmp_path / "run", recipe=dump(lacking), command=["x"], seed=3) as directory:
        outcome = detect_train(lacking, directory, quiet=True, say=lambda sentence: None)
    found = json.loads((tmp_path / "run/tasks/2/detections.json").read_text())
    assert len(COLOURS) + 1 in {each["category_id"] for each in found}  # yellow, by an id above those of the file
    assert outcome.results["by_task"][1]["strict"]["ap_per_class"]["yellow"] is None
    page = text_of(tmp_path / "run")
    assert "What could not be read" not in page
    assert "Precision, recall, and whether the posterior can be trusted" in page and 'src="data:image/' in page


def test_the_wilderness_impact_says_how_many_classes_it_is_of(run, data):
    opened, page = DetectionRun.open(run, data), Page("", "")
    page.section("Task by task")
    known = dict.fromkeys(opened.tasks.known(2), 0.5)
    opened.done[1]["strict"].update(wi=0.0219, wi_classes=2, recall_per_class={**known, "unknown": 0.5})
    write_tables(page, opened)
    (row,) = (row for row in page.sections[0]["blocks"][0]["rows"] if row[0].startswith("WI at recall .8"))
    assert row[2] == "0.022 (2 of 4 classes)"


def test_numbers_are_those_of_the_results(run, data, page):
    results = DetectionRun.open(run, data).done
    for name, key in (("U-Recall@10", "u_recall_10"), ("mAP, both", "map_both")):
        cells = re.search(rf"<td>{name}</td>(.*?)</tr>", page)[1]
        expected = [f"{100 * task['strict'][key]:.1f} %" for task in results]
        assert re.findall(r"<td>(.*?)</td>", cells) == expected


def test_distractors_are_spoken_of_where_there_are_some(run, data, page, tmp_path):
    first = re.search(r"<h2>Task by task</h2>.*?</section>", page, re.DOTALL)[0]
    assert "istractors" not in first and "Higher is better but for WI and A-OSE" in first
    shutil.copytree(run, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "results.json").read_text())
    content["by_task"][1]["strict"]["distractor_recall_10"] = 0.125
    (tmp_path / "run" / "results.json").write_text(json.dumps(content))
    other = text_of(tmp_path / "run", data)
    assert "<td>the same, ten best an image</td><td>–</td><td>12.5 %</td>" in re.sub(r"\s*\n\s*", "", other)
    assert "Distractors are patches" in other and "but for distractors, WI and A-OSE" in other


def test_the_same_run_gives_the_same_page(run, data, page):
    assert text_of(run, data) == page


def test_data_that_are_gone_take_pictures_along_and_nothing_else(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SURNIA_CACHE", str(tmp_path))
    copy = shutil.copytree(run, tmp_path / "copy")

    def gone(settings, **options):
        raise CheckpointError("the folder with the images is gone")

    monkeypatch.setattr("apps.report.detection.run.open_data", gone)
    page = text_of(copy)
    assert "the folder with the images is gone" in page
    assert "No pictures: the test images or the detections in them are not there any more." in page
    assert "No precision-recall curves" in page
    assert "<h2>Training</h2>" in page


def test_other_data_than_the_run_s_are_not_used(run, tmp_path):
    other = open_drawn(draw_set(tmp_path / "other", seed=9))
    assert "have changed since the run" in text_of(shutil.copytree(run, tmp_path / "copy"), other)


def test_files_that_are_gone_are_named(run, data, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    for name in ("energies.json", "embeddings.safetensors", "detections.json", "model"):
        place = copy / "tasks" / "2" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    (copy / "metrics.jsonl").unlink()
    (copy / "recipe.yaml").unlink()
    page = text_of(copy, data)
    assert "Task 2: energies.json is not there" in page
    assert "No map" in page
    assert "No loss curves" in page
    assert "recipe.yaml is not there" in page


def test_a_damaged_file_is_said_and_the_rest_shown(run, data, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "tasks" / "1" / "energies.json").write_text("{")
    (copy / "tasks" / "2" / "detections.json").write_text("[{}]")
    page = text_of(copy, data)
    assert "What could not be read" in page
    assert "energies.json is damaged" in page
    assert "detections.json: detection 0" in page


def test_purity_is_said_to_be_unknown_where_nothing_judged_it(run, data, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    results = json.loads((copy / "results.json").read_text())
    found = results["by_task"][1]["purity"]["train"]
    found["chosen"] = dict.fromkeys(found["chosen"]) | {"count": 0}
    (copy / "results.json").write_text(json.dumps(results))
    page = text_of(copy, data)
    assert "What pseudo-unknowns of task 2 lay on is not known" in page
    assert "In task 1, " in page and "In task 2, " not in page


def test_no_fit_no_clustering_no_pseudo_labels_and_one_task(data, tmp_path):
    path = trained(
        tmp_path / "run", data, tasks=1, decision={"fit": "none"}, clustering={"loss": "none"},
        unknowns={"per_image": 0},
    )  # fmt: skip
    page = text_of(path, data)
    assert "From unknown to known" not in page
    assert "There is nothing to draw: no decision was fitted." in page
    assert "No pseudo-labels were given" in page
    assert "There is no clustering loss" in page


def test_a_last_task_without_unknown_objects(tmp_path):
    tasks = TaskSet("all", (("red", "green"), ("blue", "yellow", "grey")))
    data = open_drawn(draw_set(tmp_path / "drawn"), tasks)
    page = text_of(trained(tmp_path / "run", data), data)
    assert "The test images show no unknown object after this task" in page
    assert re.search(r"<td>U-AP</td><td>[\d.]+ %</td><td>–</td>", page)


def test_a_run_without_an_evaluated_task_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no task of .* has been evaluated yet"):
        write_detection_report(tmp_path)


# --- parts, by hand --------------------------------------------------------------------------------------------------


def test_what_known_classes_pay_for_the_prior_is_said_where_it_was_measured():
    cost = {"prior": 0.44, "map_without": 0.55, "map_with": 0.531, "images": 1200}
    fit = {"known_count": 2100, "unknown_count": 30, "threshold": -3.2, "prior": 0.44, "cost": cost}
    prior = "The prior of being unknown is 0.44"
    assert (
        f"{prior}: mAP of known classes on 1,200 validation images is 53.1 with it, 55.0 where nothing is called "
        "unknown. " in _caption(2, fit, None)
    )
    for unmeasured in (None, cost | {"map_without": None, "map_with": None}):
        assert f"{prior}. " in _caption(2, fit | {"cost": unmeasured}, None)
    of_before = {name: fit[name] for name in ("known_count", "unknown_count", "threshold")}
    assert "prior" not in _caption(2, of_before, None)


def test_what_is_shown_are_good_known_and_the_best_unknown_detections():
    image = np.array([0, 0, 0, 0, 1, 0, 0])
    label = np.array([2, 2, 2, 2, 2, 1, 1])  # 2: unknown, of two classes
    scores = np.array([0.1, 0.5, 0.3, 0.2, 0.05, 0.31, 0.29])
    found = Found(image, np.tile([0.0, 0, 4, 4], (7, 1)), label, scores, None, None)
    kept = strongest(replace(compared([0], [True]), images=2, found=found)).found
    assert kept.scores.tolist() == [0.5, 0.3, 0.2, 0.05, 0.31]


def test_verdicts_on_drawn_detections(run, data, monkeypatch):
    """On one image: every object named as what it is but the first, one object flagged twice, one thing on nothing."""
    report = DetectionRun.open(run, data)
    test = data.test
    image = next(i for i in range(len(test.images)) if "grey" in names_in(test, i) and "red" in names_in(test, i))
    rows = np.flatnonzero(test.box_image == image)
    records, unknown = [], 0
    for row in rows:
        name = test.categories[test.box_category[row]]
        if name == "red":
            continue
        # After task 1 blue, yellow and grey are unknown. Grey is called green: an open-set error.
        wrong = name == "grey"
        category = test.category_ids[test.categories.index("green")] if wrong or name == "green" else 0
        unknown += category == 0
        records.append(detection(test, image, category, test.boxes[row]))
    records.append(detection(test, image, 0, np.array([62.0, 62.0, 64.0, 64.0])))
    truth, found = GroundTruth.from_annotations(test), DetectionArrays.from_results(records)
    monkeypatch.setattr(DetectionRun, "comparison", lambda self, task: compare(truth, found, TASKS, task))
    judged = judge_images(report, 1)[image]
    assert judged.count("open-set") == names_in(test, image).count("grey")
    assert judged.count("found") == min(unknown, 3)
    assert judged.count("no object") == 1
    assert [(name, future) for name, future, _ in judged.missed if name == "red"] == [("red", False)]
    assert ("grey", True) in [(name, future) for name, future, _ in judged.missed]
    said = caption(judged)
    assert "Open-set error: green 0.90 is an unknown grey" in said
    assert "No object: unknown on background." in said
    assert picture(test, judged, TASKS.label_names(1)).size == (320, 320)


def names_in(test, image):
    return [test.categories[category] for category in test.box_category[test.box_image == image]]


def detection(test, image, category, box):
    left, top, right, bottom = box.tolist()
    return {
        "image_id": test.images[image].id, "category_id": category, "bbox": [left, top, right - left, bottom - top],
        "score": 0.9, "energy": 0.0, "unknown_posterior": 0.5,
    }  # fmt: skip


def test_captions_count_what_recurs():
    def verdict(kind, name, truth):
        return Verdict(kind, (0, 0, 1, 1), 2, name, 0.5, 0.7, truth)

    judged = Judgement(0, [verdict("wrong", "robot", "background")] * 3 + [verdict("wrong", "robot", "robot")])
    judged.missed = [("worm", False, (0, 0, 1, 1)), ("bush", True, (0, 0, 1, 1))]
    assert caption(judged) == (
        "Wrong: robot on background (3 times), robot found once more. Missed: worm, bush (unknown)."
    )


def compared(labels, hits):
    """One image with an object of class 0 for each hit of a detection that lies on one, by falling score."""
    boxes = np.array([[10.0 * i, 0, 10.0 * i + 8, 8] for i in range(len(hits))])
    on = np.flatnonzero(hits)
    truths = Truths(np.zeros(len(on), np.int64), boxes[on], np.array(labels)[on], *(np.zeros((2, len(on)), bool)))
    scores = np.linspace(0.9, 0.1, len(hits))
    found = Found(np.zeros(len(hits), np.int64), boxes, np.array(labels), scores, None, None)
    none = np.zeros(0, np.int64)
    return Comparison(("a", "b"), 0, 2, 1, np.zeros(1, np.int64), truths, found, none, np.zeros((0, 4)))


def test_precision_at_each_recall_by_hand():
    # Right, wrong, right: recall .5 at precision 1, recall 1 at precision 2/3; class 1 and unknown have no object.
    known, unknown = precision_curves(compared([0, 0, 0], [True, False, True]))
    assert known[:51] == pytest.approx(np.ones(51))
    assert known[51:] == pytest.approx(np.full(50, 2 / 3))
    assert unknown is None


def test_curves_have_a_gap_between_stages():
    logged = [
        {"step": 1, "task": 1, "stage": "train", "loss": 4.0},
        {"step": 2, "task": 1, "stage": "train", "loss": 2.0},
        {"step": 3, "task": 2, "stage": "train", "loss": 9.0},
    ]
    steps, values = by_stage(logged, "loss", width=2)
    assert steps == [1, 2, 2, 3, 3]
    assert values[:2] + values[3:4] == [4.0, 3.0, 9.0]
    assert [math.isnan(value) for value in values] == [False, False, True, False, True]
    assert beginnings(logged) == [(1, "1 train"), (3, "2 train")]


def test_the_detector_looks_at_the_test_images_again_until_its_time_is_up(run, data):
    report = DetectionRun.open(run, data)
    seen = look_again(report, 1)
    assert seen.images == len(data.test.images)
    assert sum(map(len, seen.values.values())) > 0
    ticks = iter(range(100))
    assert look_again(report, 1, seconds=2.5, clock=lambda: float(next(ticks))).images == 3
    assert not report.problems


def test_a_map_of_directions_is_the_same_each_time():
    vectors = np.random.default_rng(0).normal(size=(20, 6))
    vectors[3] = 0
    points = flatten(vectors)
    assert points.shape == (20, 2)
    assert np.isfinite(points).all()
    assert np.array_equal(points, flatten(vectors))
