"""`surnia detect` from training to a class that a person named, on drawn shapes."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.drawn import TASKS, draw_set, drawn_recipe
from support.runs import At, stop

from apps.cli import main
from apps.detect_train import forgetting_lines, prepare, summarise
from apps.recipe_text import dump
from detection.data.settings import CocoData
from detection.detector import OpenWorldDetector
from detection.training import stage as stage_module
from sslcore.errors import ConfigError
from sslcore.storage import operations


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the drawn set, its recipe, and a run that has learnt both tasks."""
    home = tmp_path_factory.mktemp("home")
    draw_set(home / "set")
    TASKS.save(home / "tasks.yaml")
    data = CocoData(
        tasks="tasks.yaml", train=["set/train_1.json", "set/train_2.json"], val="set/val.json", test="set/test.json",
        images="set/images", workers=0,
    )  # fmt: skip
    recipe = drawn_recipe().model_copy(update={"data": data, "threads": 1})
    (home / "drawn.yaml").write_text(dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["detect", "train", "drawn.yaml", "--run", "runs/mine"]) == 0
    return home


@pytest.fixture
def surnia(home, monkeypatch, capsys):
    """Runs a command line in that folder; gives code, stdout and stderr. Only the first run gets a report."""
    monkeypatch.chdir(home)
    monkeypatch.setattr("apps.detect_train.write_detection_report", lambda path, data: None)
    capsys.readouterr()

    def run(*words):
        code = main(["detect", *map(str, words)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


@contextlib.contextmanager
def moved(path):
    """A file or folder that is elsewhere for a while."""
    elsewhere = path.with_suffix(".moved")
    path.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(path)


def results(run):
    return json.loads((run / "results.json").read_text())


def fingerprint(folder):
    """Every file of a folder, but the lock's, and its content."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "run.lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stopped_at(monkeypatch, *at, action=stop):
    real = stage_module.build_trainer
    monkeypatch.setattr(
        stage_module, "build_trainer", lambda r, callbacks, log: real(r, [At(*at, action), *callbacks], log)
    )


# --- train -----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_all_it_promises_and_says_what_to_do_next(home, surnia):
    run = home / "runs" / "mine"
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "finished"
    assert facts["command"] == ["surnia", "detect", "train", "drawn.yaml", "--run", "runs/mine"]
    assert [task["task"] for task in results(run)["by_task"]] == [1, 2]
    assert "U-Recall" in (run / "report.html").read_text()
    before = fingerprint(run)
    code, out, _ = surnia("train", "--resume", "runs/mine")
    assert code == 0
    assert "1 (+2)" in out and "2 (+2)" in out and "U-AP" in out
    assert "nothing was left to train" in out
    for words in ("predict runs/mine", "unknowns runs/mine", "evaluate runs/mine --mode ore"):
        assert f"surnia detect {words}" in out
    after = fingerprint(run)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"run.json", "results.json"}


def test_a_run_is_never_overwritten_and_the_refusal_names_both_ways_out(home, surnia):
    before = fingerprint(home / "runs" / "mine")
    code, _, err = surnia("train", "drawn.yaml", "--run", "runs/mine")
    assert code == 2
    assert "--resume runs/mine" in err and "another name" in err
    assert fingerprint(home / "runs" / "mine") == before


def test_a_dry_run_says_what_the_run_would_take_and_writes_nothing(home, surnia):
    code, out, _ = surnia("train", "drawn.yaml", "--run", "runs/dry", "--dry-run")
    assert code == 0
    for part in ("2 of drawn: 2, 2 classes", "12, 12 to train on", "16", "GiB", "nothing was written"):
        assert part in out
    assert not (home / "runs" / "dry").exists()


def test_a_stopped_run_says_how_to_go_on_and_goes_on(home, surnia, monkeypatch):
    with monkeypatch.context() as patch:
        stopped_at(patch, 2, "train", 3)
        code, out, _ = surnia("train", "drawn.yaml", "--run", "runs/stopped")
    assert code == 143
    assert "step-00000003" in out
    assert "surnia detect train --resume runs/stopped" in out
    assert json.loads((home / "runs/stopped/run.json").read_text())["status"] == "stopped"
    code, out, err = surnia("train", "--resume", "runs/stopped")
    assert code == 0
    assert "task 2, train goes on after step 3 of " in err
    ours, theirs = (results(home / "runs" / name)["by_task"] for name in ("stopped", "mine"))
    assert [task["strict"] for task in ours] == [task["strict"] for task in theirs]


def test_a_second_ctrl_c_ends_it_at_once_and_says_what_is_left(home, surnia, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    go_on = "surnia detect train --resume runs/ended\n"
    with monkeypatch.context() as patch:
        stopped_at(patch, 1, "train", 1, action=twice)  # before the first checkpoint
        code, _, err = surnia("train", "drawn.yaml", "--run", "runs/ended")
    assert code == 130
    assert err.endswith(f"first checkpoint: runs/ended keeps its recipe alone; begin it anew with: {go_on}")
    assert json.loads((home / "runs/ended/run.json").read_text())["status"] == "stopped"
    with monkeypatch.context() as patch:
        stopped_at(patch, 1, "train", 3, action=twice)
        code, _, err = surnia("train", "--resume", "runs/ended")
    assert code == 130
    assert "backbone: tiny with random weights" in err
    assert err.endswith(f"Interrupted: runs/ended keeps its last checkpoint; go on from there with: {go_on}")
    code, _, err = surnia("train", "--resume", "runs/ended", "--tasks", "1")
    assert code == 0
    assert "task 1, train goes on after step 2 of 6, with the weights of its checkpoint" in err
    assert "random weights" not in err


def test_a_dry_run_of_a_run_that_goes_on_counts_what_is_left(home, surnia, monkeypatch):
    with monkeypatch.context() as patch:
        stopped_at(patch, 2, "train", 3)
        assert surnia("train", "drawn.yaml", "--run", "runs/half")[0] == 143
    before = fingerprint(home / "runs" / "half")
    code, out, err = surnia("train", "--resume", "runs/half", "--dry-run")
    assert code == 0
    assert "7 of 16 are left" in out and "time for the rest" in out  # 3 of task 2's training, and 4 of fine-tuning
    assert "random weights" not in err
    assert fingerprint(home / "runs" / "half") == before
    _, out, _ = surnia("train", "--resume", "runs/mine", "--dry-run")
    assert "0 of 16 are left" in out


def test_a_run_can_go_on_to_more_tasks(home, surnia):
    code, out, _ = surnia("train", "drawn.yaml", "--run", "runs/short", "--tasks", "1")
    assert code == 0
    assert "2 (+2)" not in out
    assert surnia("train", "--resume", "runs/short", "--tasks", "2")[0] == 0
    ours, theirs = (results(home / "runs" / name)["by_task"] for name in ("short", "mine"))
    assert [task["strict"] for task in ours] == [task["strict"] for task in theirs]


def test_test_images_need_not_list_every_class(home, surnia, tmp_path):
    """Somebody's test file may lack the category of a class that its images do not show."""
    content = json.loads((home / "set" / "test.json").read_text())
    content["categories"] = [entry for entry in content["categories"] if entry["name"] != "red"]
    content["annotations"] = [box for box in content["annotations"] if box["category_id"] != 1]
    (home / "without_red.json").write_text(json.dumps(content))
    words = ("train", "drawn.yaml", "--data.test", "without_red.json", "--tasks", "1", "--run", "runs/without_red")
    code, _, err = surnia(*words)
    assert code == 0
    assert "class 'red' of task 1 has no annotation" in err
    own = results(home / "runs" / "without_red")["by_task"][0]["strict"]
    assert own["ap_per_class"]["red"] is None and own["ap_per_class"]["green"] is not None
    code, _, _ = surnia("evaluate", "runs/without_red", "--json", tmp_path / "again.json")
    assert code == 0
    found = json.loads((tmp_path / "again.json").read_text())
    assert {key: found[key] for key in own} == own


def test_more_tasks_than_there_are_are_refused_before_anything_is_written(monkeypatch):
    data = SimpleNamespace(tasks=TASKS, ignored=())
    monkeypatch.setattr("apps.detect_train.open_data", lambda settings, fits, say: data)
    recipe = drawn_recipe().model_copy(update={"tasks": TASKS.count + 1})
    with pytest.raises(ConfigError, match=f"tasks must be at most {TASKS.count}, as .* has no more"):
        prepare(recipe)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.067, "lost 6.7 points of mAP since their best."),
        (-0.067, "lost nothing: their mAP is 6.7 points above its best so far."),
    ],
)
def test_what_helped_is_not_told_as_a_loss(value, said):
    assert forgetting_lines({"forgetting": {"strict": {"forgetting": [[], [value]]}}}) == [
        f"The classes of task 1 {said}"
    ]


