"""`surnia detect train` as a `Training`: its recipes, what must be there before it begins. Imports nothing heavy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apps import run_names
from apps.detect_owod import benchmark_home, build_command
from apps.launch import Training
from apps.problems import in_order
from apps.recipe_paths import nothing_at
from apps.recipes import Loaded
from detection.data.settings import CocoData
from detection.task_file import shipped
from detection.tasks import TaskSet
from detection.training.recipe import DetectionRecipe
from sslcore.errors import ConfigError

MAY_CHANGE = frozenset({
    "data.path", "data.images", "data.workers", "tasks", "devices", "nodes", "threads", "checkpoint_every",
    "keep_checkpoints",
})  # fmt: skip
"""Where things lie and how they are worked on; `tasks`, because a run may stop after two and go on to four."""

CLOSING = """\
Every setting of a recipe is an option too: --network.name tiny --later.steps 300 --clustering.loss hinge
List them with --help-fields, or a part of them with --help-fields unknowns.

  surnia detect train openscenes_small --dry-run
  surnia detect train openscenes_small --tasks 2
  surnia detect train --resume runs/openscenes_small-1"""

TORCHVISION, RANDOM, ZOO = "torchvision:", "random:", "detectron2:"


def _run(recipe: DetectionRecipe, **given: Any) -> int:
    from apps.detect_train import run

    return run(recipe, **given)


def _missing(loaded: Loaded[DetectionRecipe]) -> list[str]:
    return in_order(missing_data(loaded) + _weights(loaded))


def missing_data(loaded: Loaded[DetectionRecipe], *, tested: bool = False) -> list[str]:
    """A sentence for each path of a recipe's data that leads nowhere.

    Args:
        loaded: the recipe.
        tested: only those that it takes to read the test annotations.
    """
    data = loaded.recipe.data
    if tested and isinstance(data, CocoData):
        there = Path(data.tasks).exists() or data.tasks in shipped()
        given = {"data.test": data.test} if there else {"data.test": data.test, "data.tasks": data.tasks}
        return [said for key, path in given.items() for said in _not_there(loaded, key, path, folder=False)]
    problems = _coco(loaded, data) if isinstance(data, CocoData) else []
    if not isinstance(data, CocoData):
        problems = [
            said
            for name in ("path", "sprites", "backgrounds")
            if (place := getattr(data, name)) is not None
            for said in _not_there(loaded, f"data.{name}", place, folder=True)
        ]
    return problems


def _not_there(loaded: Loaded[Any], key: str, given: str, *, folder: bool = False) -> Iterator[str]:
    """What is wrong with a path that a setting gives: at most one sentence."""
    place, where = Path(given).expanduser(), loaded.where(key)
    name = key if not key.rpartition(".")[2].isdigit() else key.rpartition(".")[0]
    if not given:
        yield f"{where}  {name} is missing: give the {'folder' if folder else 'file'}, here or with --{name}"
    elif not place.exists():
        yield nothing_at(loaded, key, given)
    elif place.is_dir() != folder:
        yield f"{where}  {name}: '{given}' is a {'file, not a folder' if folder else 'folder, not a file'}"


def _coco(loaded: Loaded[DetectionRecipe], data: CocoData) -> list[str]:
    given = {f"data.train.{i}": file for i, file in enumerate(data.train)}
    given |= {f"data.{name}": getattr(data, name) for name in ("val", "test", "images")}
    problems = _not_built(loaded, data.tasks, given)
    for key, path in given.items():
        problems += _not_there(loaded, key, path, folder=key == "data.images")
    if not Path(data.tasks).exists() and data.tasks not in shipped() and Path(data.tasks).suffix:
        return [*problems, *_not_there(loaded, "data.tasks", data.tasks)]
    try:
        tasks = TaskSet.from_file(data.tasks)
    except ConfigError as error:
        return [*problems, *error.problems]
    if len(data.train) not in {1, tasks.count}:
        problems.append(
            f"{loaded.where('data.train')}  data.train must name one file for all tasks, or one for each of the "
            f"{tasks.count} tasks of {data.tasks}, not {len(data.train)}"
        )
    wanted = loaded.recipe.tasks
    if wanted is not None and wanted > tasks.count:
        problems.append(
            f"{loaded.where('tasks')}  tasks must be at most {tasks.count}, as {data.tasks} has no more, not {wanted}"
        )
    return problems


def _not_built(loaded: Loaded[Any], tasks: str, given: dict[str, str]) -> list[str]:
    """One sentence for all paths into a benchmark that has not been built yet; they are taken out of `given`."""
    home = benchmark_home(tasks)
    inside = [key for key, path in given.items() if home is not None and Path(path).is_relative_to(home)]
    if not inside or home is None or home.exists():
        return []
    for key in inside:
        del given[key]
    command = build_command(tasks)
    return [f"{loaded.where(inside[0])}  data: there is no folder '{home}' yet; build the benchmark with: {command}"]


def _weights(loaded: Loaded[DetectionRecipe]) -> list[str]:
    """The file behind network.weights, in whatever way it is written."""
    key, given = "network.weights", loaded.recipe.network.weights
    if given is None:
        return []
    file = given.removeprefix(RANDOM).removeprefix(ZOO)
    if file.startswith(TORCHVISION):
        name, equals, file = file.removeprefix(TORCHVISION).partition("=")
        if not equals:
            return [
                f"{loaded.where(key)}  {key}: '{given}' names no file, and nothing is downloaded: write "
                f"{TORCHVISION}{name}=FILE"
            ]
    if Path(file).expanduser().exists():
        return []
    said = nothing_at(loaded, key, file)
    if said.endswith("?"):
        return [said]
    if given.startswith(ZOO):
        return [
            f"{said}; detectron2's MODEL_ZOO.md says where its files are (nothing is downloaded here), and --{key} "
            "null begins with random weights"
        ]
    return [f"{said}; pretrain a backbone (surnia pretrain), give another with --{key}, or null for random weights"]


DETECT = Training(
    words=("detect", "train"),
    about="Train an open-world detector, task after task.",
    closing=CLOSING,
    schema=DetectionRecipe,
    folder="detection",
    may_change=MAY_CHANGE,
    run_name=lambda name, recipe: run_names.clean(name),
    missing=_missing,
    run=_run,
)
