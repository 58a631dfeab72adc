"""Whole runs of the detectron2 engine: the same chain of tasks, run directory and exactness as with the other."""

import json
import math
import re
import shutil
import warnings

import pytest
import torch
from support.drawn import TASKS, draw_set, drawn_recipe
from support.runs import assert_same_run, in_two, run_detection, take_part
from torch.optim.optimizer import register_optimizer_step_post_hook

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from apps.cli import main
from apps.recipe_text import dump
from detection.data.settings import CocoData
from detection.detector import OpenWorldDetector
from detection.engines.detectron2 import OpenWorldRCNN
from detection.training.layout import read_json
from detection.training.model import recipe_of, restore_engine
from detection.training.runner import Chain
from sslcore.errors import ConfigError, SurniaError
from sslcore.storage import read_metrics

NETWORK = {"name": "resnet18_fpn", "anchors": [8, 16, 32, 64], "norm": "batch"}


def small(**changes):
    """The other engine's small recipe on a ResNet-18 of detectron2, with fewer steps."""
    stage = {"steps": 3, "lr": 0.003}
    base = {
        "engine": "detectron2", "network": NETWORK, "first": stage, "later": stage,
        "finetune": {**stage, "steps": 2},
    }  # fmt: skip
    for name, value in changes.items():
        base[name] = {**base[name], **value} if isinstance(value, dict) and name in base else value
    return drawn_recipe(**base)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, drawn):
    """(folder, outcome) of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return folder, run_detection(folder, small(), drawn)


def test_it_goes_through_all_tasks_and_leaves_the_same_files(finished, drawn):
    folder, outcome = finished
    assert isinstance(outcome.engine, OpenWorldRCNN) and outcome.steps == 3 + 3 + 2
    results = read_json(folder / "results.json")
    assert results["complete"] and results["recipe"]["engine"] == "detectron2"
    first, second = results["by_task"]
    assert set(second["loss"]["train"]) == {
        "loss", "objectness", "proposal_boxes", "classification", "boxes", "clustering",
    }  # fmt: skip
    assert all(math.isfinite(value) for stage in second["loss"].values() for value in stage.values())
    assert first["purity"]["train"]["chosen"]["count"] > 0 and second["fit"]["status"]
    lines = read_metrics(folder)
    assert [line["task"] for line in lines if line["stage"] == "evaluate"] == [1, 2]
    assert {"loss", "classification", "learning_rate"} <= set(lines[0]) and list((folder / "tensorboard").iterdir())
    assert (folder / "tasks/2/previous_train.json").exists() and (folder / "tasks/2/exemplars.json").exists()
    model = folder / "tasks/2/model"
    engine, info = restore_engine(model)
    assert isinstance(engine, OpenWorldRCNN) and info["labels"] == list(TASKS.label_names(2))
    assert recipe_of(model) == small() and engine.head.known == TASKS.known(2)
    for name, value in outcome.engine.state_dict().items():
        assert torch.equal(engine.state_dict()[name], value), name


def test_stopped_anywhere_it_ends_alike(tmp_path, drawn, finished):
    run, recipe = tmp_path / "parts", small()
    first = run_detection(run, recipe, drawn, at=(1, "train", 1))
    assert first.stopped and first.steps == 1
    second = run_detection(run, recipe, drawn, resume=True, at=(2, "train", 2))
    assert second.stopped and second.steps == 2 + 2
    assert not run_detection(run, recipe, drawn, resume=True).stopped
    assert_same_run(finished[0], run)


def test_two_processes_have_one_detector_and_stopped_they_end_alike(tmp_path, drawn):
    recipe = small(devices=2, finetune={"steps": 1}, clustering={"start": 0.0, "refresh": 1})
    in_two(take_part, tmp_path / "two", recipe, drawn, tmp_path)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(theirs[name], value) for name, value in ours.items() if isinstance(value, torch.Tensor))
    assert any(name.endswith("running_mean") for name in ours), "batch norms have met other images in each process"
    assert ours["model.roi_heads.head.clustering.prototypes.seen"].any()
    chosen = read_json(tmp_path / "two/tasks/2/results.json")["purity"]["train"]["chosen"]["count"]
    assert chosen > 2 * recipe.later.steps, "more than one process's images alone would have"

    in_two(take_part, tmp_path / "parts", recipe, drawn, None, {"at": (2, "train", 1)})
    in_two(take_part, tmp_path / "parts", recipe, drawn, None, {"resume": True})
    assert_same_run(tmp_path / "two", tmp_path / "parts")


def test_other_settings_of_the_recipe_hold_here_too(tmp_path, drawn):
    """Masked outputs, boxes for each class, ORE's choices, mixed precision, and gradients of any length."""
    recipe = small(
        network={"compat": "ore", "per_class_boxes": True, "norm": "frozen", "frozen_stages": 2},
        unknowns={"compat": "ore", "start": 0}, clustering={"compat": "ore", "loss": "hinge", "start": 0},
        precision="bf16", clip_norm=0, tasks=1, first={"steps": 2, "lr": 1e-5},
    )  # fmt: skip
    outcome = run_detection(tmp_path / "run", recipe, drawn)
    assert outcome.results["complete"] and len(outcome.engine.predictor.classify.bias) == 6
    assert not any(p.requires_grad for p in outcome.engine.model.backbone.bottom_up.stem.parameters())