def test_a_wilderness_impact_of_few_classes_is_told_beneath_the_table(home, capsys):
    outcome = SimpleNamespace(results=results(home / "runs" / "mine"), stopped=False, steps=6)
    strict = outcome.results["by_task"][1]["strict"]
    strict |= {"wi": 0.0219, "wi_classes": 1, "recall_per_class": {"red": 0.9, "blue": 0.1, "unknown": 0.9}}
    summarise(outcome, Path("runs/mine"))
    said = capsys.readouterr().out
    assert "WI after task 2: only 1 of 2 known classes reach the recall of .8 that it is taken at.\n" in said


def test_what_cannot_start_leaves_no_directory(home, surnia):
    (home / "weights.pth").write_bytes(b"no weights")
    code, _, err = surnia("train", "drawn.yaml", "--run", "runs/none", "--network.weights", "weights.pth")
    assert code == 4
    assert "weights.pth" in err
    (home / "broken.json").write_text('{"images": [], "annotations": [')
    code, _, err = surnia("train", "drawn.yaml", "--run", "runs/none", "--data.test", "broken.json")
    assert code == 3
    assert err.startswith("broken.json")  # and names no run directory, for there is none
    assert not (home / "runs" / "none").exists()


# --- evaluate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["strict", "ore"])
def test_evaluating_again_gives_the_runs_own_numbers(home, surnia, tmp_path, mode):
    file = tmp_path / "result.json"
    code, out, _ = surnia("evaluate", "runs/mine", "--mode", mode, "--json", file)
    assert code == 0
    assert f"Task 2 of drawn, mode {mode}" in out
    found, own = json.loads(file.read_text()), results(home / "runs" / "mine")["by_task"][1][mode]
    assert {key: found[key] for key in own} == own
    assert found["command"][:3] == ["surnia", "detect", "evaluate"]


