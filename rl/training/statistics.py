"""What several seeds say together: interquartile means with bootstrap intervals.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021, whose library is
rliable: scores of all runs on all tasks in one pool, of which the lowest and highest quarter are left out; intervals by
drawing runs anew within each task. Scores of several tasks must be on one scale (dm_control's are).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy import stats

from sslcore.errors import DataError

Scores: TypeAlias = Mapping[str, Sequence[float]] | Sequence[float] | np.ndarray
"""Score of each run; of several tasks, {task: scores}. Tasks, and methods, need not have as many runs."""

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and how sure it is.

    Attributes:
        value: of the scores as they are.
        low, high: ends of the percentile interval.
        level: how often such an interval is meant to cover the truth.
        runs: behind it.
    """

    value: float
    low: float
    high: float
    level: float
    runs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval is on one side of 0: what a claimed difference needs."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f} to {self.high:.1f})"


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean over the last axis: of (..., n) scores without the n/4 (rounded down) lowest and highest."""
    return stats.trim_mean(scores, 0.25, axis=-1)


def interquartile_mean(scores: Scores, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Of all scores together, with its stratified bootstrap interval.

    Args:
        scores: of every run; with one run a task there is nothing to draw from, and the interval is a point.
        level: of the interval.
        resamples: how often runs are drawn anew.
        seed: of the draws.

    Raises:
        DataError: there are no scores, or one that is not finite.
    """
    tasks, draw = [*_checked(scores).values()], np.random.default_rng(seed)
    value = float(iqm(np.concatenate(tasks)))
    return _interval(value, iqm(_redraw(tasks, resamples, draw)), level, sum(map(len, tasks)))


def difference(
    ours: Scores, theirs: Scores, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Interquartile mean of ours minus that of theirs; the runs of both are drawn independently.

    Arguments and errors as of `interquartile_mean`.
    """
    a, b = [*_checked(ours).values()], [*_checked(theirs).values()]
    draw = np.random.default_rng(seed)
    value = float(iqm(np.concatenate(a)) - iqm(np.concatenate(b)))
    drawn = iqm(_redraw(a, resamples, draw)) - iqm(_redraw(b, resamples, draw))
    return _interval(value, drawn, level, sum(map(len, [*a, *b])))


def probability_of_improvement(
    ours: Scores, theirs: Scores, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """How probable it is that a run of ours scores higher than one of theirs, a tie being half of it; mean over tasks.

    Raises:
        DataError: the two do not have the same tasks; or as `interquartile_mean`.
    """
    a, b, draw = _checked(ours), _checked(theirs), np.random.default_rng(seed)
    if set(a) != set(b):
        raise DataError(f"only one of the two has scores of {', '.join(sorted(set(a) ^ set(b)))}")
    pairs = [(a[task], b[task]) for task in a]
    drawn = [_higher(_redraw([x], resamples, draw), _redraw([y], resamples, draw)) for x, y in pairs]
    value = float(np.mean([_higher(x, y) for x, y in pairs]))
    return _interval(value, np.mean(drawn, axis=0), level, sum(len(x) + len(y) for x, y in pairs))


def _higher(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of pairs of (..., n) and (..., m) in which the first is higher: Mann and Whitney's U over n m."""
    signs = np.sign(x[..., :, None] - y[..., None, :])
    return (signs.mean(axis=(-2, -1)) + 1) / 2


def _checked(scores: Scores) -> dict[str, np.ndarray]:
    given = scores if isinstance(scores, Mapping) else {"the task": scores}
    tasks = {name: np.asarray(values, dtype=np.float64) for name, values in given.items()}
    if not tasks or not all(len(task) for task in tasks.values()):
        raise DataError("every task needs the score of one run at least")
    bad = [name for name, task in tasks.items() if not np.isfinite(task).all()]
    if bad:
        raise DataError(f"a score of {bad[0]} is not finite")
    return tasks


def _redraw(tasks: Sequence[np.ndarray], times: int, draw: np.random.Generator) -> np.ndarray:
    """(times, runs) scores, runs drawn with replacement within each task."""
    return np.concatenate([task[draw.integers(len(task), size=(times, len(task)))] for task in tasks], axis=1)


def _interval(value: float, drawn: np.ndarray, level: float, runs: int) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, runs)
