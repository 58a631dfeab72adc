"""What the benchmark of open-world detection compares, what it measures, and that it never does so twice."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from support.drawn import draw_set, open_drawn

from detection.training.layout import Layout, read_json
from sslcore.storage import load_checkpoint, save_checkpoint, step_folder

SMALL = (
    "--network.width=4", "--network.pyramid=8", "--network.representation=16", "--network.min_size=64",
    "--network.max_size=64", "--network.anchors=[16, 22, 28]", "--network.proposals_train=60",
    "--network.proposals_test=40", "--batch_size=4", "--regions=32", "--replay.per_class=4",
)  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return open_drawn(draw_set(tmp_path / "drawn"))


@pytest.fixture
def benchmark(scripts, tmp_path, data, monkeypatch):
    """bench(*words) and main(*words): the benchmark as with these words on its command line, on drawn data."""
    import openworld
    from openworld_runs import Bench

    monkeypatch.setattr(Bench, "data", data)

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["openworld.py", "--threads=1", f"--out={tmp_path / 'out'}", *words])

    def bench(*words):
        command(*words)
        return Bench(*openworld.parse())

    def main(*words):
        command(*words)
        openworld.main()

    return SimpleNamespace(bench=bench, main=main)


# --- rows ------------------------------------------------------------------------------------------------------------


def flat(values, of=""):
    """{"group.setting": value} of a recipe."""
    pairs = {}
    for name, value in values.items():
        pairs |= flat(value, f"{of}{name}.") if isinstance(value, dict) else {of + name: value}
    return pairs


def recipe_of(bench, row, seed=0):
    recipe, text = bench.recipe(row.training, seed, row.decision)
    assert text and recipe.devices == 1 and recipe.seed == seed
    return flat(recipe.as_dict())


def test_every_row_is_ours_but_for_what_it_changes(benchmark):
    from openworld_rows import ROWS, TRAININGS

    bench = benchmark.bench("--clustering.weight=0.3", "--scale=0.5")
    ours = recipe_of(bench, ROWS["ours"])
    assert ours["clustering.weight"] == 0.3 and ours["first.steps"] == 600 and ours["first.warmup"] == 25
    of_row = {}
    for name, row in ROWS.items():
        training, found = TRAININGS[row.training], recipe_of(bench, row)
        wanted = dict(change.removeprefix("--").split("=") for change in (*training.changes, *row.decision))
        if training.pretrained:
            wanted["network.weights"] = str(bench.backbone_run(0))
        for setting, value in wanted.items():
            assert str(found[setting]) in (value, f"{value}.0"), f"{name}: {setting}"
        changed = {setting for setting in ours if found[setting] != ours[setting]} - {"tasks"}
        assert changed <= wanted.keys(), name
        if row.group == "part":
            assert len({setting.split(".")[0] for setting in wanted}) == 1, f"{name} changes more than one part"
            assert bench.is_ours(row) == (not changed), name
        else:
            assert not bench.is_ours(row), name
        assert found["tasks"] == {"main": 2, "part": 2, "few": 1}[row.group]
        if not bench.is_ours(row):
            of_row.setdefault(json.dumps([found, training.few, row.baseline], sort_keys=True), []).append(name)
    assert max(map(len, of_row.values())) == 1, "rows that are the same"
    assert bench.is_ours(ROWS["fit_known"]) and not bench.is_ours(ROWS["fit_oracle"])


def test_a_row_is_ours_where_the_recipe_has_what_it_asks_for(benchmark):
    from openworld_rows import ROWS

    bench = benchmark.bench("--decision.fit=none", "--clustering.loss=infonce")
    same = {name for name, row in ROWS.items() if bench.is_ours(row)}
    assert {"fit_none", "clustering_infonce"} <= same and not {"fit_known", "clustering_hinge", "ours"} & same


def test_other_settings_and_other_scenes_have_another_folder(benchmark, monkeypatch):
    from dataclasses import replace

    bench = benchmark.bench()
    assert benchmark.bench("--seed=5", "--threads=2", "--devices=1").folder == bench.folder
    assert benchmark.bench("--clustering.weight=0.3").folder != bench.folder != benchmark.bench("--scale=0.5").folder
    monkeypatch.setattr(type(bench), "data", replace(bench.data, fingerprint="another"))
    assert benchmark.bench().folder != bench.folder


# --- the cap ---------------------------------------------------------------------------------------------------------


def test_each_image_has_its_ten_best_unknown_detections_and_all_known_ones(scripts):
    from openworld_measure import best_unknown

    def found_in(image, category, *scores):
        return [{"image_id": image, "category_id": category, "score": score} for score in scores]

    known = found_in(1, 2, *[0.01] * 12)
    many = found_in(1, 0, 0.3, *(rank / 20 for rank in range(14)))
    few = found_in("b", 0, *[0.001] * 10)
    kept = best_unknown([*many[:7], *known, *few, *many[7:]], unknown_id=0)
    assert [record for record in kept if record["category_id"] == 2] == known
    scores = [record["score"] for record in kept if record["image_id"] == 1 and record["category_id"] == 0]
    assert sorted(scores) == sorted([0.3, *(rank / 20 for rank in range(5, 14))])
    assert [record for record in kept if record["image_id"] == "b"] == few


def test_of_equal_scores_the_earlier_are_kept(scripts):
    from openworld_measure import best_unknown

    equal = [{"image_id": 1, "category_id": 7, "score": 0.5, "n": n} for n in range(12)]
    assert [record["n"] for record in best_unknown(equal, unknown_id=7)] == list(range(10))
    assert best_unknown(equal, unknown_id=0) == equal
    assert best_unknown([], unknown_id=0) == []


# --- what is there already -------------------------------------------------------------------------------------------


def test_a_row_is_wanted_until_all_its_tasks_are_stored(benchmark):
    import openworld
    from openworld_rows import ROWS
    from stored import store

    bench = benchmark.bench()
    assert openworld.tasks_of(bench, ROWS["ours"]) == 2 and openworld.tasks_of(bench, ROWS["few_ssl"]) == 1
    for name, done, wanted in (("ours", 1, True), ("ours", 2, False), ("few_ssl", 1, False), ("label_ore", 0, True)):
        store(openworld.result_path(bench, name, 3), {"tasks": [{}] * done})
        assert openworld.wanted(bench, name, 3) == wanted
        assert openworld.wanted(bench, name, 4)  # another seed
    assert not openworld.wanted(bench, "fit_known", 4)  # as ours is


def test_a_first_task_is_taken_from_a_finished_one_of_the_same_settings_and_images(benchmark):
    from openworld_rows import TRAININGS

    bench = benchmark.bench()

    def donor(name):
        return bench._donor(bench.recipe(name, 0)[0], TRAININGS[name], 0)

    def trained(name, steps):
        folder = Layout(bench.run(name, 0)).checkpoints(1, "train")
        save_checkpoint(step_folder(folder, steps), model={}, train={}, info={})

    assert donor("replay_none") is None
    trained("few_random", 1200)  # on a tenth of the images
    trained("ours", 1199)
    assert donor("replay_none") is None
    trained("ours", 1200)
    assert donor("replay_none") == bench.run("ours", 0)
    assert donor("few_random") == bench.run("few_random", 0)
    assert donor("label_none") is donor("few_ssl") is None


def test_what_is_stored_is_not_measured_again_and_a_first_task_not_trained_again(benchmark, monkeypatch, capsys):
    import openworld
    import openworld_runs
    import openworld_table

    rows = ("plain", "finetuned", "random_boxes", "max_softmax_kept", "ours", "fit_oracle")
    trained, real = [], openworld_runs.detect_train

    def watched(recipe, directory, **rest):
        outcome = real(recipe, directory, **rest)
        trained.append((directory.path.name, outcome.steps))
        return outcome

    monkeypatch.setattr(openworld_runs, "detect_train", watched)
    monkeypatch.setattr(openworld, "table", lambda bench: "")
    words = ("--rows", *rows, "--seeds=1", "--scale=0.01", *SMALL)
    benchmark.main(*words)
    said = capsys.readouterr().out
    # 1 % of 1200, 400 and 150 steps; without fine-tuning, and with the first task of another.
    assert trained == [("plain-seed0", 12 + 4), ("finetuned-seed0", 4 + 2), ("ours-seed0", 12 + 4 + 2)]
    assert "finetuned 0: the first task is that of plain-seed0" in said and "ours 0: the first task" not in said
    bench = benchmark.bench(*words)
    results = {row: read_json(openworld.result_path(bench, row, 0)) for row in rows}
    for row, result in results.items():
        assert [task["task"] for task in result["tasks"]] == [1, 2] and result["row"] == row
        assert all(task["unknown_per_image"] <= 10 for task in result["tasks"])
        assert result["tasks"][0]["forgetting"] is None
    assert results["random_boxes"]["tasks"][0]["uncapped"]["unknown_per_image"] > 0
    fits = [results[row]["recipe"]["decision"]["fit"] for row in ("ours", "fit_oracle")]
    assert fits == ["known", "oracle"] == [results[row]["tasks"][0]["fit"]["fit"] for row in ("ours", "fit_oracle")]
    plain, finetuned = (load_checkpoint(Layout(bench.run(name, 0)).model(1)).model for name in ("plain", "finetuned"))
    assert all(torch.equal(value, finetuned[name]) for name, value in plain.items())

    trained.clear()
    benchmark.main(*words)
    assert trained == []
    table = openworld_table.table(bench)
    assert "| ours |" in table and "### Goals" in table
    (same,) = [line for line in table.splitlines() if line.startswith("As ours is: ")]
    assert "fit: known-only" in same and "oracle" not in same
    before = openworld.result_path(bench, "plain", 0).stat().st_mtime_ns
    openworld.result_path(bench, "random_boxes", 0).unlink()
    benchmark.main(*words)
    assert trained == [("finetuned-seed0", 0)]  # what it is measured on is there
    again = read_json(openworld.result_path(bench, "random_boxes", 0))
    assert again["tasks"] == results["random_boxes"]["tasks"]
    assert openworld.result_path(bench, "plain", 0).stat().st_mtime_ns == before