def test_without_what_it_was_tested_on_a_run_says_what_is_gone(home, surnia):
    (home / "set" / "test.json").rename(home / "elsewhere.json")
    try:
        code, _, err = surnia("evaluate", "runs/mine")
    finally:
        (home / "elsewhere.json").rename(home / "set" / "test.json")
    assert code == 2
    assert "runs/mine/recipe.yaml:" in err and "data.test: there is nothing at 'set/test.json'" in err
    assert "put back what the run was tested on, or measure it on annotated images that are there: --data FILE" in err


def test_evaluating_asks_for_nothing_but_what_it_measures_on(home, surnia, tmp_path):
    """Pictures only where they must be looked at; training annotations only to see that nothing has changed."""
    own, file = results(home / "runs" / "mine")["by_task"][1]["strict"], tmp_path / "result.json"

    def measured():
        code, _, err = surnia("evaluate", "runs/mine", "--json", file, "--overwrite")
        found = json.loads(file.read_text()) if code == 0 else {}
        return code, err, {key: found.get(key) for key in own} == own

    images, train, test = home / "set/images", home / "set/train_1.json", home / "set/test.json"
    with moved(images):
        assert measured() == (0, "", True)
        with moved(train):  # nobody knows whether what was found is of these images still
            code, err, _ = measured()
        assert code == 3
        assert "set/test.json  none of its 8 images is in set/images, where 'test_0.png' should be" in err
        assert err.endswith("--data FILE, and --images FOLDER if they are not beside it\n")
        assert surnia("evaluate", "runs/mine", "--data", test, "--images", images.with_suffix(".moved"))[0] == 0
    with moved(train):
        code, err, _ = measured()  # looked at again
        assert (code, err) == (0, "")
        assert json.loads(file.read_text())["map_both"] == pytest.approx(own["map_both"], abs=1e-9)


def test_own_annotations_are_looked_at_and_measured(home, surnia, tmp_path):
    """The run's test set as if it were somebody's own: found beside its file, looked at anew, the same numbers."""
    file = tmp_path / "result.json"
    code, _, _ = surnia("evaluate", "runs/mine", "--data", "set/test.json", "--task", "1", "--json", file)
    assert code == 0
    found, own = json.loads(file.read_text()), results(home / "runs" / "mine")["by_task"][0]["strict"]
    assert found["task"] == 1
    assert {key: found[key] for key in ("map_both", "u_recall", "detections")} == {
        key: pytest.approx(own[key], abs=1e-9) for key in ("map_both", "u_recall", "detections")
    }


def test_what_is_wrong_with_own_annotations_is_said(home, surnia, tmp_path):
    content = json.loads((home / "set" / "test.json").read_text())
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    code, _, err = surnia("evaluate", "runs/mine", "--data", file)
    assert code == 3
    assert err == f"test_0.png, which {file} names, is not beside it; say where the images are: --images DIR\n"
    inner = tmp_path / "annotations" / "mine.json"
    inner.parent.mkdir()
    file.rename(inner)
    (tmp_path / "pictures").symlink_to(home / "set" / "images")  # as doctor and training find them
    assert surnia("evaluate", "runs/mine", "--data", inner)[0] == 0
    inner.rename(file)
    (tmp_path / "pictures").unlink()
    content["categories"] = content["categories"][:4]  # without grey, and so are the boxes
    content["annotations"] = [box for box in content["annotations"] if box["category_id"] < 5]
    content["categories"][0]["name"] = "Redd"
    content["annotations"][0]["bbox"] = [500, 500, 3, 3]
    file.write_text(json.dumps(content))
    code, _, err = surnia("evaluate", "runs/mine", "--data", file, "--images", home / "set" / "images")
    assert code == 0
    assert "lies outside the image and is ignored" in err
    assert f"note: 'Redd' counts as unknown; if it is 'red', rename it in {file}\n" in err


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--task", "3"), 4, "runs/mine has no finished task 3; there are 1, 2"),
        (("--device", "cuda:7"), 2, "command line: --device  there is no cuda:7 here"),
    ],
)
def test_what_a_run_does_not_have_is_said(surnia, words, code, sentence):
    got, _, err = surnia("evaluate", "runs/mine", "--data", "set/test.json", *words)
    assert got == code
    assert err.startswith(sentence)


