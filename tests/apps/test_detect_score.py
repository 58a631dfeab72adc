"""`surnia detect score` as a function."""

import json
import subprocess
import sys

import pytest

from apps.detect_score import options, score
from detection.data.coco import read_coco
from detection.data.problems import Problems
from detection.data.validation import clean
from detection.evaluation import DetectionArrays, GroundTruth, evaluate
from detection.tasks import TaskSet
from sslcore.errors import ConfigError, DataError


@pytest.fixture
def files(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in (1, 2)]
    boxes = [(1, 1, [0, 0, 50, 50]), (1, 2, [50, 50, 50, 50]), (2, 3, [0, 0, 20, 20])]
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, category, box) in enumerate(boxes, start=1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(("cat", "dog", "fox"), start=1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.9},
        {"image_id": 1, "category_id": 0, "bbox": [50, 50, 50, 50], "score": 0.8},
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.7},
    ]
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    TaskSet("pets", (("cat",), ("dog",))).save(tmp_path / "tasks.yaml")
    return tmp_path


def words(files, *more, task="1"):
    given = {"--gt": files / "gt.json", "--detections": files / "found.json", "--tasks": files / "tasks.yaml"}
    return [str(word) for pair in given.items() for word in pair] + ["--task", task, *map(str, more)]


def test_table_and_file(files, capsys):
    assert score(options().read(words(files, "--json", files / "out.json"))) == 0
    result = json.loads((files / "out.json").read_text())
    assert (result["mode"], result["task"], result["map_previous"], result["map_both"]) == ("strict", 1, None, 1.0)
    assert (result["u_recall"], result["u_ap"], result["a_ose"], result["a_ose_objects"]) == (0.5, 0.5, 1, 1)
    assert result["detections_file"].endswith("found.json")
    said = capsys.readouterr().out
    assert "Task 1 of pets, mode strict" in said
    assert "2 images, 3 detections; no score floor, no cap per image." in said
    assert "50.00 %" in said
    with pytest.raises(ConfigError, match="exists already"):
        score(options().read(words(files, "--json", files / "out.json")))
    assert score(options().read(words(files, "--json", files / "out.json", "--overwrite"))) == 0


def test_mode_ore_with_a_list(files, capsys):
    (files / "list.txt").write_text("1\n1\n\n1.jpg\n")
    more = ["--mode", "ore", "--image-list", files / "list.txt", "--json", files / "out.json"]
    assert score(options().read(words(files, *more))) == 0
    result = json.loads((files / "out.json").read_text())
    assert (result["images"], result["image_lines"], result["detections"]) == (1, 3, 2)
    assert result["recall_per_class"]["cat"] == pytest.approx(1 / 3)
    assert "1 images (3 lines)" in capsys.readouterr().out


def test_floor_and_cap(files):
    more = ["--score-floor", "0.75", "--per-image", "1", "--json", files / "out.json"]
    assert score(options().read(words(files, *more))) == 0
    result = json.loads((files / "out.json").read_text())
    assert (result["detections"], result["score_floor"], result["per_image"], result["u_recall"]) == (1, 0.75, 1, 0.0)


