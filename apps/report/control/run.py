"""What a run of `surnia control train` has left, read for a report."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from apps.recipes import load
from rl.training.best import best_clip
from rl.training.recipe import ControlRecipe
from sslcore.errors import CheckpointError
from sslcore.storage import read_metrics, read_run
from sslcore.storage.files import read_file

RANDOM = "random.json"
"""Returns of random actions on the episodes that evaluations play; `apps.control_train` writes it."""
_LIMIT = 1 << 24


@dataclass(frozen=True)
class Evaluation:
    """Scores of the evaluation's episodes after so many steps; the deviation is over the episodes."""

    env_steps: int
    agent_steps: int
    mean: float
    std: float

    @classmethod
    def of(cls, returns: Sequence[float]) -> "Evaluation":
        """That of actions by lot, before any step."""
        return cls(0, 0, float(np.mean(returns)), float(np.std(returns)))


@dataclass
class ControlRun:
    """A run of one seed, in its directory `path`."""

    path: Path

    @cached_property
    def recipe(self) -> ControlRecipe:
        return load(str(self.path / "recipe.yaml"), [], ControlRecipe, folder="control").recipe

    @cached_property
    def recipe_text(self) -> str:
        return _read(self.path / "recipe.yaml").decode()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The content of run.json."""
        return read_run(self.path)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.path)

    def measured(self, key: str) -> list[tuple[float, float]]:
        """(environment steps, value) of each line that has one."""
        return [(line["step"], line[key]) for line in self.metrics if line.get(key) is not None]

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """All of them, the first before anything was learned."""
        return [
            Evaluation(line["step"], line["agent_steps"], line["eval/mean_reward"], line["eval/std_reward"])
            for line in self.metrics
            if "eval/mean_reward" in line
        ]

    @property
    def last(self) -> Evaluation:
        return self.evaluations[-1]

    @cached_property
    def random(self) -> Evaluation | None:
        """What actions by lot score; None if that was not measured."""
        path = self.path / RANDOM
        return Evaluation.of(json.loads(_read(path))["returns"]) if path.is_file() else None

    @property
    def clip(self) -> Path | None:
        """Of the best episode."""
        return best_clip(self.path)


def _read(path: Path) -> bytes:
    return read_file(path, limit=_LIMIT, error=CheckpointError, remedy="restore it from a copy")
