"""`surnia pretrain` as a `Training`: its recipes, what must be there before it begins. Imports nothing heavy."""

from pathlib import Path
from typing import Any

from apps import run_names
from apps.launch import Training
from apps.recipe_paths import nothing_at
from apps.recipes import Loaded
from sslcore.pretrain.recipe import Recipe

MAY_CHANGE = frozenset({
    "data.path", "data.workers", "data.worker_timeout", "data.bad_images", "probe.every_epochs", "probe.neighbours",
    "probe.temperature", "probe.limit", "devices", "nodes", "threads", "checkpoint_every", "keep_checkpoints",
    "diagnostics",
})  # fmt: skip
"""Most have no part in a run's weights; devices, nodes and threads change rounding, and batch norm statistics that each
process takes of its own share."""

CLOSING = """\
Every setting of a recipe is an option too: --optimizer.lr 0.1 --views.0.size 32 --method byol
List them with --help-fields, or a part of them with --help-fields method.

  surnia pretrain folder_cpu --data.path pictures --dry-run
  surnia pretrain folder_cpu --data.path pictures
  surnia pretrain --resume runs/folder_cpu-simclr-1"""


def _run(recipe: Recipe, **given: Any) -> int:
    from apps.pretrain import run

    return run(recipe, **given)


def _missing(loaded: Loaded[Recipe]) -> list[str]:
    problems = []
    data, weights = loaded.recipe.data.path, loaded.recipe.backbone.weights
    folder = Path(data).expanduser()
    if not data and loaded.recipe.data.kind == "fashion_mnist":
        pass  # Debian's package has a fixed place for it
    elif not data:
        problems.append(
            f"{loaded.where('data.path')}  data.path is missing: say where the images are, here or with --data.path DIR"
        )
    elif not folder.exists():
        problems.append(nothing_at(loaded, "data.path", data))
    elif not folder.is_dir():
        problems.append(f"{loaded.where('data.path')}  data.path: '{data}' is a file, not a folder; unpack archives")
    if weights is not None and not Path(weights).exists():
        problems.append(nothing_at(loaded, "backbone.weights", weights))
    return problems


PRETRAIN = Training(
    words=("pretrain",),
    about="Train a backbone on images without labels.",
    closing=CLOSING,
    schema=Recipe,
    folder="pretrain",
    may_change=MAY_CHANGE,
    run_name=lambda name, recipe: run_names.stem(name, recipe.method.name),
    missing=_missing,
    run=_run,
)
