"""`pretrain`: from a recipe to a run directory with checkpoints, metrics and a backbone."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor

from sslcore.errors import DataError
from sslcore.pretrain.build import build
from sslcore.pretrain.callbacks import KNNProbe, Meter, Say, Watch
from sslcore.pretrain.data import ImageArray, NoSuchSplit, iterate_eval, open_images
from sslcore.pretrain.diagnostics import Health
from sslcore.pretrain.loop import Images, Pretraining
from sslcore.pretrain.probes.features import embed
from sslcore.pretrain.recipe import Recipe
from sslcore.storage import (
    RunDirectory,
    StopSignals,
    checkpoint_step,
    set_aside_after,
)
from sslcore.training.checkpoints import Checkpoints
from sslcore.training.lightning import silenced
from sslcore.training.resuming import resume_point
from sslcore.training.trainer import fit as train_with
from sslcore.training.trainer import make_trainer, tensorboard


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        module: what was trained, in evaluation mode; `module.method.encoder` is the backbone.
        stopped: a signal ended the run early.
        exit_code: what a shell expects: 0, or 128 plus the signal's number.
        steps: optimiser steps done in this process.
        images_per_second: over all batches but the first, evaluations left out; 0 if there were no two.
        terms: (step, value) pairs of the loss and its terms, by name.
        knn: (epoch, accuracy) pairs of the probe, if the data has labels.
        health: diagnostics epoch by epoch.
        checkpoint: the newest one.
        bad_images: (path, reason) of every image that could not be read and was skipped.
    """

    module: Pretraining = field(repr=False)
    stopped: bool
    exit_code: int
    steps: int
    images_per_second: float
    terms: dict[str, list[tuple[int, float]]]
    knn: list[tuple[float, float]]
    health: list[Health]
    checkpoint: Path | None
    bad_images: list[tuple[str, str]]

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, loss) pairs of this process."""
        return self.terms.get("loss", [])

    def features(self, pictures: Tensor, *, batch_size: int = 256) -> Tensor:
        """Features of the trained backbone: (N, c, h, w) uint8 pictures of one size to (N, d) float32 on the CPU.

        The pictures are resized, cropped and normalised as in training's evaluations.
        """
        module = self.module
        images = ImageArray(images=pictures, mean=module.images.mean, std=module.images.std)
        device = next(module.method.parameters()).device
        return embed(
            module.method.encoder, iterate_eval(images, module.eval_view, batch_size, device=device), device
        ).features


def pretrain(
    recipe: Recipe,
    run: RunDirectory | Path | None = None,
    *,
    images: Images | None = None,
    probe_images: Images | None = None,
    resume: bool = False,
    quiet: bool = False,
    say: Say | None = None,
) -> Outcome:
    """Train what the recipe says, and leave checkpoints, metrics and TensorBoard files in the run directory.

    Args:
        recipe: see `sslcore.pretrain.recipe`.
        images: training images in place of what `recipe.data` names.
        run, probe_images, resume, quiet, say: see `fit`.

    Raises:
        SurniaError: what went wrong and what to do about it.
    """
    return fit(build(recipe, images), run, probe_images=probe_images, resume=resume, quiet=quiet, say=say)


def fit(
    module: Pretraining,
    run: RunDirectory | Path | None = None,
    *,
    probe_images: Images | None = None,
    resume: bool = False,
    quiet: bool = False,
    say: Say | None = None,
) -> Outcome:
    """Train what `build` made.

    Args:
        module: see `build`.
        run: where it is written; None writes nothing. Of several processes only the first holds the RunDirectory;
            the others are given its path.
        probe_images: labelled images for the kNN probe, in place of the data set's own second split.
        resume: continue from the newest sound checkpoint of `run`, exactly where it was.
        quiet: no progress display.
        say: gets the sentences that a person should read; None prints them to stderr.

    Raises:
        SurniaError: what went wrong and what to do about it.
    """
    recipe = module.recipe
    say = module.say = say or (lambda sentence: print(sentence, file=sys.stderr, flush=True))
    run_path = run.path if isinstance(run, RunDirectory) else run
    run = run if isinstance(run, RunDirectory) else None
    heard = say if run is not None else lambda sentence: None  # one of several processes speaks for all
    start = resume_point(run_path / "checkpoints", heard) if resume and run_path else None
    done = checkpoint_step(start) or 0 if start else 0
    if run is not None and resume:
        run.rewind_metrics(done)
        set_aside_after(run.checkpoints, done)

    signals = StopSignals()
    with silenced():
        meter = Meter(run, quiet=quiet)
        watch = Watch(run, meter, say)
        probe = knn_probe(recipe, module.images, probe_images, run, lambda: signals.received is not None, say)
        callbacks: list[pl.Callback] = [meter, *([watch] if recipe.diagnostics else []), *([probe] if probe else [])]
        saver = None
        if run_path is not None:
            saver = Checkpoints(
                run_path / "checkpoints", every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, signals=signals
            )
            callbacks.append(saver)  # last: what the others do belongs to the step that is saved
        trainer = build_trainer(recipe, run_path, callbacks, done)
        train_with(trainer, module, start)
    module.method.eval()
    return Outcome(
        module=module,
        stopped=saver is not None and saver.stopped,
        exit_code=signals.exit_code if saver is not None and saver.stopped else 0,
        steps=trainer.global_step - meter.first_step,
        images_per_second=meter.overall_rate,
        terms=meter.terms,
        knn=probe.history if probe else [],
        health=watch.history,
        checkpoint=saver.saved if saver else None,
        bad_images=module.stream.loader.bad if module.stream else [],
    )


def build_trainer(recipe: Recipe, run: Path | None, callbacks: list[pl.Callback], done: int) -> pl.Trainer:
    """The run's trainer; `done` steps are behind it."""
    return make_trainer(
        callbacks,
        devices=recipe.devices,
        nodes=recipe.nodes,
        precision=recipe.precision,
        logger=tensorboard(run, done),
        accumulate=recipe.accumulate,
        sync_batchnorm=recipe.sync_batchnorm,
    )


def knn_probe(
    recipe: Recipe, images: Images, queries: Images | None, run: RunDirectory | None, stop: Callable[[], bool], say: Say
) -> KNNProbe | None:
    """The probe, if the images have labels and there is a second split to ask about; a split that is there but cannot
    be used is named."""
    if images.labels is None or not recipe.probe.every_epochs:
        return None
    if queries is None:
        try:
            queries = open_images(recipe.data, split="validation" if recipe.data.validation else "test")
        except NoSuchSplit:  # a plain folder has one
            return None
        except DataError as error:
            say(f"training goes on without the kNN probe: {error}")
            return None
    if queries.labels is None:
        return None
    return KNNProbe(images.labelled(), queries.labelled(), recipe.probe, run, stop)
