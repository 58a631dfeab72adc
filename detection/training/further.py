"""A run that begins where another stands: the tasks that were learnt are copied, and a lesson becomes the next one.

The other run is only read. The new one refers to pictures where they are; its annotation files are its own, with file
names below the folder that all the pictures have in common.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detection.data.annotations import AnnotationSet
from detection.data.categories import with_categories
from detection.data.openworld import OpenWorldData, open_files
from detection.data.results import write_coco
from detection.data.settings import CocoData
from detection.discovery.learning import Lesson, learn
from detection.discovery.records import UnknownObjects
from detection.training.callbacks import Meter
from detection.training.layout import Layout, Stage
from detection.training.origin import check_origin
from detection.training.recipe import DetectionRecipe, StageSettings
from sslcore.errors import ConfigError, SurniaError
from sslcore.storage import RunDirectory, files, folders, load_checkpoint, save_checkpoint, step_folder
from sslcore.storage.checkpoint import read_info
from sslcore.storage.messages import show_path

LEARNED, LESSONS, DATA, TASKS = "learned.json", "lessons", "data", "tasks.yaml"
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
        shown = show_path(run)
        raise ConfigError(f"no task of {shown} is finished; finish the first: surnia detect train --resume {shown}")
    return task


def give_lesson(standing: Standing, names: str | Path, folder: Path, *, root: str | Path | None = None) -> Lesson:
    """What a person named, as the task after a run's last, and the record of all that was learnt so.

    Args:
        standing: the run.
        names: names.yaml.
        folder: where both are written.
        root: where the pictures are now, if they have moved.

    Raises:
        SurniaError: see `detection.discovery.learn`; or the run has learnt from other data, or a detector of other
            classes has found the objects.
    """
    data, task = standing.data, standing.task
    note = _check_origin(standing, Path(names))
    info = read_info(Layout(standing.folder, writes=False).task(task, "model"))
    if info.get("data") != data.fingerprint:
        raise ConfigError(
            f"{show_path(standing.folder)} has learnt from other data than its recipe now leads to: restore "
            "them, or train a new run"
        )
    if (standing.folder / LEARNED).exists():
        files.copy_file(standing.folder / LEARNED, folder / LEARNED)
    lesson = learn(
        names, data.tasks, task, folder / LESSONS / str(task + 1), record=folder / LEARNED,
        labelled=data.trains[:task], held_out=(data.val, data.test), root=root,
    )  # fmt: skip
    return lesson if note is None else replace(lesson, notes=(note, *lesson.notes))


def _check_origin(standing: Standing, names: Path) -> str | None:
    """See `check_origin`; what cannot be read there is for `learn` to refuse, which knows the file of names, too."""
    try:
        unknowns = UnknownObjects.load(names.parent)
    except SurniaError:
        return None
    return check_origin(unknowns, names.parent, standing.folder, standing.data.tasks, standing.task)


def begin_further(
    standing: Standing,
    recipe: DetectionRecipe,
    lesson: Lesson,
    run: Path,
    *,
    as_text: Callable[[DetectionRecipe], str],
    command: Sequence[str],
) -> DetectionRecipe:
    """Make the new run, whole or not at all. `detect_train` then resumes it.

    Args:
        standing: the run that was begun.
        recipe: its recipe, perhaps with other settings for the stages to come.
        lesson: from `give_lesson`; its files are copied.
        run: the new directory; nothing is there yet.
        as_text: a recipe as it is to stand in recipe.yaml.
        command: the command line, for run.json.

    Returns:
        The new run's recipe.

    Raises:
        SurniaError: what was learnt cannot be read, or the new run not written.
    """
    run = Path(os.path.abspath(run))
    folders.make_folder(run.parent)
    common = Path(os.path.commonpath([_place(each) for each in _sets(standing, lesson)]))
    data = CocoData(
        tasks=str(run / DATA / TASKS),
        train=[str(run / DATA / f"train_{task}.json") for task in range(1, lesson.task + 1)],
        val=str(run / DATA / "val.json"),
        test=str(run / DATA / "test.json"),
        images=str(common),
        workers=standing.recipe.data.workers,
    )
    recipe = recipe.model_copy(update={"data": data, "tasks": None})
    with folders.new_folder(run) as temporary:
        RunDirectory.create(temporary, recipe=as_text(recipe), command=command, seed=recipe.seed).close()
        _keep_lesson(lesson, temporary)
        fingerprint = _write_data(standing, lesson, recipe, temporary / DATA, common)
        news = {"recipe": recipe.as_dict(), "tasks": lesson.tasks.to_dict(), "data": fingerprint}
        for task in range(1, standing.task + 1):
            _carry_over(standing, temporary, task, recipe, news)
        if (standing.folder / "metrics.jsonl").exists():
            files.copy_file(standing.folder / "metrics.jsonl", temporary / "metrics.jsonl")
    return recipe


def _keep_lesson(lesson: Lesson, new: Path) -> None:
    folder = folders.make_folder(new / LESSONS / str(lesson.task))
    for file in (lesson.tasks_file, lesson.train_file):
        files.copy_file(file, folder / file.name)
    files.copy_file(lesson.tasks_file.parents[2] / LEARNED, new / LEARNED)


# --- annotations -----------------------------------------------------------------------------------------------------


def _sets(standing: Standing, lesson: Lesson) -> list[AnnotationSet]:
    """Training images of each task, the new one included; val; test."""
    data = standing.data
    return [*data.trains[: standing.task], lesson.annotations, data.val, data.test]


def _place(annotations: AnnotationSet) -> str:
    return os.path.abspath(annotations.folder or Path())


def _write_data(standing: Standing, lesson: Lesson, recipe: DetectionRecipe, folder: Path, common: Path) -> str:
    """The annotation files; returns the data's fingerprint. DataError if they do not hold together."""
    folders.make_folder(folder)
    lesson.tasks.save(folder / TASKS)
    names = [*(f"train_{task}.json" for task in range(1, lesson.task + 1)), "val.json", "test.json"]
    for name, annotations in zip(names, _sets(standing, lesson), strict=True):
        known = with_categories(annotations, lesson.tasks.classes, unknown_id=lesson.tasks.unknown_id)
        write_coco(folder / name, _below(known, common))
    *train, val, test = (str(folder / name) for name in names)
    return open_files(lesson.tasks, train, val, test, common, fits=recipe.fits).fingerprint