# --- predict ---------------------------------------------------------------------------------------------------------


def test_predict_writes_results_and_pictures_and_names_what_it_cannot_read(home, surnia, tmp_path):
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for name, source in (("a.png", "test_0"), ("inner/a.png", "test_1"), ("b.png", "test_2")):
        shutil.copy(home / "set" / "images" / f"{source}.png", folder / name)
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    extra = home / "set" / "images" / "test_3.png"
    out = tmp_path / "found"
    code, said, err = surnia(
        "predict", "runs/mine", folder, extra, "--out", out, "--score", "0.05", "--batch-size", "2"
    )
    assert code == 0
    assert err.count("skipped: ") == 1 and "b.png" in err
    lines = said.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["a.png", "inner/a.png", "test_3.png"]
    assert "3 images, 1 skipped: " in said
    assert "an unknown one's probability of being unknown" in said
    found, about = (json.loads((out / name).read_text()) for name in ("detections.json", "images.json"))
    assert [image["file_name"] for image in about["images"]] == ["a.png", "inner/a.png", "test_3.png"]
    names = {entry["id"]: entry["name"] for entry in about["categories"]}
    assert list(names.values()) == ["unknown", "red", "green", "blue", "yellow"]
    assert len(about["skipped"]) == 1
    detector = OpenWorldDetector.load(home / "runs" / "mine")
    (own,) = detector.predict(extra)
    third = [record for record in found if record["image_id"] == 3]
    assert len(third) == len(own) > 0
    assert [names[record["category_id"]] for record in third] == [
        detector.names[label] for label in own.labels.tolist()
    ]
    assert [record["score"] for record in third] == pytest.approx(own.scores.tolist(), rel=1e-6)
    pictures = sorted(str(path.relative_to(out / "pictures")) for path in (out / "pictures").rglob("*.png"))
    assert pictures == ["a.png", "inner/a.png", "test_3.png"]
    assert np.asarray(Image.open(out / "pictures" / "a.png")).ndim == 3
    assert about["info"]["score"] == 0.05
    assert {record["file_name"] for record in third} == {"test_3.png"}
    assert all(names[record["category_id"]] == record["category_name"] for record in found)


def test_predict_looks_once_at_what_is_given_twice_and_says_which_file_a_name_means(home, surnia, tmp_path):
    for name, source in (("odd/a.png", "test_0"), ("odd/sub/a.png", "test_1"), ("other/a.png", "test_2")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home / "set" / "images" / f"{source}.png", tmp_path / name)
    odd, out = tmp_path / "odd", tmp_path / "found"
    places = (odd / "sub", odd / "a.png", odd, odd / "sub" / "a.png", tmp_path / "other")
    code, said, err = surnia("predict", "runs/mine", *places, "--out", out, "--score", "0.05")
    assert code == 0 and "3 images: " in said
    assert "note: 3 images were given again and are not looked at twice\n" in err
    paths = {image["file_name"]: image["path"] for image in json.loads((out / "images.json").read_text())["images"]}
    assert paths == {
        "sub/a.png": str(odd / "sub" / "a.png"), "odd/a.png": str(odd / "a.png"),
        "other/a.png": str(tmp_path / "other" / "a.png"),
    }  # fmt: skip
    assert {record["file_name"] for record in json.loads((out / "detections.json").read_text())} <= paths.keys()
    assert sorted(str(path.relative_to(out / "pictures")) for path in out.rglob("*.png")) == sorted(paths)


def scored(home, surnia, detections, out, truth="set/test.json", tasks="tasks.yaml"):
    words = ("--gt", truth, "--detections", detections, "--tasks", tasks, "--task", "2", "--json", out, "--overwrite")
    code, said, err = surnia("score", *words)
    assert (code, err) == (0, "")
    return json.loads(out.read_text()), said


