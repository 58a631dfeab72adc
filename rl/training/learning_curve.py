"""What a run's metrics.jsonl says of its evaluations: scores against environment steps."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sslcore.errors import DataError
from sslcore.storage import read_metrics

_MEAN, _STD = "eval/mean_reward", "eval/std_reward"
_QUARTILES = "eval/lower_quartile", "eval/upper_quartile"


@dataclass(frozen=True)
class EvaluationScore:
    """What an evaluation came to.

    Attributes:
        env_steps, agent_steps: after how many.
        mean: of its episodes' returns.
        std: over its episodes; not an error of the mean.
        quartiles: lower and upper one of its returns; None in runs of before they were kept.
    """

    env_steps: int
    agent_steps: int
    mean: float
    std: float
    quartiles: tuple[float, float] | None = None


@dataclass(frozen=True)
class LearningCurve:
    """The scores of one run.

    Attributes:
        env_steps: (n,) when.
        scores: (n,) mean returns.
    """

    env_steps: np.ndarray
    scores: np.ndarray

    def at(self, env_steps: int) -> float:
        """The score of the last evaluation up to then."""
        before = self.scores[self.env_steps <= env_steps]
        if not len(before):
            raise DataError(f"there is no evaluation up to environment step {env_steps}")
        return float(before[-1])

    def steps_to(self, score: float) -> int | None:
        """Environment steps to the first evaluation that reaches a score; None if none does."""
        reached = self.env_steps[self.scores >= score]
        return int(reached[0]) if len(reached) else None


def scores_in(lines: Iterable[Mapping[str, Any]]) -> list[EvaluationScore]:
    """Those among the lines of metrics.jsonl, the first before anything was learned."""
    return [_score(line) for line in lines if _MEAN in line]


def _score(line: Mapping[str, Any]) -> EvaluationScore:
    low, high = (line.get(key) for key in _QUARTILES)
    quartiles = None if low is None or high is None else (low, high)
    return EvaluationScore(line["step"], line["agent_steps"], line[_MEAN], line[_STD], quartiles)


def read_curve(run: str | Path) -> LearningCurve:
    """That of a run directory, at any time.

    Raises:
        CheckpointError: its metrics cannot be read.
    """
    scores = scores_in(read_metrics(run))
    return LearningCurve(
        np.array([score.env_steps for score in scores], dtype=np.int64),
        np.array([score.mean for score in scores], dtype=np.float64),
    )