def test_one_sentence_each(files):
    with pytest.raises(ConfigError, match="task 3 does not exist"):
        score(options().read(words(files, task="3")))
    with pytest.raises(ConfigError, match="must be one of strict, ore"):
        options().read(words(files, "--mode", "legacy"))
    (files / "list.txt").write_text("\n")
    with pytest.raises(DataError, match="names no image"):
        score(options().read(words(files, "--image-list", files / "list.txt")))
    (files / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not text"):
        score(options().read(words(files, "--image-list", files / "list.txt")))
    with pytest.raises(ConfigError, match="is a folder"):
        score(options().read(words(files, "--json", files)))
    (files / "found.json").write_text("{}")
    with pytest.raises(DataError, match="list of detections"):
        score(options().read(words(files)))


def without_detections(files, capsys, *more):
    """What is said on stderr, and the result, where nothing is left to score."""
    given = words(files, *more, "--json", files / "out.json", "--overwrite")
    assert score(options().read(given)) == 0
    result = json.loads((files / "out.json").read_text())
    assert (result["detections"], result["u_recall"], result["u_ap"], result["lowest_score"]) == (0, 0.0, 0.0, None)
    return capsys.readouterr().err, result


def test_zeros_are_explained(files, capsys):
    """Nothing left to score is no error, but nobody should have to guess why all is zero."""
    err, result = without_detections(files, capsys, "--score-floor", "0.95")
    assert err == f"note: no detection was scored: of the 3 in {files}/found.json, left out were 3 detections below " \
        "the score floor\n"  # fmt: skip
    assert result["left_out"] == {"image_list": 0, "score_floor": 3, "per_image": 0}
    (files / "list.txt").write_text("2\n")
    err, _ = without_detections(files, capsys, "--image-list", files / "list.txt", "--score-floor", "0.75")
    assert "left out were 2 detections in images that are not listed and 1 below the score floor" in err
    (files / "found.json").write_text("[]")
    err, result = without_detections(files, capsys)
    assert err.startswith(f"note: there is no detection in {files}/found.json")
    assert result["images_without_detections"] == 2


def test_what_is_left_out_and_where_nothing_was_found_is_said(files, capsys):
    assert score(options().read(words(files, "--score-floor", "0.75", "--per-image", "1"))) == 0
    said, err = capsys.readouterr()
    assert "Left out were 1 detections below the score floor and 1 beyond the cap per image." in said
    assert "The lowest score of a detection is 0.9." in said
    assert "In 1 of the images there is no detection." in said
    assert "--image-list" not in said and err == ""


def test_images_that_nobody_may_have_looked_at_are_told_with_the_remedy(files, capsys):
    truth = json.loads((files / "gt.json").read_text())
    truth["images"] += [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in range(3, 9)]
    (files / "gt.json").write_text(json.dumps(truth))
    assert score(options().read(words(files))) == 0
    said = capsys.readouterr().out
    assert "In 6 of the images there is no detection." in said
    assert "If only some of the images were looked at, name these with --image-list." in said
    (files / "list.txt").write_text("1\n2\n")
    assert score(options().read(words(files, "--image-list", files / "list.txt"))) == 0
    assert "no detection" not in capsys.readouterr().out


@pytest.mark.parametrize(("mode", "fate"), [("strict", "not scored"), ("ore", "counted in A-OSE only")])
def test_classes_that_the_task_does_not_know_yet(files, capsys, mode, fate):
    found = json.loads((files / "found.json").read_text())
    found[1]["category_id"] = 2
    (files / "found.json").write_text(json.dumps(found))
    assert score(options().read(words(files, "--mode", mode))) == 0
    said = capsys.readouterr().out
    assert f"1 detections name classes that task 1 does not know yet (dog): they are {fate}." in said
    assert "If the detector has learnt dog, score it with --task 2." in said
    assert score(options().read(words(files, "--mode", mode, task="2"))) == 0
    assert "know yet" not in capsys.readouterr().out


def test_tasks_that_no_detection_speaks_of(files, capsys):
    TaskSet("pets", (("cat",), ("dog",), ("fox",))).save(files / "tasks.yaml")

    def said(task, *ids):
        found = json.loads((files / "found.json").read_text())
        records = [{**found[0], "category_id": number} for number in ids]
        (files / "few.json").write_text(json.dumps(records))
        given = words(files, task=task)
        given[given.index("--detections") + 1] = str(files / "few.json")
        assert score(options().read(given)) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("No detection names")]

    further = "if the detector has learnt no further than task"
    assert said("1", 0, 1) == said("3", 1, 2, 3) == said("2", 1, 2) == said("2", 1, 2, 3) == []
    assert said("2", 0, 1) == [f"No detection names a class of task 2 (dog): {further} 1, score it with --task 1."]
    assert said("3", 1, 2) == [f"No detection names a class of task 3 (fox): {further} 2, score it with --task 2."]
    assert said("3", 1) == [
        f"No detection names a class of tasks 2 and 3 (dog, fox): {further} 1, score it with --task 1."
    ]
    missed = "their objects count as missed, even if the detector has not learnt them."
    assert said("3", 2) == [
        f"No detection names a class of task 1 (cat): {missed}",
        f"No detection names a class of task 3 (fox): {further} 2, score it with --task 2.",
    ]
    assert said("3", 0) == [
        "No detection names a known class: if the detector knows some, score what it found of them, too."
    ]
    assert said("3") == []
    TaskSet("pets", (("cat",), ("dog, fox",))).save(files / "tasks.yaml")
    truth = (files / "gt.json").read_text().replace('"dog"', '"dog, fox"')
    (files / "gt.json").write_text(truth)
    assert said("2", 1)[0].startswith("No detection names a class of task 2 ('dog, fox'): ")


