"""Control runs that are as small as they can be, and what two of them have in common."""

import os
import signal

import numpy as np
import pytest
from support.agents import same_state

from rl import CURL
from rl.training.learner import Learner
from rl.training.recipe import ControlRecipe
from rl.training.runner import control_train
from sslcore.storage import RunDirectory, list_checkpoints, load_checkpoint, read_metrics

SMALL = {
    "env": {"options": {"size": 16}, "stack": 2, "action_repeat": 2, "n_envs": 2},
    "agent": {
        "image_size": 14,
        "batch_size": 8,
        "buffer_size": 80,
        "learning_starts": 20,
        "net_arch": [8, 8],
        "features_dim": 6,
        "conv_width": 4,
        "conv_layers": 2,
        "precision": "32",
    },
    "evaluation": {"every": 80, "episodes": 2},
    "steps": 240,
    "device": "cpu",
    "log_every": 40,
    "checkpoint_every": 60,
}


def small_recipe(**changes):
    """A run of 60 steps of 2 environments; a group that is given as a dict changes only what it names."""
    values = dict(SMALL)
    for name, value in changes.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return ControlRecipe.model_validate(values)


def train(folder, recipe, *, resume=False, at=None, action=lambda: stop(), said=None):
    """Begin a run or go on with it; `action` is taken between the steps at `at` environment steps."""
    opened = RunDirectory.open(folder) if resume else RunDirectory.create(folder, recipe="{}\n", command=[], seed=0)
    real = Learner.between_steps

    def between_steps(learner, **arguments):
        if learner.agent.num_timesteps * recipe.env.action_repeat == at:
            action()
        return real(learner, **arguments)

    with opened as run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "between_steps", between_steps)
        return control_train(recipe, run, resume=resume, quiet=True, say=([] if said is None else said).append)


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def assert_same_run(ours, theirs):
    """Newest checkpoint, its replay, metrics, results and clip are the same bit for bit."""
    newest, other = (list_checkpoints(run / "checkpoints")[-1] for run in (ours, theirs))
    assert newest.name == other.name
    a, b = load_checkpoint(newest), load_checkpoint(other)
    assert same_state(a.model, b.model) and a.info == b.info
    assert same_state(_timeless(a.train), _timeless(b.train))
    assert replay_content(ours / "replay" / newest.name) == replay_content(theirs / "replay" / newest.name)
    assert metrics(ours) == metrics(theirs)
    for name in ("results.json", "best.gif"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    assert same_state(*(CURL.load(run / "best.zip").policy.state_dict() for run in (ours, theirs)))


def metrics(run):
    """The lines without the time."""
    return [{name: value for name, value in line.items() if name != "time"} for line in read_metrics(run)]


def replay_content(folder):
    """Every file of a replay buffer; the manifest only repeats them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def _timeless(train):
    """Without how long episodes took on the clock, and where this process began."""
    agent = dict(train["agent"])
    agent["episodes"] = [(episode["r"], episode["l"]) for episode in agent["episodes"]]
    agent["counts"] = {name: n for name, n in agent["counts"].items() if name != "_num_timesteps_at_start"}
    agent["last"] = {name: None if last is None else np.asarray(last).tolist() for name, last in agent["last"].items()}
    return {**train, "agent": agent, "random": {name: repr(state) for name, state in train["random"].items()}}