@pytest.mark.parametrize("longest", [0.0, 0.01])
def test_gradients_are_clipped(drawn, longest):
    lengths = []

    def measure(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        lengths.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())

    handle = register_optimizer_step_post_hook(measure)
    try:
        recipe = small(clip_norm=longest, first={"steps": 1})
        Chain(recipe, drawn, None, quiet=True, say=lambda sentence: None).go(until=(1, "train"))
    finally:
        handle.remove()
    assert len(lengths) == 1 and (lengths[0] == pytest.approx(0.01, rel=1e-3)) == bool(longest)


def test_losses_that_are_not_finite_end_the_run_in_a_sentence(tmp_path, drawn):
    recipe = small(network={"norm": "frozen"}, first={"steps": 30, "lr": 1e4, "warmup": 0}, tasks=1, clip_norm=0)
    with pytest.raises(SurniaError, match=r"not finite in task 1, train, step \d+: lower the stage's lr"):
        run_detection(tmp_path / "run", recipe, drawn)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": {"name": "tiny"}}, "tiny is a network of engine torchvision"),
        (
            {"engine": "torchvision", "network": {"name": "resnet50_c4"}},
            "resnet50_c4 is a network of engine detectron2",
        ),
        ({"engine": "torchvision", "network": {"weights": "detectron2:R-50.pkl"}}, "are for engine detectron2"),
    ],
)
def test_networks_of_the_other_engine_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        small(**changes)


def test_settings_that_do_not_fit_are_refused(tmp_path, drawn):
    for network, said in (
        ({"name": "resnet50_c4", "representation": 512}, "set it to 2048"),
        ({"anchors": [8, 16, 32]}, "give 4 or 5 sizes"),
    ):
        with pytest.raises(ConfigError, match=said):
            run_detection(tmp_path / "run", small(network=network, tasks=1), drawn)
        assert not (tmp_path / "run/tasks").exists()
        shutil.rmtree(tmp_path / "run")


def test_the_commands_take_such_runs(tmp_path, drawn, monkeypatch, capsys):
    draw_set(tmp_path / "set")
    TASKS.save(tmp_path / "tasks.yaml")
    data = CocoData(
        tasks="tasks.yaml", train=["set/train_1.json", "set/train_2.json"], val="set/val.json", test="set/test.json",
        images="set/images", workers=0,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("apps.detect_train.write_detection_report", lambda path, data: None)
    recipe = drawn_recipe(first={"steps": 2}, tasks=1).model_copy(update={"data": data, "threads": 1})
    (tmp_path / "drawn.yaml").write_text(dump(recipe))
    words = ["detect", "train", "drawn.yaml", "--engine", "detectron2", "--network.name", "resnet18_fpn"]
    words += ["--network.anchors", "[8, 16, 32, 64]", "--first.lr", "0.003"]
    assert main([*words, "--dry-run"]) == 0
    assert main([*words, "--run", "runs/d2"]) == 0
    assert main(["detect", "train", "--resume", "runs/d2"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(["detect", "evaluate", "runs/d2", "--mode", "ore", "--json", "ore.json"]) == 0
    assert json.loads((tmp_path / "ore.json").read_text())["mode"] == "ore"
    assert main(["detect", "predict", "runs/d2", "set/images/test_0.png", "--out", "found"]) == 0
    assert (tmp_path / "found/detections.json").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether so few steps suffice for a fit is not what is looked at here
        detector = OpenWorldDetector.load("runs/d2")
    assert isinstance(detector.engine, OpenWorldRCNN)
    (alone,) = detector.predict("set/images/test_0.png")
    together = detector.predict([f"set/images/test_{i}.png" for i in range(3)])
    assert torch.equal(alone.labels, together[0].labels)

    photos = draw_set(tmp_path / "photos", seed=9)
    words = ["--out", "unknowns", "--groups", "2", "--per-image", "6", "--score", "0"]
    assert main(["detect", "unknowns", "runs/d2", str(photos / "images"), *words]) == 0
    names = tmp_path / "unknowns/names.yaml"
    names.write_text(re.sub(r"name:$", "name: thing", names.read_text(), count=1, flags=re.MULTILINE))
    steps = ["--later.steps", "2", "--finetune.steps", "1"]
    assert main(["detect", "learn", "runs/d2", str(names), "--run", "runs/further", *steps]) == 0
    further = OpenWorldDetector.load("runs/further")
    assert further.known == (*TASKS.known(1), "thing") and isinstance(further.engine, OpenWorldRCNN)
