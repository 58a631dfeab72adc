"""Detections as ORE's code base writes them; the golden cases written so must give the golden numbers."""

import json
from pathlib import Path

import pytest

from detection.data.categories import with_categories
from detection.data.coco import read_coco
from detection.evaluation import GroundTruth, evaluate
from detection.evaluation.voc_files import notes_on, read_voc_detections
from detection.tasks import TaskSet
from sslcore.errors import DataError

GOLDEN = Path(__file__).parent / "golden_ore"


def golden(case):
    content = json.loads((GOLDEN / f"case_{case}.json").read_text())
    tasks = TaskSet("golden", tuple(map(tuple, content["tasks"])))
    annotations = read_coco(GOLDEN / "annotations.json", tasks=tasks)
    return content, tasks, GroundTruth.from_annotations(with_categories(annotations, tasks.classes, unknown_id=0))


def write_as_ore(folder, records, images, tasks, names, *, lines):
    """One file a class, a line for each detection of each line of the list, as ORE's evaluator prints them."""
    by_image = {}
    for record in records:
        by_image.setdefault(record["image_id"], []).append(record)
    written = {name: [] for name in (*tasks.classes, "unknown")}
    for line in lines:
        for record in by_image.get(images[line], []):
            x, y, width, height = record["bbox"]
            corners = (x + 1, y + 1, x + width, y + height)
            text = " ".join(f"{value:.1f}" for value in corners)
            written[names[record["category_id"]]].append(f"{Path(line).stem} {record['score']:.3f} {text}")
    folder.mkdir(exist_ok=True)
    for name, rows in written.items():
        (folder / f"{name}.txt").write_text("\n".join(rows or [""]))
    return folder


def written_golden(folder, case, *, lines=None):
    content, tasks, truth = golden(case)
    records = json.loads((GOLDEN / f"detections_t{content['task']}.json").read_text())
    names = {0: "unknown", **dict(zip(truth.category_ids, truth.categories, strict=True))}
    images = dict(zip(truth.file_names, truth.image_ids, strict=True))
    write_as_ore(folder, records, images, tasks, names, lines=lines or content["image_list"])
    return content, tasks, truth


def near(expected):
    if isinstance(expected, dict):
        return {key: near(value) for key, value in expected.items()}
    return None if expected is None else pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", ["t1_unique", "t1_dup", "t2_unique", "t2_dup"])
def test_golden_cases_as_files_give_the_golden_numbers(tmp_path, case):
    content, tasks, truth = written_golden(tmp_path / "files", case)
    found = read_voc_detections(tmp_path / "files", truth, tasks)
    assert found.fit(truth, content["image_list"])
    result = evaluate(truth, found.once, tasks, content["task"], mode="ore", image_list=content["image_list"])
    assert {key: result[key] for key in content["expected"]} == near(content["expected"])


@pytest.mark.parametrize("case", ["t1_dup", "t2_dup"])
def test_files_with_each_image_once_against_a_list_with_repetitions(tmp_path, case):
    content = golden(case)[0]
    once = list(dict.fromkeys(content["image_list"]))
    content, tasks, truth = written_golden(tmp_path / "files", case, lines=once)
    found = read_voc_detections(tmp_path / "files", truth, tasks)
    assert not found.fit(truth, content["image_list"])
    result = evaluate(
        truth, found.lines, tasks, content["task"], mode="ore", image_list=content["image_list"],
        detections_once_per_image=True,
    )  # fmt: skip
    expected = content["variants"]["detections_once_per_image"]
    assert {key: result[key] for key in expected} == near(expected)


@pytest.mark.parametrize("case", ["t1_dup", "t2_dup"])
def test_strict_takes_each_image_once_however_often_it_was_run(tmp_path, case):
    content, tasks, truth = written_golden(tmp_path / "dup", case)
    once = list(dict.fromkeys(content["image_list"]))
    written_golden(tmp_path / "once", case, lines=once)
    results = [
        evaluate(truth, read_voc_detections(tmp_path / name, truth, tasks).once, tasks, content["task"], coco=False)
        for name in ("dup", "once")
    ]
    assert results[0] == results[1]
    assert results[0]["u_recall"] > 0


# --- by hand ---------------------------------------------------------------------------------------------------------

TASKS = TaskSet("two", (("aeroplane", "dog"), ("traffic light",)), aliases={"airplane": "aeroplane"})


