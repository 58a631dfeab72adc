"""What a run of `surnia control train` has left, read for a report."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from apps.recipes import load
from rl.training.best import best_clip
from rl.training.learning_curve import EvaluationScore, scores_in
from rl.training.recipe import ControlRecipe
from sslcore.errors import CheckpointError
from sslcore.storage import read_metrics, read_run
from sslcore.storage.files import read_file

RANDOM = "random.json"
"""Returns of random actions on the episodes that evaluations play; `apps.control_train` writes it."""
_LIMIT = 1 << 24


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
    def scores(self) -> list[EvaluationScore]:
        """Those of all evaluations, the first before anything was learned."""
        return scores_in(self.metrics)

    @property
    def last(self) -> EvaluationScore:
        return self.scores[-1]

    @property
    def best(self) -> EvaluationScore:
        """The first of the highest, whose agent best.zip is."""
        return max(self.scores, key=lambda score: score.mean)

    @cached_property
    def random(self) -> EvaluationScore | None:
        """What actions by lot score; None if that was not measured."""
        path = self.path / RANDOM
        if not path.is_file():
            return None
        returns = json.loads(_read(path))["returns"]
        return EvaluationScore(0, 0, float(np.mean(returns)), float(np.std(returns)))

    @property
    def clip(self) -> Path | None:
        """Of the best episode."""
        return best_clip(self.path)


def _read(path: Path) -> bytes:
    return read_file(path, limit=_LIMIT, error=CheckpointError, remedy="restore it from a copy")