@pytest.mark.parametrize("like", [False, True])
def test_what_predict_finds_in_annotated_images_scores_as_the_run_itself(home, surnia, tmp_path, like):
    """The folder has images of all splits, and predict counts and labels in its own way: only names tell."""
    more = ["--like", "set/test.json"] if like else []
    out = tmp_path / "found"
    code, said, err = surnia("predict", "runs/mine", "set", "--score", "0", "--no-pictures", "--out", out, *more)
    assert code == 0
    assert ("32 images that set/test.json does not list are left out" in err) == like
    assert f"{8 if like else 40} images: " in said
    ours, said = scored(home, surnia, out / "detections.json", tmp_path / "score.json")
    assert ("does not list were left out" in said) == (not like)
    theirs = results(home / "runs" / "mine")["by_task"][1]["strict"]
    same = ("map_both", "map_current", "u_recall", "u_ap", "a_ose", "wi", "auroc", "detections", "known_objects")
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    if like:  # for any tool: the same by the ids alone
        records = json.loads((out / "detections.json").read_text())
        for record in records:
            del record["file_name"], record["category_name"]
        (tmp_path / "plain.json").write_text(json.dumps(records))
        by_id, _ = scored(home, surnia, tmp_path / "plain.json", tmp_path / "by_id.json")
        assert {key: by_id[key] for key in same} == {key: theirs[key] for key in same}


def test_like_says_what_does_not_fit(home, surnia, tmp_path):
    words = ("predict", "runs/mine", "--out", tmp_path / "found", "--no-pictures", "--like")
    code, _, err = surnia(*words, "set/test.json", "set/images/test_0.png", "set/images/test_1.png")
    assert code == 0
    assert "note: 6 images that set/test.json lists are not among those given" in err
    shutil.rmtree(tmp_path / "found")
    code, _, err = surnia(*words, "set/test.json", "set/images/val_0.png")
    assert (code, err) == (
        3, "set/test.json lists none of the 1 images, set/images/val_0.png for one; give the folder of its images\n"
    )  # fmt: skip
    (tmp_path / "small").mkdir()
    Image.open(home / "set/images/test_0.png").resize((32, 32)).save(tmp_path / "small/test_0.png")
    code, _, err = surnia(*words, "set/test.json", tmp_path / "small", "--bad-images", "0")
    assert code == 3
    assert "test_0.png has 32 x 32 pixels, but set/test.json says 64 x 64; give the pictures" in err
    (tmp_path / "twice").mkdir()
    shutil.copy(home / "set/images/test_0.png", tmp_path / "twice")
    code, _, err = surnia(*words, "set/test.json", "set/images", tmp_path / "twice/test_0.png")
    assert code == 3
    assert (
        "twice/test_0.png are both test_0.png by name, which set/test.json lists once; give the one that is meant"
        in err
    )
    code, said, err = surnia(*words, "set/test.json", "set", "set/images/test_0.png")
    assert code == 0 and "8 images: " in said
    assert "note: 1 image was given again and is not looked at twice\n" in err
    assert "note: 32 images that set/test.json does not list are left out\n" in err
    shutil.rmtree(tmp_path / "found")
    annotations = json.loads((home / "set" / "test.json").read_text())
    annotations["categories"][0]["id"] = 0
    for box in annotations["annotations"]:
        box["category_id"] -= box["category_id"] == 1
    (tmp_path / "zero.json").write_text(json.dumps(annotations))
    code, _, err = surnia(*words, tmp_path / "zero.json", "set/images")
    assert code == 2
    assert "has the category 'red' under the id 0, which is that of unknown objects; leave --like out" in err
    assert not (tmp_path / "found").exists()
    assert surnia(*words[:-1], "set/images", "--score", "0")[0] == 0
    (tmp_path / "tasks.yaml").write_text((home / "tasks.yaml").read_text().replace("unknown_id: 0", "unknown_id: 9"))
    remedied, usual = (
        scored(home, surnia, tmp_path / "found/detections.json", tmp_path / f"{truth.stem}.json", truth, tasks)[0]
        for truth, tasks in ((tmp_path / "zero.json", tmp_path / "tasks.yaml"), (Path("set/test.json"), "tasks.yaml"))
    )
    same = ("map_both", "u_recall", "detections", "num_unknown_gt")
    assert {key: remedied[key] for key in same} == {key: usual[key] for key in same}