def test_the_table_says_how_many_classes_the_wilderness_impact_is_of(files, capsys):
    TaskSet("pets", (("cat", "dog"), ("fox",))).save(files / "tasks.yaml")
    assert score(options().read(words(files))) == 0
    assert "0.0000 (1 of 2 classes)" in capsys.readouterr().out
    assert score(options().read(words(files, "--mode", "ore"))) == 0
    assert "of 2 classes" not in capsys.readouterr().out
    (files / "found.json").write_text("[]")
    assert score(options().read(words(files))) == 0
    assert "classes)" not in capsys.readouterr().out


def test_detections_with_names_go_by_names(files, capsys):
    """As `surnia detect predict` numbers them: images in its own order, classes by its labels, other images besides."""
    found = json.loads((files / "found.json").read_text())
    assert score(options().read(words(files, "--json", files / "plain.json"))) == 0
    names = {0: "unknown", 1: "cat"}
    for record in found:
        record |= {"file_name": f"{record['image_id']}.jpg", "category_name": names[record["category_id"]]}
        record |= {"image_id": 3 - record["image_id"], "category_id": 2 * record["category_id"]}
    found.append({**found[0], "image_id": 3, "file_name": "x.jpg"})
    (files / "found.json").write_text(json.dumps(found))
    capsys.readouterr()
    assert score(options().read(words(files, "--json", files / "named.json"))) == 0
    said = capsys.readouterr().out
    assert f"told by the names in {files}/found.json, not by its ids" in said
    assert "1 detections in 1 images that" in said
    ours, theirs = (json.loads((files / name).read_text()) for name in ("named.json", "plain.json"))
    assert ours == theirs


def test_no_image_in_common_is_an_error_with_its_remedy(files):
    found = [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.9}]
    (files / "found.json").write_text(json.dumps(found))
    with pytest.raises(
        DataError, match=r"in the image 7, which .* does not have; .* made for, or go by names as surnia"
    ):
        score(options().read(words(files)))


