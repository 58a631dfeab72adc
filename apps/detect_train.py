"""`surnia detect train`: a run from a recipe, what was measured task by task, and what to type next."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from apps.measures import duration, memory, steps_to_go, time_for
from apps.notes import tell
from apps.report.detection.report import write_detection_report
from apps.run_directory import open_run
from apps.wilderness import impact_lines
from detection.data.openworld import OpenWorldData, open_data
from detection.training.layout import STAGES, Layout
from detection.training.model import build_engine
from detection.training.processes import check_machine
from detection.training.recipe import DetectionRecipe
from detection.training.runner import Chain, Outcome, detect_train
from sslcore.errors import ConfigError
from sslcore.storage import RunDirectory
from sslcore.training.lightning import is_first_process

DRY_STEPS = 5
RUN_DIR = "SURNIA_RUN_DIR"  # tells processes that Lightning starts which directory the first one chose


def run(
    recipe: DetectionRecipe, *, run_dir: Path, recipe_text: str, command: list[str], resume: bool, dry_run: bool
) -> int:
    """Learn the recipe's tasks in `run_dir`; returns the process's exit code, 128 + n after signal n."""
    data = prepare(recipe)  # before the directory exists: a start that fails leaves nothing behind
    if dry_run:
        return rehearse(recipe, data, run_dir if resume else None)
    if not is_first_process():  # takes part, and leaves writing to the first
        return detect_train(recipe, Path(os.environ.get(RUN_DIR, run_dir)), data=data, resume=resume).exit_code
    os.environ[RUN_DIR] = str(run_dir)
    if not resume:
        build_engine(recipe, data.tasks.known(1), classes=len(data.tasks.classes))
    with open_run(run_dir, recipe=recipe_text, command=command, seed=recipe.seed, resume=resume) as directory:
        outcome = go(recipe, directory, data, resume=resume)
    summarise(outcome, run_dir)
    return outcome.exit_code


def go(recipe: DetectionRecipe, directory: RunDirectory, data: OpenWorldData, *, resume: bool) -> Outcome:
    """Train in an open run directory, and write its report; not if somebody is waiting for it to stop."""
    outcome = detect_train(recipe, directory, data=data, resume=resume)
    directory.set_status("stopped" if outcome.stopped else "finished")
    if not outcome.stopped:
        write_detection_report(directory.path, data=data)
    return outcome


def prepare(recipe: DetectionRecipe, *, again: bool = False) -> OpenWorldData:
    """Open the data; what is wrong with them without being fatal is said, unless a run that learnt them said it."""
    check_machine(recipe)
    first = is_first_process()
    data = open_data(recipe.data, fits=recipe.fits, say=_tell if first else _keep_quiet)
    if recipe.tasks and recipe.tasks > data.tasks.count:
        raise ConfigError(
            f"tasks must be at most {data.tasks.count}, as {data.tasks.name} has no more, not {recipe.tasks}"
        )
    if first and not again:
        tell(data.ignored, rest="; surnia doctor --data lists them")
    return data


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _keep_quiet(sentence: str) -> None:
    """For all processes but the first, which says it."""


# --- what came of it -------------------------------------------------------------------------------------------------


def summarise(outcome: Outcome, run_dir: Path) -> None:
    """A table of the tasks, and the commands that make sense next."""
    console = Console()
    done = outcome.results["by_task"]
    if done:
        console.print(task_table(done))
        for line in (*impact_lines(done), *forgetting_lines(outcome.results)):
            console.print(line, soft_wrap=True, highlight=False)
    if outcome.stopped:
        place = f" with a checkpoint at {outcome.checkpoint}" if outcome.checkpoint else ""
        console.print(f"Stopped{place}. Go on with:", soft_wrap=True, highlight=False)
        console.print(f"  surnia detect train --resume {run_dir}", soft_wrap=True, highlight=False)
        return
    if not outcome.steps:
        console.print("The run was finished already; nothing was left to train.")
    files = f"Report: {run_dir / 'report.html'}   All numbers: {run_dir / 'results.json'}"
    console.print(f"{files}\nNext:", soft_wrap=True, highlight=False)
    for line in next_commands(run_dir):
        console.print(f"  {line}", soft_wrap=True, highlight=False)


def next_commands(run_dir: Path) -> list[str]:
    """What a finished run is good for."""
    return [
        f"surnia detect predict {run_dir} IMAGES --out found",
        f"surnia detect unknowns {run_dir} IMAGES --out unknowns",
        f"surnia detect evaluate {run_dir} --mode ore",
    ]


def task_table(
    done: list[dict[str, Any]], title: str = "Test images, after each task (+ its classes); shares in percent"
) -> Table:
    """The main figures after each task, of mode strict: mAP of the classes known before, of the new ones, of all."""
    table = Table(title=title, title_justify="left")
    columns = {
        "task": lambda task: f"{task['task']} (+{len(task['classes'])})",
        "mAP old": lambda task: share(task["strict"]["map_previous"]),
        "new": lambda task: share(task["strict"]["map_current"]),
        "all": lambda task: share(task["strict"]["map_both"]),
        "U-R@10": lambda task: share(task["strict"]["u_recall_10"]),
        "U-AP": lambda task: share(task["strict"]["u_ap"]),
        "WI": lambda task: number(task["strict"]["wi"], ".4f"),
        "A-OSE": lambda task: number(task["strict"]["a_ose"], ","),
        "purity": lambda task: share(purity(task)),
    }
    for name in columns:
        table.add_column(name, justify="left" if name.startswith("task") else "right", no_wrap=True)
    for task in done:
        table.add_row(*(show(task) for show in columns.values()))
    return table


def purity(task: dict[str, Any]) -> float | None:
    """The share of pseudo-unknowns that lay on an unlabelled unknown object."""
    found = task["purity"].get("train")
    return None if found is None else found["chosen"]["unknown"]


def forgetting_lines(results: dict[str, Any]) -> list[str]:
    """How much of each task was lost since it was learnt."""
    lost = (results["forgetting"]["strict"] or {}).get("forgetting", [])
    return [
        f"The classes of task {task} lost {100 * value:.1f} points of mAP since their best."
        if value >= 0
        else f"The classes of task {task} lost nothing: their mAP is {-100 * value:.1f} points above its best so far."
        for task, value in enumerate(lost[-1] if lost else [], start=1)
        if value is not None
    ]


def share(value: float | None) -> str:
    """.8473 as 84.7; what is undefined as a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def number(value: float | None, form: str) -> str:
    """A figure, or a dash where it is undefined."""
    return "–" if value is None else f"{value:{form}}"


