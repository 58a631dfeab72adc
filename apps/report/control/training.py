"""What was measured while the agent learned."""

import math
from collections.abc import Sequence

from apps.report.control.run import ControlRun
from apps.report.figures import curve
from apps.report.page import Page

TERMS = {
    "train/contrastive_loss": ("contrastive loss", "InfoNCE of two crops of an observation among the batch's."),
    "train/critic_loss": ("critic loss", "Squared error of the Q values; it grows with the scores."),
    "train/actor_loss": ("actor loss", "Minus the Q value of the actor's own actions, with the entropy's share."),
    "train/ent_coef": ("entropy coefficient", "What entropy is worth; learned so that it stays near its target."),
}


def write_training(page: Page, run: ControlRun) -> None:
    """Each loss against environment steps, and the scores of training's own episodes."""
    figures = []
    for key, (name, meaning) in TERMS.items():
        points = run.measured(key)
        if len(points) < 2:
            continue
        level = chance(run) if key == "train/contrastive_loss" else None
        if level:
            meaning += " The dashed line: what it is when nothing is told apart."
        figures.append((curve(points, x="environment steps", y=name, level=level), meaning))
    episodes = run.measured("rollout/ep_rew_mean")
    if len(episodes) > 1:
        caption = "Mean score of training's latest episodes, with the noise of exploring."
        figures.insert(0, (curve(episodes, x="environment steps", y="score in training"), caption))
    if not figures:
        page.text("No curves: metrics.jsonl holds too few lines.")
        return
    for row in pairs(figures):
        page.figures(*row)


def chance(run: ControlRun) -> tuple[float, str]:
    """The contrastive loss of features that carry no information."""
    value = math.log(run.recipe.agent.batch_size)
    return value, f"chance {value:.2f}"


def pairs(figures: Sequence[tuple]) -> list[Sequence[tuple]]:
    return [figures[i : i + 2] for i in range(0, len(figures), 2)]
