"""The page about a control run, of one seed or of several."""

from collections.abc import Sequence
from pathlib import Path

from apps.control_seeds import seed_runs
from apps.report.control.run import ControlRun
from apps.report.control.scores import in_words, summary, write_scores, write_seeds
from apps.report.control.training import write_training
from apps.report.page import Page, png
from sslcore.errors import CheckpointError
from sslcore.storage import write_bytes

REPORT, CURVE = "report.html", "learning_curve.png"
CLIP_WIDTH = 336


def write_control_report(run_dir: str | Path) -> Path:
    """Write `report.html` about a run, finished or not, one file that needs nothing beside it; and its learning curve
    as a picture, `learning_curve.png`.

    Args:
        run_dir: of `surnia control train`; with several seeds the common one.

    Returns:
        The file.

    Raises:
        CheckpointError: nothing has been evaluated yet, or a file of the run is damaged.
    """
    run_dir = Path(run_dir)
    runs = [run for run in map(ControlRun, seed_runs(run_dir)) if run.scores]
    if not runs:
        raise CheckpointError(f"nothing of {run_dir} has been evaluated yet; let it go on, then report on it")
    common = ControlRun(run_dir)
    page = Page(f"Control: {common.recipe.env.name}", lead(runs), footer(run_dir, runs))
    page.section("How good it is")
    if common.facts.get("status") != "finished":
        page.alert("The run is not finished: this is how far it has come.")
    curve = write_seeds(page, runs) if len(runs) > 1 else write_scores(page, runs[0])
    add_clip(page, max(runs, key=lambda run: run.last.mean))
    page.section("Training")
    write_training(page, runs[0])
    if len(runs) > 1:
        page.text(f"These curves are of seed {runs[0].recipe.seed}; each seed has a report of its own:")
        for run in runs:
            page.link(f"seed {run.recipe.seed}", str((run.path / REPORT).relative_to(run_dir)))
    page.section("Settings")
    if chosen := runs[0].facts.get("chosen"):
        page.text(f"Computed on {chosen['device']} with precision {chosen['precision']}.")
    page.code(without_comments(common.recipe_text))
    path = run_dir / REPORT
    page.write(path)
    curve.suptitle(common.recipe.env.name, fontsize=11)  # beside the page, nothing else says what it is of
    write_bytes(run_dir / CURVE, png(curve))
    return path


def lead(runs: Sequence[ControlRun]) -> str:
    """The run in two sentences."""
    recipe, last = runs[0].recipe, runs[0].last
    agent, episodes = recipe.agent, recipe.evaluation.episodes
    what = "CURL" if agent.aux == "curl" else "SAC without a contrastive loss"
    views = {"crop": "random crops", "shift": "random shifts", "none": "no augmentation"}[agent.augmentation]
    said = f"{what} from pixels ({agent.update} updates, {views}, stacks of {recipe.env.stack} frames). "
    if len(runs) > 1:
        steps, found = summary(runs)
        if not steps:
            return said + f"Its {len(runs)} seeds were never evaluated at the same step."
        return said + in_words(found[-1], len(runs), steps[-1], runs[0].random)
    random = "" if runs[0].random is None else f", where random actions reach {runs[0].random.mean:.1f}"
    return said + (
        f"After {last.env_steps:,} environment steps, at its last evaluation, it scores {last.mean:.1f} on average "
        f"over {episodes} episode{'s' * (episodes > 1)}{random}.{_better(runs[0])}"
    )


def _better(run: ControlRun) -> str:
    """What best.zip is of, if not of the last evaluation."""
    if run.best.mean == run.last.mean:
        return ""
    return f" Its best evaluation was that after {run.best.env_steps:,} steps: {run.best.mean:.1f}."


def add_clip(page: Page, run: ControlRun, *, heading: bool = True) -> None:
    """The best episode that an evaluation has seen."""
    if run.clip is None:
        return
    if heading:
        page.section("What it does")
    page.clip(run.clip, f"Seed {run.recipe.seed}: the best episode of its best evaluation.", width=CLIP_WIDTH)


def without_comments(recipe: str) -> str:
    """What is set, without what it means."""
    return "\n".join(line for line in recipe.splitlines() if not line.lstrip().startswith("#"))


def footer(run_dir: Path, runs: Sequence[ControlRun]) -> str:
    """Where it all came from."""
    versions = runs[0].facts.get("versions", {})
    with_what = ", ".join(f"{name} {versions[name]}" for name in ("surnia", "torch", "numpy") if name in versions)
    seeds = ", ".join(str(run.recipe.seed) for run in runs)
    return (
        f"Run directory {run_dir}. Seed{'s' * (len(runs) > 1)} {seeds}. {with_what}. Everything that was measured is "
        "in metrics.jsonl."
    )
