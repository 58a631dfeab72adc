"""Detection runs that are stopped or killed at a chosen step, and what is compared of them."""

import multiprocessing
import os
import signal
from contextlib import nullcontext

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


def run_detection(path, recipe, data, *, resume=False, at=None, action=stop, until=None, say=None, first=True):
    """`detect_train` in a run directory; at=(task, stage, step) is where `action` strikes. Of several processes only
    the first opens the directory."""
    said = [] if say is None else say
    if not first:
        opened = nullcontext(path)
    elif resume:
        opened = RunDirectory.open(path)
    else:
        opened = RunDirectory.create(path, recipe="data: {}\n", command=["test"], seed=recipe.seed)
    with opened as place, pytest.MonkeyPatch.context() as patch:
        if at is not None:
            real = stage_module._fit
            patch.setattr(
                stage_module, "_fit",
                lambda module, callbacks, *where: real(module, [At(*at, action), *callbacks], *where),
            )  # fmt: skip
        return detect_train(recipe, place, data=data, resume=resume, quiet=True, say=said.append, until=until)


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


# --- two processes ---------------------------------------------------------------------------------------------------


def in_two(function, *arguments):
    """function(rank, port, *arguments) in two forked processes, both of which must end well."""
    context = multiprocessing.get_context("fork")
    port = 21_000 + os.getpid() % 20_000
    both = [context.Process(target=function, args=(rank, port, *arguments)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]


def take_part(rank, port, path, recipe, data, states=None, how=None):
    """One of two processes of a run, as a launcher starts them; `how` is given to `run_detection`, and the detector's
    weights go to `states`."""
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", NODE_RANK="0")
    os.environ.update(GROUP_RANK="0", TORCHELASTIC_RUN_ID="test", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    outcome = run_detection(path, recipe, data, first=rank == 0, **(how or {}))
    if states:
        torch.save(outcome.engine.state_dict(), states / f"{rank}.pt")
    at = (how or {}).get("at")
    assert outcome.stopped if at else len(outcome.results["by_task"]) == (recipe.tasks or 2)
    os._exit(0)
