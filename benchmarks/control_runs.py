"""The trainings of `control.py`: recipes and resumable runs, and the anchors beside them."""

import argparse
import sys
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from control_rows import ROWS, TASKS, Task
from stored import key

from apps.recipes import load_recipe
from apps.run_directory import open_run
from rl.envs.steering import steer
from rl.training.agents import make_envs
from rl.training.evaluation import play, random_returns
from rl.training.learning_curve import read_curve
from rl.training.recipe import ControlRecipe
from rl.training.runner import control_train
from sslcore.training.machine import pick_device

EVALUATIONS = 16
"""In a training, evenly spread: the steps to a return are counted in sixteenths of it."""
ANCHOR_TIMES = 5
"""Episodes that anchors play, for each one that trainings are evaluated on."""
_ELSEWHERE = ("seed", "seeds", "parallel", "threads", "checkpoint_every", "keep_checkpoints")


@dataclass
class Bench:
    """One task with one recipe, and the folder that everything about it is in.

    Another recipe has another folder: results that do not belong together never meet.
    """

    task_name: str
    arguments: argparse.Namespace
    options: list[str]

    @property
    def task(self) -> Task:
        return TASKS[self.task_name]

    @property
    def seeds(self) -> list[int]:
        return self.arguments.seed_list or list(range(self.arguments.seeds or self.task.seeds))

    @cached_property
    def base(self) -> list[str]:
        """What lies over the recipe in every row: the options given, and its length at the scale asked for."""
        recipe, _ = load_recipe(self.task.recipe, ControlRecipe, self.options, folder="control")
        scale, at_once = self.arguments.scale, recipe.env_steps_at_once
        steps = at_once * max(EVALUATIONS, round(scale * recipe.steps / at_once))
        every = at_once * max(1, steps // at_once // EVALUATIONS)
        starts = max(1, round(scale * recipe.agent.learning_starts))
        return [
            *self.options, f"--steps={steps}", f"--evaluation.every={every}", f"--agent.learning_starts={starts}",
            "--evaluation.clip=none",
        ]  # fmt: skip

    def recipe(self, row: str, seed: int) -> tuple[ControlRecipe, str]:
        """The recipe of a row, and its YAML."""
        changes = [*self.base, f"--seed={seed}", f"--threads={self.arguments.threads}", *ROWS[row].changes]
        return load_recipe(self.task.recipe, ControlRecipe, changes, folder="control")

    @property
    def device(self) -> str:
        return str(pick_device(load_recipe(self.task.recipe, ControlRecipe, self.base, folder="control")[0].device))

    @cached_property
    def folder(self) -> Path:
        recipe, _ = load_recipe(self.task.recipe, ControlRecipe, self.base, folder="control")
        values = {name: value for name, value in recipe.as_dict().items() if name not in _ELSEWHERE}
        return Path(self.arguments.out) / f"{self.task.recipe}-{key(values)}"

    def result_path(self, row: str, seed: int) -> Path:
        """Where a result is stored. An anchor knows no seed."""
        return self.folder / "results" / f"{row}{'' if ROWS[row].anchor else f'-seed{seed}'}.json"

    def train(self, row: str, seed: int) -> dict[str, Any]:
        """Begin a training, or go on with it; its returns and curve, and the share of it that was done here."""
        recipe, text = self.recipe(row, seed)
        run = self.folder / "runs" / f"{row}-seed{seed}"
        begun = (run / "recipe.yaml").exists()
        with open_run(run, recipe=text, command=sys.argv, seed=seed, resume=begun, quiet=True) as directory:
            outcome = control_train(recipe, directory, resume=begun, quiet=True, say=lambda sentence: None)
        if outcome.stopped:
            sys.exit(outcome.exit_code)
        curve, wanted = read_curve(run), self.task.wanted
        return {
            "score": outcome.results["score"],
            "returns": outcome.results["returns"],
            "curve": [curve.env_steps.tolist(), curve.scores.tolist()],
            "steps_to_wanted": None if wanted is None else curve.steps_to(wanted),
            "share": outcome.steps / recipe.steps,
        }

    def play(self, row: str) -> dict[str, Any]:
        """What an anchor scores, on more episodes than trainings are evaluated on: nothing else is averaged over."""
        recipe, _ = self.recipe(row, 0)
        settings = recipe.evaluation
        episodes = ANCHOR_TIMES * settings.episodes
        with closing(make_envs(recipe.env, settings.seed, settings.envs)) as envs:
            if ROWS[row].anchor == "random":
                returns = random_returns(envs, episodes=episodes, seed=settings.seed)
            else:
                states = [env.unwrapped for env in envs.envs]  # type: ignore[attr-defined]

                def steered(_: np.ndarray) -> np.ndarray:
                    return np.stack([steer(state) for state in states])

                played = play(steered, envs, episodes=episodes, seed=settings.seed)
                assert played is not None
                returns = played.returns
        return {"score": float(returns.mean()), "returns": returns.tolist()}
