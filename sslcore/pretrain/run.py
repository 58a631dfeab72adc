"""`pretrain`: from a recipe to a run directory with checkpoints, metrics and a backbone."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy

from sslcore.augment import EvalView, RandomView, ViewSpec
from sslcore.errors import CheckpointError, ConfigError, DataError
from sslcore.nn import Backbone, build_backbone
from sslcore.pretrain.backbones import eval_resize, load_backbone
from sslcore.pretrain.callbacks import KNNProbe, Meter, Say, Watch
from sslcore.pretrain.checkpoints import Checkpoints, FolderCheckpoints
from sslcore.pretrain.data import open_images
from sslcore.pretrain.diagnostics import Health
from sslcore.pretrain.loop import Images, Plan, Pretraining
from sslcore.pretrain.methods import build_method
from sslcore.pretrain.recipe import PCLSettings, Recipe, ViewSettings
from sslcore.storage import (
    RunDirectory,
    StopSignals,
    checkpoint_step,
    list_checkpoints,
    newest_checkpoint,
    set_aside_after,
)

PRECISION: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        module: the trained module; `module.method.encoder` is the backbone.
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

    module: Pretraining
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


def build(recipe: Recipe, images: Images | None = None) -> Pretraining:
    """The module that a recipe describes: data opened, networks made from the recipe's seed.

    Args:
        recipe: see `sslcore.pretrain.recipe`.
        images: used in place of what `recipe.data` names.

    Raises:
        DataError: the data cannot be used, or does not fit the method.
        ConfigError: the recipe does not fit the data or this machine.
    """
    if images is None:
        images = open_images(recipe.data, split="train", device=training_device(), processes=processes_here(recipe))
    check_fit(recipe, images)
    if recipe.method.needs_labels:
        images = images.labelled()
    torch.manual_seed(recipe.seed)
    backbone_settings = recipe.backbone
    size = recipe.views[0].size
    encoder = build_backbone(
        backbone_settings.name, stem=backbone_settings.stem, width=backbone_settings.width,
        in_channels=images.channels, size=size,
    )  # fmt: skip
    if backbone_settings.weights:
        start_from(encoder, backbone_settings.weights)
    description = {
        "method": recipe.method.name,
        "backbone": backbone_settings.model_dump(mode="json"),
        "in_channels": images.channels,
        "mean": list(images.mean),
        "std": list(images.std),
        "size": size,
    }
    views = [random_view(settings, images) for settings in recipe.views for _ in range(settings.count)]
    eval_view = EvalView(size=size, mean=images.mean, std=images.std, resize=eval_resize(size))
    return Pretraining(build_method(recipe.method, encoder), images, recipe, views, eval_view, description)


def random_view(settings: ViewSettings, images: Images) -> RandomView:
    return RandomView(ViewSpec(**settings.model_dump(exclude={"count"})), mean=images.mean, std=images.std)


def start_from(encoder: Backbone, source: str) -> None:
    """Weights of a run or a file into a new backbone; both must be the same network."""
    weights = load_backbone(source).backbone.state_dict()
    ours = encoder.state_dict()
    unlike = [key for key in ours if key not in weights or weights[key].shape != ours[key].shape]
    unlike += [key for key in weights if key not in ours]
    if unlike:
        found, wanted = (tuple(t[unlike[0]].shape) if unlike[0] in t else "missing" for t in (weights, ours))
        raise ConfigError(
            f"backbone.weights: {source} is another network than backbone.name, stem, width and the images ask for: "
            f"{len(unlike)} tensors differ, the first is {unlike[0]}, {found} there and {wanted} here"
        )
    encoder.load_state_dict(weights)


def training_device() -> torch.device:
    """Where this process will train; each of several on a machine has a GPU of its own."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def processes_here(recipe: Recipe) -> int:
    """Processes on this machine."""
    if recipe.devices != "auto":
        return recipe.devices
    return torch.cuda.device_count() if torch.cuda.is_available() else 1


def check_fit(recipe: Recipe, images: Images) -> None:
    """Everything about recipe, data and machine that can be known before the first step. All problems at once."""
    method, problems = recipe.method, []
    if len(images) < recipe.batch_size:
        raise DataError(
            f"{recipe.data.path or recipe.data.kind} holds {len(images)} images, fewer than one batch: set batch_size "
            f"to {len(images)} or less"
        )
    if method.needs_labels and images.labels is None:
        problems.append(
            f"method.name: {method.name} needs labels, and these images have none; put each class in its own folder"
        )
    if isinstance(method, PCLSettings) and max(method.clusters) >= len(images):
        problems.append(
            f"method.clusters: {max(method.clusters)} clusters need more images than the {len(images)} there are"
        )
    if recipe.precision == "16" and not torch.cuda.is_available():
        problems.append("precision: 16 needs a CUDA GPU, and there is none here; use bf16 or 32")
    if recipe.sync_batchnorm and not torch.cuda.is_available():
        problems.append("sync_batchnorm: needs CUDA GPUs, and there is none here; leave it false")
    processes = processes_here(recipe) * recipe.nodes
    if recipe.batch_size % processes:
        problems.append(f"batch_size: {recipe.batch_size} does not divide among {processes} processes")
    elif splits := recipe.batch_size // processes % getattr(method, "norm_splits", 1):
        problems.append(
            f"method.norm_splits: a process's batch of {recipe.batch_size // processes} does not divide into "
            f"{getattr(method, 'norm_splits', 1)} equal parts ({splits} left over)"
        )
    if Plan(recipe, len(images)).updates == 0:
        problems.append(
            f"accumulate: {recipe.accumulate} batches make an optimiser step, and {recipe.epochs} epochs have only "
            f"{recipe.epochs * (len(images) // recipe.batch_size)}; set it lower, or epochs higher"
        )
    if problems:
        raise ConfigError(*problems)


