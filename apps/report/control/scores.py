"""How good the agent is: the learning curve, the evaluations behind it, several seeds together."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from apps.report.control.figures import METHOD_COLOURS, Level, PlottedCurve, learning_curve
from apps.report.control.published import BUDGETS, PUBLISHED, of_task
from apps.report.control.run import ControlRun
from apps.report.page import Page
from rl.training.learning_curve import EvaluationScore
from rl.training.recipe import ControlRecipe
from rl.training.statistics import Interval, interquartile_mean

NEAR = 0.5
"""A published score is drawn if its number of environment steps is at most this share beyond the run's length."""
MOST_ROWS = 12


def write_scores(page: Page, run: ControlRun) -> Figure:
    """Curve and table of one seed; returns the curve."""
    low, high = _band(run.scores)
    curve = PlottedCurve([(e.env_steps, e.mean) for e in run.scores], low, high)
    caption = f"Mean score of {_episodes(run)}, the same at every point"
    caption += "; the band goes from their lower to their upper quartile." if low else "."
    figure = write_curve(page, run, curve, caption)
    shown = thinned(run.scores, MOST_ROWS)
    rows = [_row(f"{e.env_steps:,}", e) for e in shown]
    best = max(range(len(shown)), key=lambda i: shown[i].mean)
    if run.random is not None:
        rows, best = [["random actions", "", *_row("", run.random)[2:]], *rows], best + 1
    note = f"Score: the sum of an episode's rewards, over {_episodes(run)} that the agent was not trained on."
    page.table(["after environment steps", "agent steps", "mean score", "deviation"], rows, best=best, note=note)
    return figure


def write_curve(page: Page, run: ControlRun, curve: PlottedCurve, caption: str) -> Figure:
    """The learning curve, with a random policy and published scores to compare with."""
    levels = [] if run.random is None else [Level(run.random.mean, f"random {run.random.mean:,.1f}")]
    beside = published_levels(run.recipe)
    if beside:
        caption += " " + what_is_beside(run.recipe)
    figure = learning_curve(curve, [*levels, *beside])
    page.figures((figure, caption))
    return figure


def _episodes(run: ControlRun) -> str:
    count = run.recipe.evaluation.episodes
    return f"{count} episode{'s' * (count > 1)}"


def _band(evaluations: Sequence[EvaluationScore]) -> tuple[list[float], list[float]]:
    """Lower and upper quartiles: unlike mean -+ deviation, never beyond what a score can be. Empty if not known.

    They are no interval of the mean, which a few high scores can lift above the upper one.
    """
    known = [e.quartiles for e in evaluations if e.quartiles is not None]
    if len(known) < len(evaluations):
        return [], []
    return [low for low, _ in known], [high for _, high in known]


def _row(first: str, found: EvaluationScore) -> list[str]:
    return [first, f"{found.agent_steps:,}", f"{found.mean:.1f}", f"{found.std:.1f}"]


def thinned(evaluations: Sequence[EvaluationScore], most: int) -> list[EvaluationScore]:
    """At most so many of them, evenly spread, the first and the last among them."""
    if len(evaluations) <= most:
        return list(evaluations)
    return [evaluations[i] for i in np.linspace(0, len(evaluations) - 1, most).round().astype(int)]


# --- published scores ------------------------------------------------------------------------------------------------


def published_levels(recipe: ControlRecipe) -> list[Level]:
    """The scores that others have published of this task at about as many steps as this run has."""
    return [
        Level(scores[budget], f"{method} {scores[budget]:.0f} at {budget // 1000}k", METHOD_COLOURS[i])
        for i, (method, scores) in enumerate(of_task(recipe.env.name))
        for budget in BUDGETS
        if budget in scores and budget == _nearest_budget(recipe.steps)
    ]


def _nearest_budget(steps: int) -> int:
    """The larger one only for runs that get anywhere near it."""
    return max((budget for budget in BUDGETS if budget <= steps / NEAR), default=BUDGETS[0])


def what_is_beside(recipe: ControlRecipe) -> str:
    """Whose the dashed lines are, and whether they can be compared with."""
    budget = _nearest_budget(recipe.steps)
    drawn = {method for method, scores in of_task(recipe.env.name) if budget in scores}
    sources = "; ".join(f"{one.method}: {one.source}" for one in PUBLISHED if one.method in drawn)
    said = f"Dashed: scores published for this task after {budget:,} environment steps ({sources})."
    absent = [one.method for one in PUBLISHED if one.method not in drawn]
    if absent:
        said += f" {' and '.join(absent)}: no scores at {budget:,} steps are known."
    if recipe.env.fast_render:
        return said + " They do not compare strictly: fast_render draws other pictures."
    if recipe.steps < BUDGETS[0]:
        return said + f" This run is shorter: {recipe.steps:,} steps."
    return said


# --- several seeds ---------------------------------------------------------------------------------------------------


def write_seeds(page: Page, runs: Sequence[ControlRun]) -> Figure:
    """Curve and table of several seeds of one recipe; returns the curve."""
    steps, found = summary(runs)
    curve = PlottedCurve(
        [(x, interval.value) for x, interval in zip(steps, found, strict=True)],
        [interval.low for interval in found],
        [interval.high for interval in found],
        name=f"interquartile mean of {len(runs)} seeds, 95 % interval",
        seeds=[[(e.env_steps, e.mean) for e in run.scores] for run in runs],
    )
    figure = write_curve(page, runs[0], curve, f"Thin lines: each seed's mean score of {_episodes(runs[0])}.")
    rows = [
        [f"seed {run.recipe.seed}", f"{run.last.env_steps:,}", f"{run.last.mean:.1f}", f"{run.last.std:.1f}"]
        for run in runs
    ]
    if (random := runs[0].random) is not None:  # the same for all: they are evaluated on the same episodes
        rows.insert(0, ["random actions", "", f"{random.mean:.1f}", f"{random.std:.1f}"])
    note = "The last evaluation of each seed; the deviation is over its episodes."
    page.table(["", "environment steps", "mean score", "deviation"], rows, note=note)
    return figure


def summary(runs: Sequence[ControlRun]) -> tuple[list[int], list[Interval]]:
    """Environment steps, and the interquartile mean over the seeds there."""
    steps, table = common_scores(runs)
    return steps, [interquartile_mean(table[:, i]) for i in range(len(steps))]


def common_scores(runs: Sequence[ControlRun]) -> tuple[list[int], np.ndarray]:
    """Environment steps at which every seed was evaluated, and (seeds, steps) mean scores there."""
    by_steps = [{e.env_steps: e.mean for e in run.scores} for run in runs]
    steps = sorted(set.intersection(*(set(of) for of in by_steps)))
    return steps, np.array([[of[step] for step in steps] for of in by_steps])


def in_words(found: Interval, seeds: int, steps: int, random: EvaluationScore | None = None) -> str:
    """The summary in a sentence, beside random actions, and how far it can be trusted."""
    chance = "" if random is None else f"; random actions reach {random.mean:.1f}"
    few = " With so few seeds the interval says little." if seeds < 5 else ""
    return (
        f"After {steps:,} environment steps the interquartile mean of {seeds} seeds is {found.value:.1f}, with a 95 % "
        f"bootstrap interval from {found.low:.1f} to {found.high:.1f}{chance}.{few}"
    )
