"""Detection runs that are stopped or killed at a chosen step, and what is compared of them."""

import os
import signal

import pytest
import pytorch_lightning as pl
import torch

from detection.training import stage as stage_module
from detection.training.layout import read_json
from detection.training.runner import detect_train
from sslcore.storage import RunDirectory, load_checkpoint, read_metrics


class At(pl.Callback):
    """Does something to its own process after optimiser step `step` of a stage."""

    def __init__(self, task, stage, step, action):
        self.at, self.action = (task, stage, step), action

    def on_train_batch_end(self, trainer, pl_module, *_):
        if (pl_module.place.task, pl_module.place.stage, trainer.global_step) == self.at:
            self.action()


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def run_detection(path, recipe, data, *, resume=False, at=None, action=stop, until=None, say=None):
    """`detect_train` in a run directory; at=(task, stage, step) is where `action` strikes."""
    said = [] if say is None else say
    opened = (
        RunDirectory.open(path)
        if resume
        else RunDirectory.create(path, recipe="data: {}\n", command=["test"], seed=recipe.seed)
    )
    with opened, pytest.MonkeyPatch.context() as patch:
        if at is not None:
            real = stage_module._fit
            patch.setattr(
                stage_module, "_fit",
                lambda module, callbacks, *where: real(module, [At(*at, action), *callbacks], *where),
            )  # fmt: skip
        return detect_train(recipe, opened, data=data, resume=resume, quiet=True, say=said.append, until=until)


def weights(path, task):
    return load_checkpoint(path / "tasks" / str(task) / "model").model


def assert_same_run(a, b, tasks=(1, 2)):
    """Weights, detections, results and metrics of two runs, bit for bit; times are left out."""
    for task in tasks:
        ours, theirs = weights(a, task), weights(b, task)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), f"task {task}: {name}"
        for name in ("exemplars.json", "detections.json"):
            found = [read_json(path / "tasks" / str(task) / name) for path in (a, b)]
            assert found[0] == found[1] is not None, f"task {task}: {name}"
    assert without_times(read_json(a / "results.json")) == without_times(read_json(b / "results.json"))
    assert without_times(read_metrics(a)) == without_times(read_metrics(b))


def without_times(values):
    if isinstance(values, dict):
        timing = {"timing", "surroundings", "time", "images_per_second", "seconds"}
        return {key: without_times(value) for key, value in values.items() if key not in timing}
    return [without_times(value) for value in values] if isinstance(values, list) else values