def test_like_looks_at_a_link_that_is_listed_beside_its_file(home, surnia, tmp_path):
    annotations = json.loads((home / "set" / "test.json").read_text())
    first = annotations["images"][0]
    annotations["images"] = [first, {**first, "id": 999, "file_name": "link.png"}]
    annotations["annotations"] = []
    (tmp_path / "linked.json").write_text(json.dumps(annotations))
    (tmp_path / "pictures").mkdir()
    shutil.copy(home / "set" / "images" / first["file_name"], tmp_path / "pictures")
    (tmp_path / "pictures" / "link.png").symlink_to(first["file_name"])
    words = ("predict", "runs/mine", tmp_path / "pictures", "--out", tmp_path / "found", "--no-pictures")
    code, said, err = surnia(*words, "--like", tmp_path / "linked.json")
    assert code == 0 and "2 images: " in said and "note: 1" not in err
    images = json.loads((tmp_path / "found/images.json").read_text())["images"]
    assert {image["id"] for image in images} == {first["id"], 999}


def test_predict_passes_on_what_the_fit_found_wanting(home, surnia, tmp_path, monkeypatch):
    wanting = "unknown regions do not have a higher energy than known ones"
    monkeypatch.setattr(OpenWorldDetector, "notes", (wanting,))
    code, _, err = surnia("predict", "runs/mine", "set/images/test_0.png", "--out", tmp_path / "found")
    assert code == 0
    assert f"note: on telling known from unknown: {wanting}" in err
    assert json.loads((tmp_path / "found/images.json").read_text())["info"]["decision_notes"] == [wanting]


def test_predict_on_a_full_disk_leaves_no_torn_picture(home, surnia, tmp_path, monkeypatch):
    image, out, announced = home / "set/images/test_0.png", tmp_path / "found", []
    real = operations.step

    def listening(operation, path, torn=None):
        announced.append((operation, Path(path).parent.name))
        real(operation, path, torn)

    monkeypatch.setattr(operations, "step", listening)
    assert surnia("predict", "runs/mine", image, "--out", out)[0] == 0
    picture = 1 + announced.index(("write", "pictures"))
    shutil.rmtree(out)
    monkeypatch.setenv("SURNIA_FAULT", f"error:{picture}")
    code, _, err = surnia("predict", "runs/mine", image, "--out", out)
    assert code == 4
    assert err.splitlines()[-1].startswith(f"cannot write {out}/pictures/test_0.png: no space left on device; free")
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_predict_gives_up_where_too_many_images_are_broken(home, surnia, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"no picture")
    words = ("predict", "runs/mine", folder, "--out", tmp_path / "found", "--bad-images")
    code, _, err = surnia(*words, "1")
    assert code == 3
    assert "2 images cannot be used, more than --bad-images 1 allows" in err.splitlines()[-1]
    code, _, err = surnia(*words, "9")
    assert code == 3
    assert err.splitlines()[-1].startswith("none of the 3 images can be used")
    assert not (tmp_path / "found").exists()
    code, _, err = surnia("predict", "runs/mine", folder / "0.png", "--out", tmp_path / "found")
    assert code == 3
    assert err.splitlines()[-1] == "there is nothing to look at: the only image cannot be used"
    (tmp_path / "empty").mkdir()
    code, _, err = surnia("predict", "runs/mine", tmp_path / "empty", "--out", tmp_path / "found")
    assert code == 3
    assert err.startswith(f"{tmp_path / 'empty'} holds no images")


# --- from unknown to known -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped(home, tmp_path_factory):
    """Unknown objects of new pictures, in two groups, as a person finds them."""
    photos = draw_set(tmp_path_factory.mktemp("photos") / "set", seed=9)
    folder = home / "unknowns"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        words = ["unknowns", "runs/mine", str(photos / "images"), "--out", "unknowns"]
        assert main(["detect", *words, "--score", "0", "--groups", "2", "--per-image", "6"]) == 0
    return folder


def named(folder, to, *names):
    """A copy of the folder whose groups have names, in the order in which they stand."""
    shutil.copytree(folder, to)
    rest = list(names)
    text = re.sub(r"name:$", lambda _: f"name: {rest.pop(0)}" if rest else "name:", (to / "names.yaml").read_text(),
                  flags=re.MULTILINE)  # fmt: skip
    (to / "names.yaml").write_text(text)
    return to / "names.yaml"


def test_unknowns_says_what_to_do_next(grouped, surnia):
    assert (grouped / "index.html").is_file()
    assert "surnia detect learn runs/mine unknowns/names.yaml" in (grouped / "names.yaml").read_text()
    code, _, err = surnia("unknowns", "runs/mine", "set/images", "--out", "unknowns")
    assert code == 2
    assert "never overwritten" in err


def test_unknowns_looks_once_at_what_is_given_twice(grouped, home, surnia, tmp_path):
    words = ("unknowns", "runs/mine", "set/images", "set/images/test_0.png", "set", "--out", tmp_path / "twice")
    code, _, err = surnia(*words, "--score", "0", "--groups", "2", "--per-image", "2")
    assert code == 0
    assert err == "note: 41 images were given again and are not looked at twice\n"