def test_the_options_are_light_and_scoring_needs_no_torch(files):
    code = (
        "import sys; from apps.detect_score import options, score; "
        "assert not {'numpy', 'torch', 'rich'} & set(sys.modules), 'heavy'; "
        f"score(options().read({words(files)!r})); assert 'torch' not in sys.modules, 'torch'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_of_classes_in_both_modes(files, capsys):
    """As `found.json`: the same detections as ORE's code writes them, with image 1 listed and run twice."""
    folder = files / "pascal_voc_eval"
    folder.mkdir()
    (folder / "cat.txt").write_text("1 0.900 1.0 1.0 50.0 50.0\n2 0.700 1.0 1.0 20.0 20.0\n1 0.900 1.0 1.0 50.0 50.0\n")
    (folder / "unknown.txt").write_text("1 0.800 51.0 51.0 100.0 100.0\n" * 2)
    (folder / "dog.txt").write_text("\n")
    (files / "list.txt").write_text("1\n2\n1\n")
    given = words(files)
    given[given.index("--detections") + 1] = str(folder)
    results = {}
    for mode, more in (("strict", []), ("ore", ["--image-list", str(files / "list.txt")])):
        out = files / f"{mode}.json"
        assert score(options().read([*given, "--mode", mode, *more, "--json", str(out)])) == 0
        results[mode] = json.loads(out.read_text())
    said = capsys.readouterr().out
    assert "The run had 1 images listed more than once" in said
    same = words(files, "--json", files / "same.json")
    assert score(options().read(same)) == 0
    as_coco = json.loads((files / "same.json").read_text())
    assert {key: as_coco[key] for key in ("u_recall", "u_ap", "map_both", "a_ose")} == {
        key: results["strict"][key] for key in ("u_recall", "u_ap", "map_both", "a_ose")
    }
    # Found once each time it is listed, but matchable once: 1 of 2 cats; of unknown ones 1 of 3 (fox once, dog twice).
    assert results["ore"]["recall_per_class"]["cat"] == pytest.approx(1 / 2)
    assert results["ore"]["u_recall"] == pytest.approx(1 / 3)
    given[given.index("--detections") + 1] = str(folder / "cat.txt")
    with pytest.raises(ConfigError, match=r"cat\.txt has one class; give its folder, .*pascal_voc_eval"):
        score(options().read(given))
    given[given.index("--detections") + 1] = str(folder)
    (files / "list.txt").write_text("1\n2\n1\n1\n")
    assert score(options().read([*given, "--mode", "ore", "--image-list", str(files / "list.txt")])) == 0
    assert "do not have each image as often as --image-list does" in capsys.readouterr().out


# --- annotations that are not quite right ----------------------------------------------------------------------------


@pytest.fixture
def faulty(files):
    """Image 1 with a cat, a cat without width, one inside out, one outside; and a fox that reaches out of it."""
    boxes = [(1, [10, 10, 30, 30]), (1, [60, 60, 0, 10]), (1, [60, 60, -5, 10]), (1, [160, 160, 20, 20])]
    boxes.append((3, [80, 80, 60, 60]))
    truth = json.loads((files / "gt.json").read_text())
    truth["images"] = truth["images"][:1]
    truth["annotations"] = [
        {"id": i, "image_id": 1, "category_id": category, "bbox": box, "area": abs(box[2] * box[3]), "iscrowd": 0}
        for i, (category, box) in enumerate(boxes, start=1)
    ]
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "score": 0.9},
        {"image_id": 1, "category_id": 0, "bbox": [80, 80, 20, 20], "score": 0.8},
    ]
    (files / "gt.json").write_text(json.dumps(truth))
    (files / "found.json").write_text(json.dumps(found))
    return files


KEYS = ("known_objects", "num_unknown_gt", "map_both", "u_recall", "u_ap", "boxes_clipped", "boxes_ignored")


def scored(files, *more):
    assert score(options().read(words(files, "--json", files / "out.json", "--overwrite", *more))) == 0
    return json.loads((files / "out.json").read_text())


