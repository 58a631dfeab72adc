"""From a user's folders of Pascal VOC and COCO to a run beside the published table, on small trees."""

import json
import shlex

import pytest
from support.releases import small_releases

from apps.cli import main
from apps.detect_owod import IN_DETECTRON2, RECIPES
from apps.recipe_files import shipped
from apps.report.detection.published import in_words, not_the_benchmark, published_beside, rows_of_result
from detection.published import benchmarks, published_counts, published_rows
from detection.tasks import TaskSet

TINY = """
--network.name tiny --network.weights null --network.width 4 --network.pyramid 8 --network.representation 16
--network.min_size 64 --network.max_size 64 --network.anchors [12,20,32] --network.proposals_train 60
--network.proposals_test 40 --network.frozen_stages 0 --network.norm batch --precision 32 --data.workers 0
--batch_size 2 --regions 32 --first.steps 4 --later.steps 4 --finetune.steps 2 --clustering.refresh 2 --tasks 2
--devices 1 --threads 1 --checkpoint_every 50
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    small_releases(home)
    return home


@pytest.fixture
def surnia(home, monkeypatch, capsys):
    monkeypatch.chdir(home)

    def run(line):
        capsys.readouterr()
        code = main(["detect", *shlex.split(line)])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return run


@pytest.mark.parametrize("recipe", ["openworld_resnet50_m_owodb", "ore_resnet50_m_owodb"])
def test_every_stage_from_the_folders_to_the_published_table(home, surnia, monkeypatch, recipe):
    if not (home / "data").exists():
        out = surnia("data owod --tasks m_owodb --voc VOCdevkit --coco coco --out data/m_owodb --val 1 --as-published")
        assert "10,246" in out and "16,551" in out and "other files" in out
        assert "surnia detect train openworld_resnet50_m_owodb" in out
        for name in (*RECIPES["m_owodb"], *IN_DETECTRON2["m_owodb"]):
            assert name in " ".join(out.split()) and name in shipped("detection")
    run = f"runs/{recipe}"
    surnia(f"train {recipe} --run {run} {TINY.replace(chr(10), ' ')}")
    measured = json.loads((home / run / "results.json").read_text())["by_task"]
    assert [done["task"] for done in measured] == [1, 2]
    # Three known objects of task 1 (one is difficult) in 2 images of VOC, two in COCO's; and five unknown ones.
    assert measured[0]["strict"]["num_unknown_gt"] == 4, "truck, pizza, cup, bear; the cake is a crowd"
    assert measured[0]["ore"]["num_unknown_gt"] == 5

    out = surnia(f"evaluate {run} --mode ore --task 2")
    assert "mode ore" in out and "5 images" in out

    lists = "--gt data/m_owodb/as_published/test.json --image-list data/m_owodb/as_published/all_task_test.txt"
    found = f"--detections {run}/tasks/2/detections.json --tasks m_owodb --task 2 --mode ore --json {recipe}.json"
    assert "5 images (7 lines)" in surnia(f"score {lists} {found}")

    out = surnia(f"report {run} {recipe}.json --no-page")
    assert "m_owodb after task 2" in out
    for part in ("ORE", "PROB", "RandBox", "(strict)", "7 lines, 5 images", "scores from 0.15", "11-point"):
        assert part in out, part
    assert "at most 50 detections an image" in out and "not mutually comparable" in out
    assert "Tested on 5 images, where m_owodb has 9,119" in out
    page = (home / run / "report.html").read_text()
    assert "Beside published numbers" in page and "OrthogonalDet" in page


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--out data/s_owodb --val 1", ""),
        ("--out data/s_owodb --val 0", " --data.val data/s_owodb/test.json --decision.fit none"),
        (
            "--out so --val 0",
            " --data.train '[so/train_1.json, so/train_2.json, so/train_3.json, so/train_4.json]'"
            " --data.val so/test.json --data.test so/test.json --data.images so/images --decision.fit none",
        ),
    ],
)
def test_the_command_to_go_on_with_says_each_setting_once(tmp_path, monkeypatch, capsys, given, said):
    small_releases(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["detect", "data", "owod", "--tasks", "s_owodb", "--coco", "coco", *given.split()]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"  surnia detect train openworld_resnet50_s_owodb{said}"
    assert "in detectron2: with --engine detectron2" in out


# --- published numbers -----------------------------------------------------------------------------------------------


def test_every_published_row_says_where_it_is_from_and_how_it_was_measured():
    for benchmark in benchmarks():
        tasks = TaskSet.from_file(benchmark)
        rows = published_rows(benchmark)
        assert len({row.method for row in rows}) == len(rows) > 3
        for row in rows:
            assert row.source and row.seen in {"table", "thread", "summary", "memory"}
            assert set(row.evaluator) == {"mode", "ap", "list", "score_floor", "per_image", "note"}
            metrics = {key for values in row.by_task.values() for key in values}
            assert set(row.from_memory) < metrics and not (row.from_memory and row.seen == "memory")
            assert set(row.by_task) <= set(range(1, tasks.count + 1))
            for values in row.by_task.values():
                assert set(values) <= {"map_previous", "map_current", "map_both", "u_recall", "u_ap", "wi", "a_ose"}
                assert all(0 <= value < 1 for key, value in values.items() if key != "a_ose")
                assert values.get("a_ose", 1000) > 999


def test_published_counts_add_up_to_what_the_releases_hold():
    """VOC 2007 and 2012 have 16,551 images for training; COCO 2017 has 860,001 boxes there and 36,781 in val2017."""
    mixed, disjoint = published_counts("m_owodb"), published_counts("s_owodb")
    assert mixed["train_images"][0] == 5_011 + 11_540
    assert sum(mixed["train_instances"]) == 414_412
    assert sum(disjoint["train_instances"]) == 860_001
    assert sum(disjoint["test_instances"]) == 36_781
    assert mixed["train_images"][2] == disjoint["train_images"][2], "task 3 is the same in both"


def result(mode="ore", **changes):
    metrics = dict.fromkeys(("map_previous", "map_current", "map_both", "u_recall", "u_ap", "wi"), 0.5)
    coarse = {f"{key}_11": 0.25 for key in ("map_previous", "map_current", "map_both", "u_ap")}
    facts = {"mode": mode, "tasks": "m_owodb", "task": 1, "images": 9_119, "image_lines": 10_246, "a_ose": 7}
    return {**metrics, **coarse, **facts, "score_floor": None, "per_image": None, **changes}


def test_the_setting_of_a_row_is_the_narrower_of_detector_and_evaluator():
    rows = rows_of_result(result(score_floor=0.3, per_image=20), "mine", floor=0.05, per_image=50)
    assert [row.label for row in rows] == ["mine (ore)", "mine (ore, 11-point)"]
    assert rows[0].setting == (
        "mode ore, AP by area, 10,246 lines, 9,119 images, scores from 0.3, at most 20 detections an image"
    )
    assert (rows[0].values["map_both"], rows[1].values["map_both"], rows[1].values["u_recall"]) == (0.5, 0.25, 0.5)
    (strict,) = rows_of_result(result("strict", image_lines=9_119), "mine")
    assert "score floor not stated, detections an image not stated" in strict.setting


def test_two_test_sets_of_as_many_images_are_told_apart():
    measured = result(tasks="voc_coco", images=9_952, image_lines=9_952, score_floor=0.05, per_image=100)
    ours = [
        rows_of_result(measured, name, test=f"data/voc_coco/as_published/{name}.json")[0]
        for name in ("test_20_40", "test_5000", "mine")
    ]
    cells = {row[0]: row[-1] for row in published_beside("voc_coco", 1, ours).cells}
    assert cells["test_20_40 (ore)"] == cells["OpenDet"]
    assert len({cells["test_20_40 (ore)"], cells["test_5000 (ore)"], cells["mine (ore)"]}) == 3
    assert "mode ore, AP by area, 9,952 images," in ours[-1].setting


def test_a_run_measured_as_ore_bears_its_letter():
    ours = rows_of_result(result(), "mine", floor=0.05, per_image=50)
    beside = published_beside("m_owodb", 1, ours)
    cells = {row[0]: row for row in beside.cells}
    assert cells["ORE"][1:] == ["–", "56.3", "56.3", "14.4", "–", "0.0219", "8,234", cells["ORE"][-1]]
    assert cells["mine (ore)"][1:-1] == ["50.0", "50.0", "50.0", "50.0", "50.0", "0.5000", "7"]
    assert cells["mine (ore, 11-point)"][3] == "25.0"
    letters = {name: row[-1] for name, row in cells.items()}
    assert letters["mine (ore)"] == letters["ORE"] != letters["mine (ore, 11-point)"]
    assert any(line.startswith(f"{letters['ORE']}: ") and "suppression at .4" in line for line in beside.legend)
    assert letters["OW-DETR"] == letters["PROB"] != letters["ORE"] != letters["RandBox"]
    assert "Faster R-CNN ?" in cells, "from memory"
    assert cells["PROB"][4:8] == ["19.4", "–", "0.0569 ?", "5,195 ?"], "two metrics of a row from memory"
    assert cells["RandBox"][6:8] == ["0.0240", "4,498"]
    of_task_3 = in_words(next(row for row in published_rows("m_owodb") if row.method == "ORE").evaluator, 3)
    assert "at most 100 detections an image" in of_task_3


def test_other_images_than_the_benchmark_has_are_told():
    assert not_the_benchmark("m_owodb", [9_119, 9_119]) is None
    assert not_the_benchmark("voc_coco", [9_952, 4_952]) is None
    assert "Tested on 5 images, where s_owodb has 4,952" in not_the_benchmark("s_owodb", [4_952, 5])


@pytest.mark.parametrize(
    ("contents", "code", "said"),
    [
        ([result(), result(tasks="s_owodb")], 2, "not of one benchmark: r0.json (m_owodb), r1.json (s_owodb)"),
        ([result(tasks="pets")], 0, "on the task set of r0.json; there are numbers on m_owodb, s_"),
        (["{"], 3, "r0.json is no result of surnia detect score; give a run, or a file"),
        ([[1]], 3, "r0.json is no result of surnia detect score"),
        ([{"mode": "ore"}], 3, "r0.json is no result of surnia detect score"),
    ],
)
def test_files_that_cannot_stand_together(tmp_path, monkeypatch, capsys, contents, code, said):
    monkeypatch.chdir(tmp_path)
    for i, content in enumerate(contents):
        (tmp_path / f"r{i}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    assert main(["detect", "report", *(f"r{i}.json" for i in range(len(contents)))]) == code
    told = capsys.readouterr()
    assert said in told.out + told.err
    assert "Traceback" not in told.err


def test_a_folder_that_is_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert main(["detect", "report", "runs"]) == 2
    assert "RUN  runs is no run of surnia detect train: it has no recipe.yaml" in capsys.readouterr().err
    (tmp_path / "runs" / "recipe.yaml").write_text("tasks: 1\n")
    assert main(["detect", "report", "runs"]) > 2
    assert "no task of runs has been evaluated yet; finish the run" in capsys.readouterr().err


def test_options_of_the_builder_that_do_not_go_together(tmp_path, capsys):
    (tmp_path / "lists").mkdir()
    given = ["--tasks", "s_owodb", "--out", str(tmp_path / "out"), "--lists", str(tmp_path / "lists")]
    assert main(["detect", "data", "owod", *given]) == 2
    assert "--lists  s_owodb has no list that is drawn" in capsys.readouterr().err
    given[1:2] = ["m_owodb", "--val", "5"]
    assert main(["detect", "data", "owod", *given]) == 2
    assert "--val  the list in --lists names the images" in capsys.readouterr().err
    assert main(["detect", "data", "owod", "--tasks", "voc_coco", "--out", str(tmp_path / "out"), "--val", "5"]) == 2
    assert "--val  voc_coco has validation images of its own" in capsys.readouterr().err
    assert main(["detect", "data", "owod", "--tasks", "m_owod"]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'm_owodb'?" in said and "--out is missing" in said
    assert main(["detect", "data", "owod", "--tasks", "m_owodb", "--out", str(tmp_path / "out")]) == 3
    assert "--voc is missing" in capsys.readouterr().err