def test_a_named_class_becomes_the_next_task_of_a_new_run(home, grouped, surnia, tmp_path):
    names = named(grouped, tmp_path / "typed", "thing")
    old = home / "runs" / "mine"
    before = fingerprint(old)
    code, out, _ = surnia("learn", "runs/mine", names, "--dry-run")
    assert code == 0
    assert re.search(r"Task 3: thing \(\d+\); \d+ objects in \d+ images", out)
    assert not (home / "runs" / "mine-task3").exists()

    code, out, err = surnia("learn", "runs/mine", names, "--later.steps", "5")
    assert code == 0, err
    assert "note: how well thing will be found is not measured" in out
    assert "3 (+1)" in out
    assert fingerprint(old) == before, "the old run is only read"
    new = home / "runs" / "mine-task3"
    assert OpenWorldDetector.load(new).known == ("red", "green", "blue", "yellow", "thing")
    ours, theirs = results(new)["by_task"], results(old)["by_task"]
    assert ours[:2] == theirs
    assert ours[2]["exemplars"].keys() == {"red", "green", "blue", "yellow", "thing"}
    assert json.loads((new / "run.json").read_text())["status"] == "finished"

    code, _, err = surnia("learn", "runs/mine", names)
    assert code == 2
    assert "surnia detect train --resume runs/mine-task3" in err and "another name" in err


def test_learning_goes_on_after_a_stop_and_the_same_can_be_learnt_further(home, grouped, surnia, tmp_path, monkeypatch):
    names = named(grouped, tmp_path / "typed", "thing")
    with monkeypatch.context() as patch:
        stopped_at(patch, 3, "train", 2)
        code, out, _ = surnia("learn", "runs/mine", names, "--run", "runs/further")
    assert code == 143
    assert "surnia detect train --resume runs/further" in out
    assert surnia("train", "--resume", "runs/further")[0] == 0
    assert OpenWorldDetector.load(home / "runs" / "further").task == 3

    # The same objects once more: they are labelled already.
    code, _, err = surnia("learn", "runs/further", named(grouped, tmp_path / "again", "thing"))
    assert code == 2
    said = "'thing' is a known class already, and a task teaches new ones only: leave the name empty"
    assert err.splitlines()[-1].startswith(str(tmp_path / "again" / "names.yaml")) and said in err.splitlines()[-1]
    code, _, err = surnia("learn", "runs/further", named(grouped, tmp_path / "other", "gizmo"))
    assert code == 3
    assert "nothing new is left to learn" in err
    code, out, err = surnia("learn", "runs/further", named(grouped, tmp_path / "both", "thing2", "gizmo"))
    assert code == 0, out
    assert "has no annotation" not in err  # of thing, which no validation image has: nothing of this lesson
    assert OpenWorldDetector.load(home / "runs" / "further-task4").known[-2:] == ("thing", "gizmo")


def test_a_name_with_a_comma_is_told_as_the_one_class_it_is(grouped, surnia, tmp_path):
    code, out, _ = surnia("learn", "runs/mine", named(grouped, tmp_path / "typed", "thing, blob", "thing"), "--dry-run")
    assert code == 0
    assert "note: how well 'thing, blob', thing will be found is not measured" in out
    assert re.search(r"Task 3: 'thing, blob' \(\d+\), thing \(\d+\); \d+ objects in", out)


def test_names_that_were_copied_elsewhere_are_to_be_put_back(grouped, surnia, tmp_path):
    shutil.copy(named(grouped, tmp_path / "typed", "thing"), tmp_path / "mine.yaml")
    code, _, err = surnia("learn", "runs/mine", tmp_path / "mine.yaml", "--dry-run")
    assert code == 3
    said = f"{tmp_path / 'mine.yaml'} has to lie beside its groups, but there is no unknowns.json in {tmp_path}: put "
    assert err.startswith(said) and "anew" not in err


def test_learning_that_is_interrupted_says_what_is_left(home, grouped, surnia, tmp_path, monkeypatch):
    names = named(grouped, tmp_path / "typed", "thing")

    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it was to end here")

    with monkeypatch.context() as patch:
        patch.setattr("apps.detect_learn.begin_further", interrupted)
        code, _, err = surnia("learn", "runs/mine", names, "--run", "runs/begun")
        assert (code, err) == (130, "Interrupted before the run began: nothing was kept.\n")
        patch.setattr("apps.detect_learn.give_lesson", interrupted)
        code, _, err = surnia("learn", "runs/mine", names, "--dry-run")
        assert (code, err) == (130, "Interrupted: a dry run writes nothing, so nothing was kept.\n")
    shutil.copytree(home / "runs" / "mine", home / "runs" / "spare")
    with monkeypatch.context() as patch:
        patch.setattr("apps.detect_learn.go", interrupted)
        code, _, err = surnia("learn", "runs/spare", names, "--later.steps", "2")
        assert code == 130
        go_on = "surnia detect train --resume runs/spare-task3"
        assert err == f"Interrupted: runs/spare-task3 keeps its last checkpoint; go on from there with: {go_on}\n"
    code, _, err = surnia("learn", "runs/mine", names, "--run", "runs/spare-task3")
    assert code == 2 and "another name" in err and go_on in err
    assert surnia("train", "--resume", "runs/spare-task3")[0] == 0
    assert OpenWorldDetector.load(home / "runs" / "spare-task3").known[-1] == "thing"


