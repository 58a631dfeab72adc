"""A detector from a recipe, and from a checkpoint alone: what a checkpoint says of itself suffices to build it anew."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detection.engines.engine import OpenWorldEngine
from detection.engines.libraries import missing_library, silence_library
from detection.openworld.head import OpenWorldHead
from detection.structures import FIRST_KNOWN
from detection.tasks import TaskSet
from detection.training.recipe import DetectionRecipe
from sslcore.errors import CheckpointError, ConfigError
from sslcore.storage import load_checkpoint, save_checkpoint
from sslcore.storage.checkpoint import read_info
from sslcore.storage.messages import show_names, show_path

KIND = "open-world detector"
PREFIX = "engine."
"""What stands before a detector's names among the tensors of a checkpoint."""


def build_engine(
    recipe: DetectionRecipe, known: Sequence[str], *, classes: int, load_weights: bool = True
) -> OpenWorldEngine:
    """A detector of these classes with its initial weights; the recipe's seed determines them.

    Args:
        recipe: its settings.
        known: names of the classes.
        classes: how many there will be after the last task; of interest to `network.compat: ore` alone.
        load_weights: see `build_detector`.

    Raises:
        ConfigError: settings that do not fit each other, or the engine's library is not installed.
        CheckpointError: the backbone's weights cannot be used.
    """
    if missing := missing_library(recipe.engine):
        raise ConfigError(missing)
    silence_library(recipe.engine)
    head = OpenWorldHead(
        known,
        recipe.network.representation,
        unknowns=recipe.unknowns,
        clustering=recipe.clustering,
        decision=recipe.decision,
        regions=recipe.regions,
        positive=recipe.positive,
        seed=recipe.seed,
        classes=classes if recipe.network.compat == "ore" else None,
    )
    build: Any = importlib.import_module(f"detection.engines.{recipe.engine}").build_detector
    engine: OpenWorldEngine = build(recipe.network, head, seed=recipe.seed, load_weights=load_weights)
    return engine


def description(recipe: DetectionRecipe, tasks: TaskSet, task: int, stage: str, fingerprint: str) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {
        "kind": KIND,
        "recipe": recipe.as_dict(),
        "tasks": tasks.to_dict(),
        "task": task,
        "stage": stage,
        "labels": list(tasks.label_names(task)),
        "data": fingerprint,
    }


def save_engine(folder: Path, engine: OpenWorldEngine, info: Mapping[str, Any]) -> None:
    """A checkpoint of the detector alone."""
    save_checkpoint(folder, model={PREFIX + name: t for name, t in engine.state_dict().items()}, info=info)


def check_info(info: Mapping[str, Any], checkpoint: Path, *, tasks: TaskSet | None = None) -> int:
    """The task that a checkpoint's detector has learnt.

    Args:
        info: what the checkpoint says of itself.
        checkpoint: for messages.
        tasks: the label space that it must fit; None: its own.

    Raises:
        CheckpointError: it is no detector, or its classes are not the first of `tasks`.
    """
    shown = show_path(checkpoint)
    if info.get("kind") != KIND:
        raise CheckpointError(f"{shown} is not a detector's checkpoint; give a run of `surnia detect train`")
    task, labels = info.get("task"), info.get("labels")
    if not isinstance(task, int) or not isinstance(labels, list) or len(labels) <= FIRST_KNOWN:
        raise CheckpointError(f"{shown} does not say which classes it knows; use another checkpoint")
    if tasks is not None:
        ours = tasks.label_names(task) if 1 <= task <= tasks.count else ()
        if tuple(labels) != ours:
            raise CheckpointError(
                f"{shown} is of another task set: after task {task} it knows {_few(labels[FIRST_KNOWN:])}, and in "
                f"{tasks.name} that would be {_few(ours[FIRST_KNOWN:])}; use the task file that it was trained with, "
                "or start a new run"
            )
    return task


def restore_engine(
    checkpoint: Path, *, tasks: TaskSet | None = None, recipe: DetectionRecipe | None = None
) -> tuple[OpenWorldEngine, dict[str, Any]]:
    """The detector of a checkpoint, on the CPU, and what the checkpoint says of itself.

    Args:
        checkpoint: its folder.
        tasks: the label space that it must fit; None: its own.
        recipe: settings of the detector; None: those it was trained with.

    Raises:
        CheckpointError: it is damaged, of another task set, or its weights do not fit.
    """
    loaded = load_checkpoint(checkpoint)
    check_info(loaded.info, checkpoint, tasks=tasks)
    recipe = recipe or _recipe(loaded.info, checkpoint)
    state = {name.removeprefix(PREFIX): t for name, t in loaded.model.items() if name.startswith(PREFIX)}
    known = loaded.info["labels"][FIRST_KNOWN:]
    # The task set may have got tasks since then: the weights say how many classes there were to be.
    outputs: Sequence[Any] = next((t for name, t in state.items() if name.endswith("predictor.classify.bias")), ())
    engine = build_engine(recipe, known, classes=len(outputs) - FIRST_KNOWN, load_weights=False)
    if broken := next((name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()), None):
        raise CheckpointError(
            f"the weights of {show_path(checkpoint)} are not finite ({broken}), so nothing can be found with them; use "
            "another checkpoint"
        )
    try:
        engine.load_state_dict(state)
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"the weights of {show_path(checkpoint)} do not fit the recipe's detector ({problem}); use the "
            "recipe that it was trained with"
        ) from error
    return engine, loaded.info


def recipe_of(checkpoint: Path) -> DetectionRecipe:
    """The recipe that a checkpoint was trained with. Raises CheckpointError."""
    return _recipe(read_info(checkpoint), checkpoint)


def tasks_of(info: Mapping[str, Any], checkpoint: Path) -> TaskSet:
    """The task set that a checkpoint was trained with. Raises CheckpointError."""
    try:
        return TaskSet.from_dict(info["tasks"])
    except (ConfigError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"the task set in {show_path(checkpoint)} cannot be read ({error}); use another checkpoint"
        ) from error


def _recipe(info: Mapping[str, Any], checkpoint: Path) -> DetectionRecipe:
    try:
        return DetectionRecipe.model_validate(info["recipe"])
    except (ValidationError, LookupError) as error:
        raise CheckpointError(
            f"the recipe in {show_path(checkpoint)} cannot be read; it may be of another version of Surnia: use "
            "another checkpoint"
        ) from error


def _few(names: Sequence[str]) -> str:
    return show_names(names) or "no class at all"