@pytest.mark.parametrize("named", [False, True])
def test_faulty_boxes_are_told_and_count_as_where_training_and_evaluate_read_them(faulty, capsys, named):
    if named:
        found = json.loads((faulty / "found.json").read_text())
        names = {"file_name": "1.jpg", "category_name": "cat"}, {"file_name": "1.jpg", "category_name": "unknown"}
        (faulty / "found.json").write_text(json.dumps([a | b for a, b in zip(found, names, strict=True)]))
    result = scored(faulty)
    assert [result[key] for key in KEYS] == [1, 1, 1.0, 1.0, 1.0, 1, 3]
    said = capsys.readouterr().err
    assert "annotation 2: box" in said and "annotation 3: box" in said
    assert said.count("has no area and is ignored") == 2
    assert "annotation 4: box (160, 160, 180, 180) of image 1, 100 x 100, lies outside the image and is ignored" in said
    assert "annotation 5: box (80, 80, 140, 140) of image 1, 100 x 100, reaches out of the image and is clipped" in said
    # What `surnia detect evaluate --data` makes of the same file.
    cleaned = clean(read_coco(faulty / "gt.json"), Problems())
    found = DetectionArrays.from_results(json.loads((faulty / "found.json").read_text()))
    theirs = evaluate(GroundTruth.from_annotations(cleaned), found, TaskSet.from_file(faulty / "tasks.yaml"), 1)
    assert {key: theirs[key] for key in KEYS[:5]} == {key: result[key] for key in KEYS[:5]}


def test_mode_ore_takes_faulty_boxes_as_they_are_and_says_so(faulty, capsys):
    truth = json.loads((faulty / "gt.json").read_text())
    del truth["annotations"][2]
    (faulty / "gt.json").write_text(json.dumps(truth))
    result = scored(faulty, "--mode", "ore")
    assert (result["known_objects"], result["u_recall"]) == (3, 0)
    assert result["recall_per_class"]["cat"] == pytest.approx(1 / 3)
    assert capsys.readouterr().err == (
        f"note: {faulty}/gt.json  boxes count in mode ore as they are, as in the original, be they without area (1), "
        "outside the image (1) or reaching out of it (1); mode strict ignores the first two kinds and clips the third\n"
    )


def test_faultless_annotations_need_no_note(files, capsys):
    for mode in ("strict", "ore"):
        scored(files, "--mode", mode)
        assert capsys.readouterr().err == ""


def test_scoring_by_ids_needs_neither_file_names_nor_sizes(files, capsys):
    expected = scored(files)
    truth = json.loads((files / "gt.json").read_text())
    truth["images"] = [{"id": image["id"]} for image in truth["images"]]
    (files / "gt.json").write_text(json.dumps(truth))
    capsys.readouterr()
    assert scored(files) == expected
    assert capsys.readouterr().err == (
        f"note: {files}/gt.json  2 of its 2 images have no width and height: no box is checked against these\n"
    )
    (files / "list.txt").write_text("1\n")
    assert scored(files, "--mode", "ore", "--image-list", files / "list.txt")["images"] == 1
    assert evaluate(
        GroundTruth.from_coco(files / "gt.json"), DetectionArrays.from_results(files / "found.json"),
        TaskSet.from_file(files / "tasks.yaml"), 1,
    )["u_recall"] == expected["u_recall"]  # fmt: skip


def test_scoring_by_names_needs_file_names(files):
    truth = json.loads((files / "gt.json").read_text())
    del truth["images"][1]["file_name"]
    (files / "gt.json").write_text(json.dumps(truth))
    found = [
        {**each, "file_name": "1.jpg", "category_name": "cat"}
        for each in json.loads((files / "found.json").read_text())
    ]
    (files / "named.json").write_text(json.dumps(found))
    given = words(files)
    given[given.index("--detections") + 1] = str(files / "named.json")
    with pytest.raises(DataError, match=r"gt\.json has no file_name for 1 of its 2 images \(2 for one\), by which"):
        score(options().read(given))
    # Files of classes name images by name or by number.
    folder = files / "pascal_voc_eval"
    folder.mkdir()
    (folder / "cat.txt").write_text("1 0.900 1.0 1.0 50.0 50.0\n2 0.700 1.0 1.0 20.0 20.0\n")
    given[given.index("--detections") + 1] = str(folder)
    assert score(options().read(given)) == 0
    (folder / "cat.txt").write_text("two 0.700 1.0 1.0 20.0 20.0\n")
    with pytest.raises(DataError, match="'two' for one; give all of its images the file_name by which"):
        score(options().read(given))
