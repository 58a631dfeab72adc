"""`detect_train`: from a recipe to a run directory with a detector for each task, and everything measured on it.

Per task: train, fine-tune on exemplars, fit the decision (last, because fine-tuning moves the energies), evaluate.
"""

import sys
from pathlib import Path

import torch

from detection.data.openworld import OpenWorldData, open_data
from detection.training.chain import Chain, Outcome
from detection.training.layout import STAGES, Stage
from detection.training.processes import bring_together, check_machine
from detection.training.recipe import DetectionRecipe
from sslcore.errors import ConfigError
from sslcore.storage import RunDirectory
from sslcore.training.resuming import Say
from sslcore.training.together import ends_together

__all__ = ["STAGES", "Chain", "Outcome", "detect_train"]


def detect_train(
    recipe: DetectionRecipe,
    run: RunDirectory | Path | None = None,
    *,
    data: OpenWorldData | None = None,
    resume: bool = False,
    quiet: bool = False,
    say: Say | None = None,
    until: tuple[int, Stage] | None = None,
) -> Outcome:
    """Learn the tasks of a recipe one after the other.

    Args:
        recipe: see `detection.training.recipe`.
        run: where it is written; None writes nothing. Of several processes only the first holds the RunDirectory; the
            others are given its path.
        data: in place of what `recipe.data` names.
        resume: go on where `run` was left, exactly.
        quiet: no progress display.
        say: gets the sentences that a person should read; None prints them to stderr.
        until: (task, stage): stop after this one.

    Raises:
        SurniaError: what went wrong and what to do about it.
    """
    say = say or (lambda sentence: print(sentence, file=sys.stderr, flush=True))
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    check_machine(recipe)
    data = data or open_data(recipe.data, fits=recipe.fits)
    if recipe.tasks and recipe.tasks > data.tasks.count:
        raise ConfigError(f"tasks: {recipe.tasks} is more than the {data.tasks.count} of {data.tasks.name}")
    started = bring_together(recipe)
    with ends_together(lambda: started):
        chain = Chain(recipe, data, run, quiet=quiet, say=say)
        if resume:
            chain.take_up()
        return chain.go(until)
