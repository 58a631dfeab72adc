"""A run that begins where another stands: the tasks that were learnt are copied, and a lesson becomes the next one.

The other run is only read. The new one refers to pictures where they are; its annotation files are its own, with file
names below the folder that all the pictures have in common.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detection.data.openworld import OpenWorldData
from detection.discovery.learning import Lesson, learn
from detection.training.layout import Layout
from detection.training.recipe import DetectionRecipe
from sslcore.errors import ConfigError
from sslcore.storage import files
from sslcore.storage.checkpoint import read_info

LEARNED, LESSONS, DATA = "learned.json", "lessons", "data"
COPIED = ("energies.json", "detections.json", "results.json", "exemplars.json", "embeddings.safetensors")


@dataclass(frozen=True)
class Standing:
    """A run as it is: where, its recipe, its data, the last task that is finished."""

    folder: Path
    recipe: DetectionRecipe
    data: OpenWorldData
    task: int


def finished_tasks(run: Path) -> int:
    """How many tasks of a run are learnt, fitted and evaluated.

    Raises:
        ConfigError: none.
    """
    layout, task = Layout(run, writes=False), 0
    while layout.task(task + 1, "results.json").is_file() and layout.model(task + 1) is not None:
        task += 1
    if not task:
        shown = files.show_path(run)
        raise ConfigError(f"no task of {shown} is finished; finish the first: surnia detect train --resume {shown}")
    return task


def give_lesson(standing: Standing, names: str | Path, folder: Path, *, root: str | Path | None = None) -> Lesson:
    """What a person named, as the task after a run's last; written below `folder`, with the record of what was learnt.

    Args:
        standing: the run.
        names: names.yaml.
        folder: of the new run.
        root: where the pictures are now, if they have moved.

    Raises:
        ConfigError, DataError: see `detection.discovery.learn`; or the data are not those that the run has learnt from.
    """
    data, task = standing.data, standing.task
    info = read_info(Layout(standing.folder).task(task, "model"))
    if info.get("data") != data.fingerprint:
        raise ConfigError(
            f"the data are not those that {files.show_path(standing.folder)} has learnt from; restore them, or train a "
            "new run"
        )
    if (standing.folder / LEARNED).exists():
        shutil.copyfile(standing.folder / LEARNED, folder / LEARNED)
    return learn(
        names, data.tasks, task, folder / LESSONS / str(task + 1), record=folder / LEARNED,
        labelled=data.trains[:task], held_out=(data.val, data.test), root=root,
    )  # fmt: skip


def begin_further(
    standing: Standing,
    recipe: DetectionRecipe,
    names: str | Path,
    run: Path,
    *,
    as_text: Callable[[DetectionRecipe], str],
    command: Sequence[str],
    root: str | Path | None = None,
) -> tuple[DetectionRecipe, Lesson]:
    """Make the new run, whole or not at all; `detect_train` then resumes it.

    Args:
        standing: the run that was begun.
        recipe: its recipe, perhaps with other settings for the stages to come.
        names: names.yaml.
        run: the new directory; there must be nothing.
        as_text: a recipe as it is to stand in recipe.yaml.
        command: the command line, for run.json.
        root: see `give_lesson`.

    Returns:
        The recipe of the new run, and what it is about to learn.

    Raises:
        SurniaError: see `give_lesson`; or something cannot be written.
    """
    run = Path(os.path.abspath(run))
    files.make_folder(run.parent)
    with files.new_folder(run) as temporary:
        (temporary / "first").mkdir()  # a run is created in an empty folder, and this one is not to be any more
        raise AssertionError
