"""A run that was stopped or killed anywhere ends like one that was not, bit for bit."""

import multiprocessing
import os
import shutil
import signal

import pytest
from support.drawn import drawn_recipe
from support.runs import assert_same_run, kill, run_detection, stop

from detection.training import chain, fitting
from detection.training.runner import STAGES
from sslcore.errors import CheckpointError, ConfigError
from sslcore.storage import list_checkpoints
from sslcore.training.checkpoints import Checkpoints


def test_stopped_inside_stages_of_both_tasks(tmp_path, drawn, whole):
    recipe, run = drawn_recipe(), tmp_path / "parts"
    first = run_detection(run, recipe, drawn, at=(1, "train", 3))
    assert first.stopped and first.exit_code == 128 + signal.SIGTERM and first.steps == 3
    second = run_detection(run, recipe, drawn, resume=True, at=(2, "train", 6))  # at its very end
    assert second.stopped and second.steps == 3 + 6
    third = run_detection(run, recipe, drawn, resume=True, at=(2, "finetune", 3))
    assert third.stopped and third.steps == 3
    assert not run_detection(run, recipe, drawn, resume=True).stopped
    assert_same_run(whole[0], run)


def test_left_between_all_stages(tmp_path, drawn, whole):
    recipe, run, resume = drawn_recipe(), tmp_path / "parts", False
    for task in (1, 2):
        for stage in STAGES:
            run_detection(run, recipe, drawn, resume=resume, until=(task, stage))
            resume = True
    assert_same_run(whole[0], run)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("module", "name"), [(fitting, "collect_evidence"), (chain, "detect")])
def test_stopped_while_looking_at_images(tmp_path, drawn, whole, monkeypatch, module, name, late):
    """Before the first one, and after the last one, when nobody looks for signals between images any more."""
    recipe, run, real = drawn_recipe(), tmp_path / "parts", getattr(module, name)

    def stopping(*args, **kwargs):
        if not late:
            stop()
        found = real(*args, **kwargs)
        stop()
        return found

    monkeypatch.setattr(module, name, stopping)
    outcome = run_detection(run, recipe, drawn)
    assert outcome.stopped and outcome.exit_code == 128 + signal.SIGTERM and outcome.steps == 6
    assert not (run / "tasks/1/detections.json").exists()
    monkeypatch.setattr(module, name, real)
    run_detection(run, recipe, drawn, resume=True)
    assert_same_run(whole[0], run)


def test_stopped_when_the_last_step_of_a_stage_is_done(tmp_path, drawn, whole, monkeypatch):
    recipe, run, real = drawn_recipe(), tmp_path / "parts", Checkpoints.on_train_end

    def stopping(self, trainer, module):
        stop()
        real(self, trainer, module)

    monkeypatch.setattr(Checkpoints, "on_train_end", stopping)
    outcome = run_detection(run, recipe, drawn)
    assert outcome.stopped and outcome.exit_code == 128 + signal.SIGTERM and outcome.steps == 6
    monkeypatch.setattr(Checkpoints, "on_train_end", real)
    run_detection(run, recipe, drawn, resume=True)
    assert_same_run(whole[0], run)


def test_killed_without_warning(tmp_path, drawn, whole):
    recipe, run = drawn_recipe(), tmp_path / "killed"
    context = multiprocessing.get_context("fork")
    for number, at in enumerate([(1, "train", 5), (2, "train", 3), (2, "finetune", 1)]):
        child = context.Process(
            target=run_detection, args=(run, recipe, drawn), kwargs={"resume": number > 0, "at": at, "action": kill}
        )
        child.start()
        child.join(90)
        assert child.exitcode == -signal.SIGKILL
    run_detection(run, recipe, drawn, resume=True)
    assert_same_run(whole[0], run)


def test_killed_again_and_again_while_files_change(tmp_path, drawn, whole):
    recipe, run = drawn_recipe(), tmp_path / "killed"
    context = multiprocessing.get_context("fork")
    codes = []
    while 0 not in codes and len(codes) < 20:
        child = context.Process(target=_faulty, args=(run, recipe, drawn, 389))
        child.start()
        child.join(90)
        codes.append(child.exitcode)
    assert codes[-1] == 0 and len(codes) > 3 and set(codes[:-1]) == {137}
    assert_same_run(whole[0], run)


def _faulty(run, recipe, data, operation):
    os.environ["SURNIA_FAULT"] = f"kill:{operation}"
    run_detection(run, recipe, data, resume=(run / "recipe.yaml").exists())


@pytest.mark.parametrize(
    "lost",
    [
        ["2/results.json"],
        ["2/results.json", "2/detections.json"],
        ["2/results.json", "2/detections.json", "2/model"],
        ["2/results.json", "2/detections.json", "2/model", "2/energies.json", "2/finetune"],
        ["2/results.json", "2/detections.json", "2/model", "2/energies.json", "2/finetune", "2/train"],
        ["2", "1/results.json"],
    ],
)
def test_killed_before_a_file_was_written(tmp_path, drawn, whole, lost):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    for name in lost:
        path = run / "tasks" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run_detection(run, drawn_recipe(), drawn, resume=True)
    assert_same_run(whole[0], run)


def test_a_finished_run_has_nothing_left_to_do(tmp_path, drawn, whole):
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    outcome = run_detection(run, drawn_recipe(), drawn, resume=True)
    assert outcome.steps == 0 and outcome.results["complete"] and not outcome.engine.training
    assert len(list_checkpoints(run / "tasks/2/train/checkpoints")) == 1
    assert_same_run(whole[0], run)


def test_another_task_set_or_other_data_is_refused(tmp_path, drawn, whole):
    from dataclasses import replace

    from detection.tasks import TaskSet

    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    others = replace(drawn, tasks=TaskSet("drawn", (("blue", "green"), ("red", "yellow"))))
    with pytest.raises(CheckpointError, match=r"of another task set: after task 1 it knows red, green, and in drawn"):
        run_detection(run, drawn_recipe(), others, resume=True)
    with pytest.raises(ConfigError, match="was begun with other data"):
        run_detection(run, drawn_recipe(), replace(drawn, fingerprint="other"), resume=True)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, drawn, whole):
    recipe, run, said = drawn_recipe(), tmp_path / "run", []
    run_detection(run, recipe, drawn, at=(1, "train", 5))
    newest = list_checkpoints(run / "tasks/1/train/checkpoints")[-1]
    assert newest.name == "step-00000005"
    (newest / "model.safetensors").write_bytes(b"?")
    outcome = run_detection(run, recipe, drawn, resume=True, say=said)
    assert outcome.steps == 2 + 6 + 4 and any("skipped step-00000005" in sentence for sentence in said)
    assert_same_run(whole[0], run)


def test_a_stage_with_only_damaged_checkpoints_is_not_begun_anew(tmp_path, drawn):
    recipe, run = drawn_recipe(), tmp_path / "run"
    run_detection(run, recipe, drawn, at=(1, "train", 5))
    for checkpoint in list_checkpoints(run / "tasks/1/train/checkpoints"):
        (checkpoint / "model.safetensors").write_bytes(b"?")
    with pytest.raises(CheckpointError, match=r"is sound, so task 1, train cannot be .*, or delete them all to have"):
        run_detection(run, recipe, drawn, resume=True)
