"""One stage of training: a fresh optimiser and schedule, checkpoints, and going on where it was left."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from detection.training.batches import BatchStream
from detection.training.callbacks import Meter, PurityWatch, not_finite
from detection.training.layout import Layout
from detection.training.module import Place, StageModule
from detection.training.processes import agreed, build_trainer, highest
from detection.training.recipe import DetectionRecipe, StageSettings
from sslcore.storage import (
    RunDirectory,
    StopSignals,
    checkpoint_step,
    newest_checkpoint,
    prune_checkpoints,
    set_aside_after,
)
from sslcore.training.checkpoints import Checkpoints
from sslcore.training.finite import all_finite
from sslcore.training.lightning import silenced
from sslcore.training.resuming import Say, refuse_unless_empty
from sslcore.training.trainer import fit, tensorboard


@dataclass
class StageOutcome:
    """What came of a stage.

    Attributes:
        stopped: a signal ended it early.
        exit_code: what a shell expects: 0, or 128 plus the signal's number.
        steps: optimiser steps done in this process.
        seconds: spent on the stage's steps, in all sessions.
        loss: the last mean of each loss.
        purity: what lay under the pseudo-unknowns; None if none were given.
        checkpoint: its newest.
    """

    stopped: bool
    exit_code: int
    steps: int
    seconds: float
    loss: dict[str, float]
    purity: dict[str, Any] | None
    checkpoint: Path | None


def train_stage(
    engine: nn.Module,
    stream: BatchStream,
    recipe: DetectionRecipe,
    settings: StageSettings,
    place: Place,
    *,
    layout: Layout,
    run: RunDirectory | None,
    previous: Sequence[Tensor] | None,
    purity: PurityWatch | None,
    description: dict[str, Any],
    quiet: bool,
    say: Say,
) -> StageOutcome:
    """Trains a stage, from its beginning or from its newest sound checkpoint.

    Args:
        engine: with the weights that the stage begins with; trained in place.
        stream: the batches.
        recipe, settings: of the run and of this stage.
        place: where the stage stands in the run.
        layout: where its checkpoints are.
        run: for metrics; None in all processes but the first.
        previous: see `StageModule`.
        purity: counts pseudo-labels, or None.
        description: saved with every checkpoint.
        quiet: no progress display.
        say: gets the sentences that a person should read.

    Raises:
        SurniaError: what went wrong and what to do about it.
    """
    folder = layout.checkpoints(place.task, place.stage)
    start = _start(folder, place, say)
    done = checkpoint_step(start) or 0 if start else 0
    if start:
        say(f"{place.name} goes on after step {done:,} of {settings.steps:,}, with the weights of its checkpoint")
    if layout.writes and folder is not None:
        set_aside_after(folder, done)
    if run is not None:
        run.rewind_metrics(place.offset + done)
    torch.manual_seed(place.seed)
    engine.train()
    module = StageModule(engine, stream, recipe, settings, place, previous, description)
    signals, saver = StopSignals(), None
    with silenced():
        meter = Meter(run, purity, quiet=quiet)
        callbacks: list[pl.Callback] = [meter, *([purity] if purity else [])]
        if folder is not None:
            saver = Checkpoints(folder, every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, signals=signals)
            callbacks.append(saver)  # last: what the others do belongs to the step that is saved
        done = _fit(module, callbacks, start, tensorboard(layout.folder, place.offset + done))
    if done == settings.steps and not all_finite(engine.parameters()):  # nobody else looks at what the last step left
        raise not_finite("the weights", module, done)
    if layout.writes and folder is not None and done == settings.steps:
        prune_checkpoints(folder, keep=1)  # of a finished stage the last is all that is wanted
    code = highest(signals.exit_code)  # a signal may have come when the last step was done, too
    return StageOutcome(
        stopped=code > 0,
        exit_code=code,
        steps=done - meter.first_step,
        seconds=meter.seconds,
        loss={name: pairs[-1][1] for name, pairs in meter.terms.items()},
        purity=purity.totalled() if purity else None,
        checkpoint=saver.saved if saver else None,
    )


def _fit(module: StageModule, callbacks: list[pl.Callback], start: Path | None, logger: Any) -> int:
    """In the loop that goes with the engine; steps of the stage that are done then."""
    if module.recipe.engine == "detectron2":
        from detection.training import detectron2_loop  # needs detectron2

        return detectron2_loop.fit(module, callbacks, start, logger)
    trainer = build_trainer(module.recipe, callbacks, logger)
    try:
        fit(trainer, module, start)
    except FloatingPointError as error:  # of the head, which looks at every step
        raise not_finite("the network's numbers", module, trainer.global_step + 1) from error
    return trainer.global_step


def _start(folder: Path | None, place: Place, say: Say) -> Path | None:
    """The newest sound checkpoint of a stage, the same for all processes; None: it begins."""
    if folder is None:
        return None
    found: Path | None = agreed(newest_checkpoint(folder, report=say))
    if found is None:
        refuse_unless_empty(folder, what=place.name, otherwise="delete them all to have the stage begin anew")
    return found