def _below(annotations: AnnotationSet, common: Path) -> AnnotationSet:
    """The same with file names relative to another folder."""
    place = _place(annotations)
    below = [Path(os.path.relpath(os.path.join(place, image.file_name), common)) for image in annotations.images]
    images = [replace(image, file_name=path.as_posix()) for image, path in zip(annotations.images, below)]
    return replace(annotations, images=tuple(images), folder=common)


# --- what was learnt -------------------------------------------------------------------------------------------------


def _carry_over(standing: Standing, new: Path, task: int, recipe: DetectionRecipe, news: dict[str, Any]) -> None:
    """A finished task: its detector, what was measured, and for each stage the mark that it is done."""
    old = Layout(standing.folder, writes=False)
    folder = new / "tasks" / str(task)
    model = load_checkpoint(old.task(task, "model"))
    save_checkpoint(folder / "model", model=model.model, train=model.train, info={**model.info, **news})
    for stage in ("train", "finetune"):
        now = _settings(recipe, task, stage).steps
        if not now or (stage == "finetune" and task == 1):
            continue
        last = old.last_of(task, stage, _settings(standing.recipe, task, stage).steps)
        done = load_checkpoint(last) if last else None
        # The optimiser's state is of no use any more; what results say of a stage is the callbacks'.
        record = done.train["callbacks"] if done else {Meter.__qualname__: {"seconds": 0.0, "terms": {}}}
        marked = done or model
        save_checkpoint(
            step_folder(folder / stage / "checkpoints", now), model=marked.model, train={"callbacks": record},
            info={**marked.info, "stage": stage, **news},
        )  # fmt: skip
    for name in COPIED:
        if old.task(task, name).exists():
            files.copy_file(old.task(task, name), folder / name)


def _settings(recipe: DetectionRecipe, task: int, stage: Stage) -> StageSettings:
    if stage == "finetune":
        return recipe.finetune
    return recipe.first if task == 1 else recipe.later
