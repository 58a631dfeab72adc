"""`surnia control train` as a `Training`: its recipes, what must be there before it begins. Imports nothing heavy."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from apps import run_names
from apps.launch import Training
from apps.recipe_paths import nothing_at
from apps.recipes import Loaded
from rl.training.recipe import ControlRecipe

MAY_CHANGE = frozenset({
    "steps", "seeds", "parallel", "threads", "log_every", "checkpoint_every", "keep_checkpoints", "env.workers",
    "env.step_seconds", "agent.storage", "evaluation.every", "evaluation.clip", "device",
})  # fmt: skip
"""How things are worked on, and for how long: 100,000 steps may go on to 500,000, three seeds become five. Device and
threads change rounding."""

CLOSING = """\
Every setting of a recipe is an option too: --agent.aux none --env.action_repeat 4 --steps 500000
List them with --help-fields, or a part of them with --help-fields agent. Steps are environment steps.

  surnia control train pixelreach --dry-run
  surnia control train pixelreach
  surnia control train pixelreach --seeds 5 --parallel 2
  surnia control resume runs/pixelreach-1"""

PACKAGES = ("gymnasium", "stable_baselines3")


def _run(recipe: ControlRecipe, **given: Any) -> int:
    from apps.control_train import run

    return run(recipe, **given)


def missing_packages() -> list[str]:
    """One sentence if what every agent needs is not installed."""
    absent = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if not absent:
        return []
    return [f"agents need {' and '.join(absent)}, not installed here: pip install 'surnia[control]'"]


def _missing(loaded: Loaded[ControlRecipe]) -> list[str]:
    return [*missing_packages(), *_weights(loaded)]


def _weights(loaded: Loaded[ControlRecipe]) -> Iterator[str]:
    given = loaded.recipe.agent.weights
    if given is None:
        return
    place = Path(given).expanduser()
    if not place.exists():
        yield nothing_at(loaded, "agent.weights", given)


CONTROL = Training(
    words=("control", "train"),
    about="Train an agent from pixels: CURL on soft actor-critic.",
    closing=CLOSING,
    schema=ControlRecipe,
    folder="control",
    may_change=MAY_CHANGE,
    run_name=lambda name, recipe: run_names.clean(name),
    missing=_missing,
    run=_run,
)
