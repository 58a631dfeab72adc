"""`surnia detect learn`: a new run that begins where another stands, and learns what a person named as its next
task."""

import argparse
import os
import tempfile
from pathlib import Path

from rich.console import Console

from apps import run_names
from apps.detect_train import RUN_DIR, go, prepare, summarise
from apps.recipe_text import dump
from apps.recipes import load_recipe
from detection.data.openworld import OpenWorldData, open_data
from detection.discovery import Lesson
from detection.training.further import Standing, begin_further, finished_tasks, give_lesson
from detection.training.recipe import DetectionRecipe
from detection.training.runner import detect_train
from sslcore.errors import ConfigError, DataError
from sslcore.storage import RunDirectory
from sslcore.storage.messages import show_name
from sslcore.training.lightning import is_first_process


def run(args: argparse.Namespace, recipe: DetectionRecipe, *, command: list[str]) -> int:
    """The command; `recipe` is that of the run that was begun, with the settings given now."""
    if not is_first_process():
        return _take_part()
    task = finished_tasks(args.begun)
    run_dir = args.run or run_names.of_next_task(args.begun, task + 1)
    if not args.dry_run:
        run_names.refuse_existing(run_dir, "surnia detect train")
    args.run = run_dir  # what is left there is told if Ctrl-C ends this
    begun, _ = load_recipe(str(args.begun / "recipe.yaml"), DetectionRecipe, folder="detection")
    standing = Standing(args.begun, begun, _learnt(begun, args.begun), task)
    with tempfile.TemporaryDirectory() as work:
        lesson = give_lesson(standing, args.names, Path(work), root=args.images)
        tell(lesson, standing)
        if args.dry_run:
            return 0
        further = begin_further(standing, recipe, lesson, run_dir, as_text=dump, command=command)
    os.environ[RUN_DIR] = str(run_dir)
    with RunDirectory.open(run_dir, command=command) as directory:
        outcome = go(further, directory, open_data(further.data, fits=further.fits), resume=True)
    summarise(outcome, run_dir)
    return outcome.exit_code


def _learnt(recipe: DetectionRecipe, run_dir: Path) -> OpenWorldData:
    """The data of the run that was begun."""
    try:
        return prepare(recipe, again=True)
    except DataError as error:
        remedy = f"put back what {run_dir} has learnt from: it is measured on, and exemplars of it are learnt again"
        raise DataError(f"{error}\n{remedy}") from error


def _take_part() -> int:
    """One of several processes that the first has started, when the new run was there."""
    run_dir = os.environ.get(RUN_DIR)
    if run_dir is None:
        raise ConfigError(
            "command line: surnia detect learn  makes a new run and cannot be started several times at once; start it "
            "in one process, and several of surnia detect train --resume"
        )
    recipe, _ = load_recipe(str(Path(run_dir) / "recipe.yaml"), DetectionRecipe, folder="detection")
    return detect_train(recipe, Path(run_dir), resume=True).exit_code


def tell(lesson: Lesson, standing: Standing) -> None:
    """What is about to be learnt, and what was understood on the way."""
    console, marked = Console(soft_wrap=True, highlight=False, markup=False), lesson.annotations
    for note in lesson.notes:
        console.print(f"note: {note}")
    counts = {
        name: int((marked.box_category == marked.categories.index(name)).sum())
        for name in lesson.tasks.current(lesson.task)
    }
    measured = set(standing.data.test.categories)
    if absent := [name for name in counts if name not in measured]:
        unmeasured = ", ".join(map(show_name, absent))
        console.print(f"note: how well {unmeasured} will be found is not measured: the test images have none")
    listed = ", ".join(f"{show_name(name)} ({count})" for name, count in counts.items())
    console.print(f"Task {lesson.task}: {listed}; {len(marked.box_ids):,} objects in {len(marked.images):,} images.")