# --- dry run ---------------------------------------------------------------------------------------------------------


def rehearse(recipe: DetectionRecipe, data: OpenWorldData, begun: Path | None) -> int:
    """`--dry-run`: build everything, train a few steps of task 1, say what the whole run would take, or the rest of
    `begun`. Writes no run."""
    # Where initial weights come from is of no interest to a run that has left them behind.
    _first_steps(recipe, data, 1, say=_keep_quiet if begun else _tell)  # takes longer than others
    seconds, outcome = _first_steps(recipe, data, DRY_STEPS, say=_keep_quiet)
    if not is_first_process():
        return 0
    tasks = recipe.tasks or data.tasks.count
    steps = recipe.first.steps + (tasks - 1) * (recipe.later.steps + recipe.finetune.steps)
    layout = Layout(begun, writes=False)
    done = sum(layout.steps_done(task, stage) for task in range(1, tasks + 1) for stage in STAGES)

    table = Table(title="Dry run: nothing was written", show_header=False, title_justify="left")
    table.add_row("tasks", f"{tasks} of {data.tasks.name}: {', '.join(_sizes(data, tasks))} classes")
    images = ", ".join(f"{len(data.train(task).images):,}" for task in range(1, tasks + 1))
    table.add_row("images", f"{images} to train on, {len(data.val.images):,} val, {len(data.test.images):,} test")
    parameters = list(outcome.engine.parameters())
    table.add_row("parameters", f"{sum(p.numel() for p in parameters):,}")
    table.add_row("trained parameters", f"{sum(p.numel() for p in parameters if p.requires_grad):,}")
    table.add_row("steps", steps_to_go(steps, done))
    table.add_row("memory", memory())
    table.add_row("time of a step", f"about {seconds:.2g} s")
    table.add_row(time_for(done), f"about {duration(seconds * (steps - done))}, evaluations not counted")
    Console().print(table)
    return 0


def _first_steps(
    recipe: DetectionRecipe, data: OpenWorldData, steps: int, *, say: Callable[[str], None]
) -> tuple[float, Outcome]:
    """Seconds a step of task 1, and what came of it."""
    short = recipe.model_copy(update={"first": recipe.first.model_copy(update={"steps": steps})})
    chain = Chain(short, data, None, quiet=True, say=say)
    outcome = chain.go(until=(1, "train"))
    return chain.records[1]["train"]["seconds"] / steps, outcome


def _sizes(data: OpenWorldData, tasks: int) -> list[str]:
    return [str(len(data.tasks.current(task))) for task in range(1, tasks + 1)]