def test_a_run_that_learnt_further_is_measured_without_the_pictures_it_learnt_from(home, grouped, surnia, tmp_path):
    root = Path(json.loads((grouped / "unknowns.json").read_text())["root"])
    names = named(grouped, tmp_path / "typed", "thing")
    assert surnia("learn", "runs/mine", names, "--later.steps", "2", "--run", "runs/measured")[0] == 0
    with moved(root):
        code, _, err = surnia("evaluate", "runs/measured", "--json", tmp_path / "again.json")
        code_of_more, _, said = surnia("learn", "runs/measured", names, "--dry-run")
    assert (code, err) == (0, "")
    assert code_of_more == 3 and said.endswith(
        "put back what runs/measured has learnt from: it is measured on, and exemplars of it are learnt again\n"
    )
    own = results(home / "runs" / "measured")["by_task"][2]["strict"]
    found = json.loads((tmp_path / "again.json").read_text())
    assert {key: found[key] for key in own} == own


def test_pictures_that_moved_are_one_sentence_with_the_option_that_helps(grouped, surnia, tmp_path):
    names = named(grouped, tmp_path / "typed", "thing")
    root = Path(json.loads((grouped / "unknowns.json").read_text())["root"])
    (tmp_path / "empty").mkdir()
    with moved(root):
        code, _, err = surnia("learn", "runs/mine", names, "--dry-run")
        assert code == 3
        assert re.fullmatch(
            rf"(\d+) of \1 pictures with named objects are not in {root}, as .*\.png: put them back, or say where the "
            r"pictures are now with --images FOLDER\n",
            err,
        )
        code, _, err = surnia("learn", "runs/mine", names, "--dry-run", "--images", tmp_path / "empty")
        assert code == 3
        assert f"are not in {tmp_path / 'empty'}, which --images names" in err and err.count("\n") == 1
        code, out, err = surnia("learn", "runs/mine", names, "--dry-run", "--images", root.with_suffix(".moved"))
        assert (code, err) == (0, "") and "Task 3: thing" in out


def test_who_found_the_objects_is_looked_at_before_they_are_learnt(grouped, surnia, tmp_path):
    names = named(grouped, tmp_path / "typed", "thing")
    record = names.parent / "unknowns.json"
    content = json.loads(record.read_text())
    assert content["found_by"]["path"].endswith("runs/mine")
    assert "were found by" not in surnia("learn", "runs/mine", names, "--dry-run")[1]
    content["found_by"] = {"path": "/runs/other", "weights": "0" * 64}
    record.write_text(json.dumps(content))
    code, out, _ = surnia("learn", "runs/mine", names, "--dry-run")
    assert code == 0
    assert out.startswith(f"note: the groups in {names.parent} were found by /runs/other, which knew the same ")
    record.write_text(json.dumps({**content, "known": ["cow"]}))
    code, out, err = surnia("learn", "runs/mine", names, "--dry-run")
    assert (code, out) == (2, "")
    assert "found by /runs/other, which knew cow, which runs/mine does not and did not know red, green, blue" in err


def test_what_cannot_be_learnt_is_said(home, grouped, surnia, tmp_path):
    code, _, err = surnia("learn", "runs/mine", grouped, "--run", "runs/none")
    assert code == 3
    assert f"no group in {grouped / 'names.yaml'} has a name" in err
    code, _, err = surnia("learn", "runs/mine", named(grouped, tmp_path / "old", "redd", "red"), "--run", "runs/none")
    assert code == 2
    assert "  'red' is a known class already, and a task teaches new ones only: leave the name" in err.splitlines()[-1]
    empty = home / "runs" / "empty"
    empty.mkdir()
    shutil.copy(home / "drawn.yaml", empty / "recipe.yaml")
    code, _, err = surnia("learn", "runs/empty", named(grouped, tmp_path / "typed", "thing"))
    assert code == 2
    assert err == "no task of runs/empty is finished; finish the first: surnia detect train --resume runs/empty\n"
    assert not (home / "runs" / "none").exists()