def is_first_process() -> bool:
    """Before any process group exists: torchrun, Lightning and SLURM all tell the rank in the environment."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def pretrain(
    recipe: Recipe,
    run: RunDirectory | Path | None = None,
    *,
    images: Images | None = None,
    probe_images: Images | None = None,
    resume: bool = False,
    quiet: bool = False,
    say: Say = lambda sentence: print(sentence, file=sys.stderr, flush=True),
) -> Outcome:
    """Train what the recipe says, and leave checkpoints, metrics and TensorBoard files in the run directory.

    Args:
        recipe: see `sslcore.pretrain.recipe`.
        run: where it is written; None writes nothing. Of several processes only the first holds the RunDirectory;
            the others are given its path.
        images: training images in place of what `recipe.data` names.
        probe_images: labelled images for the kNN probe, in place of the data set's own second split.
        resume: continue from the newest sound checkpoint of `run`, exactly where it was.
        quiet: no progress display.
        say: gets the diagnostics' sentences.

    Raises:
        SurniaError: what went wrong and what to do about it.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    module = build(recipe, images)
    module.say = say
    run_path = run.path if isinstance(run, RunDirectory) else run
    run = run if isinstance(run, RunDirectory) else None
    start = resume_point(run_path / "checkpoints", say) if resume and run_path else None
    done = checkpoint_step(start) or 0 if start else 0
    if run is not None and resume:
        run.rewind_metrics(done)
        set_aside_after(run.checkpoints, done)

    signals = StopSignals()
    with silenced():
        meter = Meter(run, quiet=quiet)
        watch = Watch(run, meter, say)
        probe = knn_probe(recipe, module.images, probe_images, run, stop=lambda: signals.received is not None)
        callbacks: list[pl.Callback] = [meter, *([watch] if recipe.diagnostics else []), *([probe] if probe else [])]
        saver = None
        if run_path is not None:
            saver = Checkpoints(
                run_path / "checkpoints", every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, signals=signals
            )
            callbacks.append(saver)  # last: what the others do belongs to the step that is saved
        trainer = build_trainer(recipe, run_path, callbacks, done)
        trainer.fit(module, ckpt_path=str(start) if start else None)

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


def resume_point(folder: Path, say: Say) -> Path | None:
    """The newest sound checkpoint; None, said in words, if the run was ended before its first."""
    start = newest_checkpoint(folder, report=say)
    if start is None and list_checkpoints(folder):
        raise CheckpointError(
            f"no checkpoint in {folder} is sound, so the run cannot be continued; restore one of them from a copy, or "
            "start a new run"
        )
    if start is None:
        say("the run was ended before its first checkpoint: it begins anew")
    return start


def build_trainer(recipe: Recipe, run: Path | None, callbacks: list[pl.Callback], done: int) -> pl.Trainer:
    """A Lightning trainer that leaves data, checkpoints, progress and signals to us; `done` steps are behind it."""
    on_gpu = torch.cuda.is_available()
    processes = processes_here(recipe)
    strategy: Any = "auto"
    if processes * recipe.nodes > 1:
        # Buffers are queues and running statistics: every process computes them itself, none need be sent each step.
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return pl.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=processes,
        num_nodes=recipe.nodes,
        strategy=strategy,
        precision=PRECISION[recipe.precision],
        max_epochs=1,
        accumulate_grad_batches=recipe.accumulate,
        sync_batchnorm=recipe.sync_batchnorm,
        use_distributed_sampler=False,
        callbacks=callbacks,
        plugins=[FolderCheckpoints()],
        # What was written after the checkpoint that is resumed does not count.
        logger=TensorBoardLogger(run, name="tensorboard", version="", purge_step=done or None) if run else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def knn_probe(
    recipe: Recipe, images: Images, queries: Images | None, run: RunDirectory | None, stop: Callable[[], bool]
) -> KNNProbe | None:
    """The probe, if the images have labels and there is a second split to ask about."""
    if images.labels is None or not recipe.probe.every_epochs:
        return None
    if queries is None:
        try:
            queries = open_images(recipe.data, split="validation" if recipe.data.validation else "test")
        except DataError:  # a plain folder has one split
            return None
    if queries.labels is None:
        return None
    return KNNProbe(images.labelled(), queries.labelled(), recipe.probe, run, stop)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Without Lightning's advice about logging intervals, workers and eval mode: those matters are settled here."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        try:
            yield
        finally:
            logger.setLevel(level)
