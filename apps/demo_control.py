"""The last part of `surnia demo`: an agent that learns to steer a dot, from pictures and reward alone."""

from pathlib import Path

from rich.table import Table

from apps.control_train import one
from apps.recipe_files import shipped_file
from apps.recipes import load_recipe
from apps.report.control import REPORT
from apps.report.control.report import add_clip
from apps.report.control.run import ControlRun
from apps.report.control.scores import write_scores
from apps.report.page import Page
from apps.run_directory import open_run
from rl.envs.pixel_reach import STEPS
from rl.training.recipe import ControlRecipe

CONTROL = "control"


class Acting:
    """The agent's run, in a folder of the demo's own; it goes on where it was left.

    Args:
        demo_dir: of the demo.
        seed: of everything.
        threads: CPU threads.
        share: of the recipe's steps.
    """

    def __init__(self, demo_dir: Path, *, seed: int, threads: int, share: float = 1.0) -> None:
        self.run_dir = demo_dir / CONTROL
        file, common = self.run_dir / "recipe.yaml", [f"--threads={threads}"]
        if not file.exists():
            file = shipped_file("demo", "control")
            whole, _ = load_recipe(str(file), ControlRecipe)
            at_once = whole.env_steps_at_once
            steps = max(1, round(share * whole.steps / at_once)) * at_once
            common += [f"--seed={seed}", f"--steps={steps}"]
        self.recipe, self.text = load_recipe(str(file), ControlRecipe, common)

    def learn(self) -> tuple[bool, int]:
        """From beginning to end; (whether a signal stopped it, the exit code)."""
        begun = (self.run_dir / "recipe.yaml").exists()
        command = ["surnia", "control", "train", "demo"]
        with open_run(
            self.run_dir, recipe=self.text, command=command, seed=self.recipe.seed, resume=begun, quiet=True
        ) as directory:
            outcome = one(self.recipe, directory, resume=begun, say=lambda sentence: None)
        return outcome.stopped, outcome.exit_code


def add_control(page: Page, run_dir: Path) -> None:
    """What the agent came to: scores, curve, clip."""
    run = ControlRun(run_dir)
    page.lead += " " + lead(run)
    page.section("And now it acts")
    page.text(
        "The third application of the same core. In PixelReach a dot has to be steered to a target and held there; it "
        "has inertia, and bounces off the walls. The agent sees three small gray pictures, chooses a push, and is told "
        "whether the dot is within reach, nothing else. It learns from that reward, and from the InfoNCE that trained "
        "the network above: two crops of what it sees belong together."
    )
    page.text(answer(run))
    write_scores(page, run)
    add_clip(page, run, heading=False)
    page.link("Everything about the agent: losses and settings", f"{CONTROL}/{REPORT}")


def lead(run: ControlRun) -> str:
    """What came of the agent, in a sentence."""
    return f"An agent on the same core then steered a dot from pixels, for {run.last.mean:.1f} of {STEPS} points."


def answer(run: ControlRun) -> str:
    """Whether it learned, in a sentence that follows from the numbers."""
    assert run.random is not None
    random, last = run.random, run.last
    scores = f"{last.mean:.1f} of {STEPS} points on average, where random actions reach {random.mean:.1f}"
    count = run.recipe.evaluation.episodes
    episodes = f"over the same {count} episodes"
    if last.mean > random.mean + 2 * (random.std + last.std) / count**0.5:
        return f"It learned: {scores}, {episodes}."
    return f"Not yet: {scores}, {episodes}. Give it more steps."


def score_table(run_dir: Path) -> Table:
    """Random and learned, narrow enough for any terminal."""
    run = ControlRun(run_dir)
    table = Table(title=f"The agent in PixelReach, points of {STEPS}", title_justify="left")
    table.add_column("")
    table.add_column("mean score", justify="right")
    if run.random is not None:
        table.add_row("random actions", f"{run.random.mean:.1f}")
    table.add_row(f"after {run.last.env_steps:,} steps", f"{run.last.mean:.1f}")
    return table