@pytest.fixture
def truth(tmp_path):
    images = [
        {"id": 1_000_000_139, "file_name": "voc2007/000139.jpg", "width": 90, "height": 90},
        {"id": 139, "file_name": "val2017/000000000139.jpg", "width": 90, "height": 90},
        {"id": 285, "file_name": "val2017/000000000285.jpg", "width": 90, "height": 90},
    ]
    categories = [{"id": 5, "name": "airplane"}, {"id": 18, "name": "dog"}, {"id": 10, "name": "traffic light"}]
    boxes = [{"id": 1, "image_id": 285, "category_id": 18, "bbox": [10, 20, 30, 40]}]
    (tmp_path / "gt.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return GroundTruth.from_annotations(read_coco(tmp_path / "gt.json", tasks=TASKS))


@pytest.fixture
def files(tmp_path):
    def write(**rows):
        folder = tmp_path / "found"
        folder.mkdir(exist_ok=True)
        for name, text in rows.items():
            (folder / f"{name}.txt").write_text(text)
        return folder

    return write


def test_corners_names_and_numbers(files, truth):
    folder = files(
        airplane="000139 0.500 11.0 21.0 40.0 60.0\n",
        traffic_light="000000000139 0.250 1.0 1.0 2.0 2.0",
        dog="\n",
        unknown="285 0.125 11.5 21.0 40.0 60.0\n000000000285.jpg 0.1 1 1 9 9\n",
    )
    (folder / "notes.md").write_text("not read")
    with pytest.raises(DataError, match=r"found has detections in 1 images .* '000000000285\.jpg'"):
        read_voc_detections(folder, truth, TASKS)
    files(unknown="285 0.125 11.5 21.0 40.0 60.0\nval2017/000000000285.jpg 0.1 1 1 9 9\n")
    found = read_voc_detections(folder, truth, TASKS).lines
    assert found.image_ids.tolist() == [1_000_000_139, 139, 285, 285]
    assert found.category_ids.tolist() == [5, 10, 0, 0]
    assert found.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 2, 2], [10.5, 20, 40, 60], [0, 0, 9, 9]]
    assert found.scores.tolist() == [0.5, 0.25, 0.125, 0.1]


def test_files_named_as_the_development_kit_does(files, truth):
    folder = files(comp4_det_test_dog="000139 0.5 1 1 9 9\n", **{"comp4_det_test_traffic light": ""})
    found = read_voc_detections(folder, truth, TASKS)
    assert (found.classes, found.lines.category_ids.tolist()) == (("dog", "traffic light"), [18])
    assert any("nothing was called unknown" in note for note in notes_on(found))


def test_a_number_that_two_images_have_is_refused(files, truth):
    with pytest.raises(DataError, match="1 images are named by a number that two of the annotated images have, '139'"):
        read_voc_detections(files(dog="139 0.5 1 1 9 9\n"), truth, TASKS)


def test_repetitions_of_images_are_told_from_equal_boxes(files, truth):
    """Image 285 was run twice; in 000139 two equal boxes were found beside another one."""
    twice = "000000000285 0.5 1 1 9 9\n000000000285 0.4 2 2 9 9\n" * 2
    folder = files(dog=f"{twice}000139 0.3 1 1 9 9\n000139 0.3 1 1 9 9\n", unknown="000139 0.2 1 1 9 9\n")
    found = read_voc_detections(folder, truth, TASKS)
    assert found.runs.tolist() == [1, 0, 2]
    assert (len(found.lines), len(found.once)) == (7, 5)
    assert found.once.scores.tolist() == [0.5, 0.4, 0.3, 0.3, 0.2]
    assert found.fit(truth, ["000139", "000000000285", "000000000285", "000000000139"])
    assert not found.fit(truth, ["000139", "000000000285"])
    assert [note.split(";")[0] for note in notes_on(found)] == ["The run had 1 images listed more than once"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("dog", "000139 0.5 1 1 9\n", r"dog\.txt, line 1, is no detection"),
        ("dog", "000139 0.5 1 1 9 9\n\n000139 0.5 1 1 9 x\n", r"dog\.txt, line 3, is no detection"),
        ("dog", "000139 0.5 1 1 9 nan\n", r"dog\.txt, line 1, is no detection"),
        ("dog", "000139 0.5 1 1 9 9 1 2 3 4 5\n", r"dog\.txt, line 1, is no detection"),
        ("dog", "000139 0.5 9 1 1 9\n", r"detection 0 \(from 0\) has the box"),
        ("dgo", "", r"dgo\.txt is of no class of two: take it out, .* --tasks; did you mean 'dog'\?"),
    ],
)
def test_what_is_wrong_is_named(files, truth, name, text, said):
    with pytest.raises(DataError, match=said):
        read_voc_detections(files(**{name: text}), truth, TASKS)


def test_two_files_of_one_class_and_none_at_all(files, truth, tmp_path):
    with pytest.raises(DataError, match=r"aeroplane\.txt and .*airplane\.txt are both of 'aeroplane'"):
        read_voc_detections(files(airplane="", aeroplane=""), truth, TASKS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no detections in Pascal VOC's form; give the folder"):
        read_voc_detections(tmp_path / "empty", truth, TASKS)


def test_empty_files_are_a_run_that_found_nothing(files, truth):
    found = read_voc_detections(files(dog="", unknown="\n"), truth, TASKS)
    assert len(found.lines) == 0
    assert evaluate(truth, found.once, TASKS, 1, mode="ore")["recall_per_class"]["dog"] == 0
