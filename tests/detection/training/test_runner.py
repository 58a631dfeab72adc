"""Whole runs: what they leave, baselines, and what they say of odd data."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.drawn import TASKS, drawn_recipe, without
from support.runs import run_detection

from detection.structures import FIRST_KNOWN, UNKNOWN
from detection.tasks import TaskSet
from detection.training import chain as chain_module
from detection.training import model as model_module
from detection.training.layout import read_json
from detection.training.model import recipe_of, restore_engine, tasks_of
from detection.training.runner import STAGES, Chain, detect_train
from sslcore.errors import CheckpointError, ConfigError, DataError, SurniaError
from sslcore.storage import list_checkpoints, load_checkpoint, read_metrics, step_folder

QUICK = {"first": {"steps": 2}, "later": {"steps": 2}, "finetune": {"steps": 1}}


def test_a_run_leaves_one_file_with_everything(whole):
    folder, outcome = whole
    results = read_json(folder / "results.json")
    assert results["complete"] and results["seed"] == 3 and results["surroundings"]["versions"]["torch"]
    assert results["tasks"] == TASKS.to_dict() and [each["task"] for each in results["by_task"]] == [1, 2]
    first, second = results["by_task"]
    assert first["strict"]["map_previous"] is None and second["strict"]["map_previous"] is not None
    assert second["strict"]["mode"] == "strict" and second["ore"]["mode"] == "ore"
    assert set(second["purity"]) == {"train", "finetune"} == set(second["loss"])
    chosen = second["purity"]["train"]["chosen"]
    assert chosen["count"] > 0 and sum(v for k, v in chosen.items() if k != "count") == pytest.approx(1)
    assert second["exemplars"] == {"red": 4, "green": 4, "blue": 4, "yellow": 4}
    assert second["fit"]["status"].startswith("Unknown objects are told by")
    assert results["forgetting"]["strict"]["map_by_task"][1] is not None
    assert outcome.steps == 6 + 6 + 4 and outcome.results["by_task"] == results["by_task"]
    backbone = read_json(folder / "tasks/1/backbone.json")
    assert (
        backbone["future_labels"] == "no" and backbone["matched"] == [] and "stages.0.0.weight" in backbone["missing"]
    )
    energies = read_json(folder / "tasks/2/energies.json")
    assert len(energies["samples"]["unknown"]) == energies["unknown_count"] > 0 and energies["curves"]["log_ratio"]


def test_metrics_tell_losses_rates_and_purity_over_time(whole):
    lines = read_metrics(whole[0])
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps) and steps[-1] == 6 + 1 + 6 + 4 + 1
    train = [line for line in lines if line["stage"] == "train"]
    assert {"loss", "objectness", "classification", "boxes", "clustering", "learning_rate"} <= set(train[0])
    assert "purity" in train[-1] and "purity" not in train[0]
    assert [line["task"] for line in lines if line["stage"] == "evaluate"] == [1, 2]
    assert list((whole[0] / "tensorboard").glob("events*"))


def test_a_checkpoint_suffices_to_build_the_detector_anew(whole, drawn):
    folder, outcome = whole
    model = folder / "tasks/2/model"
    engine, info = restore_engine(model)
    assert info["labels"] == list(TASKS.label_names(2)) and info["task"] == 2 and info["data"] == drawn.fingerprint
    assert tasks_of(info, model) == TASKS and recipe_of(model) == drawn_recipe()
    for name, value in outcome.engine.state_dict().items():
        assert torch.equal(engine.state_dict()[name], value), name
    image = torch.rand(3, 64, 64)
    assert torch.equal(engine.eval().predict([image])[0].scores, outcome.engine.predict([image])[0].scores)
    longer = replace(TASKS, tasks=(*TASKS.tasks, ("pink",)))
    assert restore_engine(model, tasks=longer)[1]["task"] == 2  # a task set that goes on is no other
    with pytest.raises(CheckpointError, match="do not fit the recipe's detector"):
        restore_engine(model, recipe=drawn_recipe(network={"representation": 8}))


def test_weights_that_are_not_finite_are_no_detector(whole, monkeypatch):
    model = whole[0] / "tasks/2/model"
    loaded = load_checkpoint(model)
    loaded.model["engine.predictor.classify.bias"][1] = math.nan
    monkeypatch.setattr(model_module, "load_checkpoint", lambda folder: loaded)
    with pytest.raises(CheckpointError, match=r"tasks/2/model are not finite \(predictor.classify.bias\)"):
        restore_engine(model)


def test_without_a_run_directory_nothing_is_written(tmp_path, drawn, monkeypatch, whole):
    monkeypatch.chdir(tmp_path)
    outcome = detect_train(drawn_recipe(), None, data=drawn, quiet=True, say=lambda sentence: None)
    assert list(tmp_path.iterdir()) == [] and outcome.results["complete"] and outcome.checkpoint is None
    for name, value in whole[1].engine.state_dict().items():
        assert torch.equal(outcome.engine.state_dict()[name], value), name


def test_steps_of_the_run_are_counted_over_stages(drawn):
    chain = Chain(drawn_recipe(), drawn, None, quiet=True, say=print)
    found = [chain.offset(task, stage) for task in (1, 2, 3) for stage in STAGES]
    assert found == [0, 6, 6, 6, 7, 13, 17, 17, 18, 24, 28, 28]


PLAIN = {"unknowns": {"per_image": 0}, "clustering": {"loss": "none"}, "decision": {"fit": "none"}}


@pytest.mark.parametrize(
    "changes",
    [
        {**PLAIN, "finetune": {"steps": 0}, "replay": {"policy": "none", "share": 0.5}},
        {**PLAIN},
        {"labels": "oracle", "unknowns": {"per_image": 0}, "decision": {"fit": "oracle"}},
        {
            "network": {"compat": "ore", "per_class_boxes": True},
            "unknowns": {"compat": "ore", "start": 0},
            "clustering": {"compat": "ore", "loss": "hinge", "start": 0},
        },
        {"decision": {"score": "max_probability"}, "precision": "bf16", "clip_norm": 0, "tasks": 1},
    ],
)
def test_baselines_and_single_parts_are_recipes(tmp_path, drawn, changes):
    recipe = drawn_recipe(**{**QUICK, **{k: {**QUICK[k], **v} if k in QUICK else v for k, v in changes.items()}})
    outcome = run_detection(tmp_path / "run", recipe, drawn)
    tasks = recipe.tasks or 2
    last = outcome.results["by_task"][-1]
    assert outcome.results["complete"] and last["task"] == tasks
    assert (tmp_path / f"run/tasks/{tasks}/finetune").exists() == (tasks == 2 and recipe.finetune.steps > 0)
    fitted = last["fit"]["fit"] != "none" and last["fit"]["kind"] != "none"
    assert outcome.engine.head.scorer.fitted == fitted and last["fit"]["fit"] == recipe.decision.fit
    assert all(math.isfinite(value) for stage in last["loss"].values() for value in stage.values())
    if not recipe.unknowns.per_image:
        assert last["purity"]["train"] is None and not (tmp_path / "run/tasks/2/previous_train.json").exists()
    outputs = [len(restore_engine(tmp_path / f"run/tasks/{t}/model")[0].predictor.classify.bias) for t in (1, tasks)]
    assert outputs == ([6, 6] if recipe.network.compat == "ore" else [4, 2 + 2 * tasks])
    if recipe.replay.policy == "none":
        assert last["exemplars"] == {}


def test_the_originals_choice_asks_nobody_what_is_known_already(tmp_path, drawn, monkeypatch):
    """Looking at every image takes as long as an evaluation, and that choice would not use what was found."""
    monkeypatch.setattr(chain_module, "previous_boxes", lambda *_, **__: pytest.fail("the previous model was asked"))
    looked_at, real = [], Chain._share
    monkeypatch.setattr(Chain, "_share", lambda self, what, *rest: looked_at.append(what) or real(self, what, *rest))
    recipe = drawn_recipe(**{**QUICK, "unknowns": {"compat": "ore", "start": 0.0}, "decision": {"fit": "none"}})
    outcome = run_detection(tmp_path / "run", recipe, drawn)
    assert looked_at == ["task 1, evaluation", "task 2, evaluation"]
    assert not list((tmp_path / "run/tasks").glob("*/previous_*.json"))
    assert outcome.results["by_task"][1]["purity"]["train"]["chosen"]["count"] > 0  # it labelled all the same


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"unknowns": {"previous": 0.01}, "decision": {"score_floor": 0.05}}, True),
        ({"unknowns": {"previous": 0.0}, "decision": {"score_floor": 0.05}}, False),  # all that is detected
        ({"unknowns": {"previous": 0.05}, "decision": {"score_floor": 0.05}}, False),
        ({"unknowns": {"previous": 0.01, "compat": "ore"}}, False),  # it asks nobody
        ({"unknowns": {"previous": 0.01, "per_image": 0}}, False),
        ({"unknowns": {"previous": 0.01}, "tasks": 1}, False),
    ],
)
def test_a_score_that_nothing_is_detected_with_is_told(drawn, changes, told):
    said = []
    Chain(drawn_recipe(**{**QUICK, **changes}), drawn, None, quiet=True, say=said.append).go(until=(1, "train"))
    notes = [sentence for sentence in said if sentence.startswith("note: ")]
    assert len(notes) == told
    if told:
        assert "unknowns.previous is 0.01, but what has a score below decision.score_floor (0.05)" in notes[0]
        assert "--decision.score_floor 0.01" in notes[0] and "--unknowns.previous 0 " in notes[0]


def test_it_learns_what_is_easy_to_see(tmp_path, drawn):
    recipe = drawn_recipe(
        tasks=1, first={"steps": 150, "lr": 0.05, "schedule": "cosine"}, unknowns={"per_image": 0},
        network={"width": 8, "representation": 64}, decision={"fit": "none"}, checkpoint_every=100,
    )  # fmt: skip
    outcome = run_detection(tmp_path / "run", recipe, drawn)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run") if line["stage"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert outcome.results["by_task"][0]["strict"]["map_current"] > 0.2


# --- odd data


@pytest.mark.parametrize(
    ("lr", "steps", "said", "kept"),
    [
        (1e4, 30, "the network's numbers are not finite in task 1, train, step 3: lower the stage's lr", [2]),
        (1e6, 2, "the weights are not finite in task 1, train, step 2: lower the stage's lr", []),
    ],
)
def test_a_stage_that_diverges_ends_in_a_sentence(tmp_path, drawn, lr, steps, said, kept):
    recipe = drawn_recipe(first={"steps": steps, "lr": lr, "warmup": 0}, tasks=1, clip_norm=0)
    with pytest.raises(SurniaError, match=rf"^{said}, .* \(what is not finite is never saved as a checkpoint\)$"):
        run_detection(tmp_path / "run", recipe, drawn)
    checkpoints = tmp_path / "run/tasks/1/train/checkpoints"
    assert list_checkpoints(checkpoints) == [step_folder(checkpoints, step) for step in kept]
    assert not (tmp_path / "run/tasks/1/model").exists()


def test_a_class_without_a_training_sample_is_named_and_the_rest_learnt(tmp_path, drawn):
    said = []
    data = replace(drawn, trains=(without(drawn.train(1), "green"), drawn.train(2)))
    outcome = run_detection(tmp_path / "run", drawn_recipe(**QUICK), data, say=said)
    assert outcome.results["complete"] and "green" not in outcome.results["by_task"][1]["exemplars"]
    assert any("task 1: no training sample of green" in sentence for sentence in said)


def test_training_sets_with_nothing_to_learn_are_refused(tmp_path, drawn):
    data = replace(drawn, trains=(without(drawn.train(1), "red", "green"), drawn.train(2)))
    with pytest.raises(DataError, match=r"train_1.json has no box of any class of task 1 \(red, green\)"):
        run_detection(tmp_path / "a", drawn_recipe(**QUICK), data)
    data = replace(drawn, trains=(drawn.train(1).select([]), drawn.train(2)))
    with pytest.raises(DataError, match="has no image to learn task 1 from"):
        run_detection(tmp_path / "b", drawn_recipe(**QUICK), data)


@pytest.mark.parametrize("fit", ["known", "oracle"])
def test_validation_images_without_a_known_box_end_in_a_sentence(tmp_path, drawn, fit):
    said = []
    gone = ("red", "green") if fit == "known" else ("red", "green", "blue", "yellow", "grey")
    data = replace(drawn, val=without(drawn.val, *gone))
    recipe = drawn_recipe(**QUICK, tasks=1, decision={"fit": fit})
    outcome = run_detection(tmp_path / "run", recipe, data, say=said)
    assert outcome.results["complete"] and any("too few to fit" in sentence for sentence in said)
    summary = read_json(tmp_path / "run/tasks/1/energies.json")
    assert summary["known_count"] == 0
    found = outcome.engine.predict([torch.rand(3, 64, 64)])[0]
    assert bool(found.scores.isfinite().all())


def test_an_image_that_is_gone_is_named(tmp_path, drawn):
    images = tuple(replace(image, file_name=f"gone/{image.file_name}") for image in drawn.train(1).images)
    data = replace(drawn, trains=(replace(drawn.train(1), images=images), drawn.train(2)))
    with pytest.raises(DataError, match=r"gone/train_1_\d+.png"):
        run_detection(tmp_path / "run", drawn_recipe(**QUICK), data)


def test_more_tasks_than_there_are_are_refused(drawn):
    with pytest.raises(ConfigError, match="3 is more than the 2 of drawn"):
        detect_train(drawn_recipe(tasks=3), None, data=drawn, quiet=True)


def test_one_file_for_all_tasks_leaves_out_images_without_a_label(tmp_path, drawn):
    tasks = TaskSet("drawn", (("red", "green"), ("blue", "yellow")))
    data = replace(drawn, tasks=tasks, trains=(drawn.train(1), drawn.train(1)))
    chain = Chain(drawn_recipe(**QUICK), data, None, quiet=True, say=print)
    labeled = chain.lessons._current(2)
    assert 0 < len(labeled) < 12 and len(np.unique(labeled.box_image)) == len(labeled)
    assert (labeled.labels >= FIRST_KNOWN + 2).all()


def test_before_fine_tuning_the_detector_is_asked_where_one_tasks_classes_alone_are_annotated(tmp_path, drawn):
    others = [name for name in drawn.train(2).categories if name not in TASKS.current(2)]
    data = replace(drawn, trains=(drawn.train(1), without(drawn.train(2), *others)))
    run_detection(tmp_path / "alone", drawn_recipe(**QUICK), data)
    run_detection(tmp_path / "all", drawn_recipe(**QUICK), drawn)
    assert any(read_json(tmp_path / "alone/tasks/2/previous_finetune.json")["boxes"].values())
    assert not (tmp_path / "all/tasks/2/previous_finetune.json").exists()


def test_an_oracle_sees_unknown_objects_among_exemplars_too(drawn):
    of = {}
    for labels in ("task", "oracle"):
        chain = Chain(drawn_recipe(labels=labels), drawn, None, quiet=True, say=print)
        of[labels] = chain.lessons._exemplars_of(range(1, 3), 2)
    for plain, oracle in zip(of["task"].sets, of["oracle"].sets, strict=True):
        assert plain.images == oracle.images and (plain.labels >= FIRST_KNOWN).all()
        grey = int((oracle.annotations.box_category == oracle.annotations.categories.index("grey")).sum())
        assert int((oracle.labels == UNKNOWN).sum()) == grey > 0
        assert int((oracle.labels >= FIRST_KNOWN).sum()) == len(plain.labels)
