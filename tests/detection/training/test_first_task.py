"""A first task that several runs share."""

from dataclasses import replace

import pytest
from support.drawn import drawn_recipe
from support.runs import without_times

from detection.training.first_task import copy_first_task, first_task_settings
from detection.training.layout import Layout, read_json
from detection.training.runner import detect_train
from sslcore.errors import ConfigError
from sslcore.storage import RunDirectory, load_checkpoint


def continued(other, run, recipe, data):
    with RunDirectory.create(run, recipe="data: {}\n", command=["test"], seed=recipe.seed) as opened:
        copy_first_task(other, run, recipe)
        return detect_train(recipe, opened, data=data, resume=True, quiet=True, say=lambda sentence: None)


def test_a_run_that_is_given_the_first_task_is_the_run_that_trained_it(tmp_path, drawn, whole):
    outcome = continued(whole[0], tmp_path / "run", drawn_recipe(), drawn)
    assert outcome.steps == 6 + 4  # of the second task only
    for task in (1, 2):
        ours, theirs = (read_json(path / f"tasks/{task}/detections.json") for path in (tmp_path / "run", whole[0]))
        assert ours == theirs is not None
    ours, theirs = (without_times(read_json(path / "results.json")) for path in (tmp_path / "run", whole[0]))
    assert ours == theirs


def test_what_comes_after_the_first_task_may_differ(tmp_path, drawn, whole):
    changes = {"replay": {"policy": "none"}, "decision": {"score": "max_probability"}, "later": {"steps": 2}}
    changes["unknowns"] = {"previous": 0.9}
    outcome = continued(whole[0], tmp_path / "run", drawn_recipe(**changes), drawn)
    assert outcome.steps == 2 and outcome.engine.head.scorer.score == "max_probability"
    assert outcome.results["by_task"][0]["fit"]["status"].find("max_probability") > 0


def test_other_settings_of_the_first_task_are_refused(tmp_path, drawn, whole):
    with pytest.raises(ConfigError, match="other settings of unknowns; the first task cannot be shared"):
        copy_first_task(whole[0], tmp_path / "a", drawn_recipe(unknowns={"per_image": 0}))
    with pytest.raises(ConfigError, match="has not trained its first task for 7 steps"):
        copy_first_task(whole[0], tmp_path / "b", drawn_recipe(first={"steps": 7}))
    with pytest.raises(ConfigError, match="has begun its first task already"):
        copy_first_task(whole[0], whole[0], drawn_recipe())


def test_other_data_are_refused(tmp_path, drawn, whole):
    with pytest.raises(ConfigError, match="was begun with other data"):
        continued(whole[0], tmp_path / "run", drawn_recipe(), replace(drawn, fingerprint="other"))


def test_settings_that_came_later_and_leave_the_first_task_alone_may_be_missing(tmp_path, drawn, whole, monkeypatch):
    def older(path):
        loaded = load_checkpoint(path)
        del loaded.info["recipe"]["unknowns"]["previous"]
        return loaded

    monkeypatch.setattr("detection.training.first_task.load_checkpoint", older)
    copy_first_task(whole[0], tmp_path / "run", drawn_recipe())
    assert Layout(tmp_path / "run").last_of(1, "train", drawn_recipe().first.steps) is not None


def test_settings_that_leave_the_first_task_alone():
    base = first_task_settings(drawn_recipe())
    later = {"finetune": {"steps": 0}}, {"unknowns": {"previous": 0.9}}
    for changes in ({"decision": {"fit": "oracle"}}, {"tasks": 1}, {"threads": 2}, *later):
        assert first_task_settings(drawn_recipe(**changes)) == base
    for changes in ({"clustering": {"loss": "none"}}, {"seed": 4}, {"labels": "oracle"}, {"network": {"width": 8}}):
        assert first_task_settings(drawn_recipe(**changes)) != base
