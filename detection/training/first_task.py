"""One training of the first task for several runs: those that differ only in what comes after it train it alike."""

from pathlib import Path
from typing import Any

from detection.training.layout import Layout
from detection.training.model import check_info
from detection.training.recipe import DetectionRecipe
from sslcore.errors import ConfigError
from sslcore.storage import load_checkpoint, save_checkpoint, step_folder
from sslcore.storage.messages import show_path

ELSEWHERE = frozenset(
    {"decision", "later", "finetune", "replay", "tasks", "devices", "nodes", "threads", "checkpoint_every",
     "keep_checkpoints", "data", "unknowns.previous"}
)  # fmt: skip
"""Settings without influence on the first task's training. Data are compared by what they hold, not by their names."""


def first_task_settings(recipe: DetectionRecipe) -> dict[str, Any]:
    """What of a recipe determines the training of its first task, besides the data."""
    return _without_elsewhere(recipe.as_dict())


def _without_elsewhere(values: dict[str, Any], of: str = "") -> dict[str, Any]:
    kept = {name: value for name, value in values.items() if of + name not in ELSEWHERE}
    return {
        name: _without_elsewhere(value, f"{of}{name}.") if isinstance(value, dict) else value
        for name, value in kept.items()
    }


def copy_first_task(other: Path, run: Path, recipe: DetectionRecipe) -> None:
    """Puts the finished training of another run's first task into a run that has not begun it.

    Only the training: `detect_train` with `resume=True` then fits and evaluates by the new run's own recipe, and
    refuses the run if its data are not those that the first task was learnt from.

    Args:
        other: the run that has trained it; only read.
        run: gets it. Killed at any moment, it has all of it or nothing.
        recipe: of `run`.

    Raises:
        ConfigError: the first task is not trained to its end in `other`, was trained by other settings, or `run` has
            begun its own.
        CheckpointError: the checkpoint cannot be read or written.
    """
    source, target = Layout(other, writes=False), Layout(run)
    last = source.last_of(1, "train", recipe.first.steps)
    shown = show_path(other)
    if last is None:
        raise ConfigError(
            f"{shown} has not trained its first task for {recipe.first.steps} steps; finish it, or give another run"
        )
    folder = target.checkpoints(1, "train")
    assert folder is not None
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{show_path(run)} has begun its first task already; resume it as it is")
    loaded = load_checkpoint(last)
    check_info(loaded.info, last)
    trained, wanted = _without_elsewhere(loaded.info["recipe"]), first_task_settings(recipe)
    for name, value in wanted.items():
        if trained.get(name) != value:
            raise ConfigError(f"{shown} was trained with other settings of {name}; the first task cannot be shared")
    save_checkpoint(
        step_folder(folder, recipe.first.steps), model=loaded.model, train=loaded.train,
        info={**loaded.info, "recipe": recipe.as_dict()},
    )  # fmt: skip
