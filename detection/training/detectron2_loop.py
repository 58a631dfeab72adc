"""A stage of training in detectron2's own loop: its `DefaultTrainer`, with hooks for what both engines share.

Batches, losses, learning rates, progress, metrics, purity and checkpoints are those of Lightning's loop; the callbacks
that look after the last four ask little of a trainer, and are given that here. Processes are brought together as for
the other engine, once for all stages and their evaluations; detectron2's `launch` would start them anew for each.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detection.engines.detectron2.config import config_of
from detection.training.batches import Batch
from detection.training.callbacks import not_finite
from detection.training.module import StageModule, build_sgd, rate_factor
from detection.training.processes import everybodys
from sslcore.distributed import all_reduce_sum, rank, world_size
from sslcore.nn import sync_batch_norms
from sslcore.storage import load_checkpoint, save_checkpoint
from sslcore.training.machine import device_here, processes_here
from sslcore.training.random_state import random_state, restore_random_state


def fit(module: StageModule, callbacks: list[pl.Callback], start: Path | None, logger: Any) -> int:
    """Trains a stage to its end, or until a callback stops it.

    Args:
        module: the stage; its engine is trained in place.
        callbacks: Lightning's, in their order.
        start: checkpoint to go on from; None: from the beginning.
        logger: Lightning's, or False.

    Returns:
        Steps of the stage that are done.

    Raises:
        SurniaError: what the network computes is not finite, or the checkpoint cannot be read.
    """
    if world_size() > 1:
        if comm._LOCAL_PROCESS_GROUP is None:  # detectron2's `launch` would have made it, and it has no public question
            comm.create_local_process_group(processes_here(module.recipe.devices))
        # Else a process's few images would be normalised among themselves.
        if module.recipe.network.norm == "batch":
            gpus = torch.cuda.is_available()
            (nn.SyncBatchNorm.convert_sync_batchnorm if gpus else sync_batch_norms)(module.engine)
    with _silenced():
        trainer = StageTrainer(module, callbacks, logger)
        if start is not None:
            trainer.take_up(start)
        try:
            trainer.train()
        except _StopAsked:
            pass
        except FloatingPointError as error:  # of detectron2's proposals or of our head, which look at every step
            raise not_finite("the network's numbers", module, trainer.iter + 1) from error
    return trainer.done


class StageTrainer(DefaultTrainer):
    """detectron2's trainer with a stage's model, batches, optimiser, schedule and hooks in the place of its own.

    Args:
        stage: what is trained, and how.
        callbacks, logger: see `fit`.

    Attributes:
        done: steps of the stage that are done.
    """

    def __init__(self, stage: StageModule, callbacks: list[pl.Callback], logger: Any) -> None:
        self.stage = stage.to(device_here())
        self.callbacks = callbacks
        self.logger = logger or None
        self.done = 0
        self.random: dict[str, Any] | None = None
        cfg = config_of(stage.recipe.network)
        cfg.SOLVER.AMP.ENABLED = stage.recipe.precision == "16"
        # Not DefaultTrainer's own beginning, which would give every process a GPU, also where there is none, and set up
        # a log and checkpoints that are kept otherwise here.
        TrainerBase.__init__(self)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        own = [self.stage.device.index] if self.stage.device.type == "cuda" else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=own)
        simple = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        # What a step lost is read by the meter, every so many steps; else the host would wait for the GPU at each.
        never = stage.settings.steps + 1
        self._trainer = simple(model, self.build_train_loader(cfg), optimizer, gather_metric_period=never)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.cfg = cfg
        self.start_iter, self.max_iter = 0, stage.settings.steps
        self.register_hooks(self.build_hooks())

    # --- what the trainer asks of its subclasses

    def build_model(self, cfg: Any) -> nn.Module:
        return StageLosses(self.stage)

    def build_optimizer(self, cfg: Any, model: nn.Module) -> Optimizer:
        optimizer = build_sgd(model, self.stage.recipe, self.stage.settings)
        if self.stage.recipe.clip_norm:
            # After a gradient scaler has undone its scaling, which it does before it calls the step.
            optimizer.register_step_pre_hook(partial(_clip, self.stage.recipe.clip_norm))
        return optimizer

    def build_lr_scheduler(self, cfg: Any, optimizer: Optimizer) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: rate_factor(step, self.stage.settings))

    def build_train_loader(self, cfg: Any) -> "StageBatches":
        return StageBatches(self.stage)

    def build_hooks(self) -> list[HookBase]:
        return [hooks.LRScheduler(), AfterStep()]

    # --- what must survive

    def take_up(self, checkpoint: Path) -> None:
        """Everything as it was when the checkpoint was saved."""
        loaded = load_checkpoint(checkpoint)
        state = loaded.train
        self.stage.load_state_dict(loaded.model)
        self.stage.stream.load_state_dict(state["stream"])
        self.optimizer.load_state_dict(state["optimizer_states"][0])
        self.scheduler.load_state_dict(state["lr_schedulers"][0])
        if "grad_scaler" in state:
            self._trainer.grad_scaler.load_state_dict(state["grad_scaler"])
        for callback in self.callbacks:
            if callback.state_key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.state_key])
        self.random = state["random"][rank() % len(state["random"])]  # there may have been fewer processes
        self.start_iter = self.done = state["global_step"]

    def save(self, folder: Path) -> None:
        """A checkpoint; every process must call it, and the first one writes."""
        callbacks = {each.state_key: state for each in self.callbacks if (state := each.state_dict())}
        # detectron2 samples anchors from torch's generator, which each process has moved on as its images asked.
        drawn = [state for (state,) in everybodys([random_state()])]
        if rank():
            return
        train = {
            "global_step": self.done,
            "optimizer_states": [self.optimizer.state_dict()],
            "lr_schedulers": [self.scheduler.state_dict()],
            "stream": self.stage.stream.state_dict(),
            "callbacks": callbacks,
            "random": drawn,
        }
        if self.cfg.SOLVER.AMP.ENABLED:
            train["grad_scaler"] = self._trainer.grad_scaler.state_dict()
        info = {**self.stage.description, "step": self.done}
        save_checkpoint(folder, model=self.stage.state_dict(), info=info, train=train)


class StageLosses(nn.Module):
    """The model that detectron2's trainer sees: a batch to its losses.

    Attributes:
        engine: the detector; the stage itself holds it too, and is kept out of this module's parameters.
        terms: detached losses of the last step, and their sum as "loss".
    """

    def __init__(self, stage: StageModule) -> None:
        super().__init__()
        self.engine = stage.engine
        self._stage = [stage]
        self.terms: dict[str, Tensor] = {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        (stage,) = self._stage
        mixed = stage.recipe.precision == "bf16"
        with torch.autocast(stage.device.type, torch.bfloat16) if mixed else _nothing():
            losses = {name: loss.float() for name, loss in stage.losses(batch).items()}
        total = torch.stack(list(losses.values())).sum().detach()
        self.terms = {"loss": total, **{name: loss.detach() for name, loss in losses.items()}}
        return losses


class StageBatches:
    """A stage's batches, augmented, on the device that trains; begins where the stream is when it is first asked."""

    def __init__(self, stage: StageModule) -> None:
        self.stage = stage
        self.last: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.stage.stream:
            self.last = self.stage.on_after_batch_transfer(batch.to(device_here()), 0)
            yield self.last


class AfterStep(HookBase):
    """After each step: memory, then the callbacks."""

    trainer: StageTrainer

    def before_train(self) -> None:
        # In the place of Lightning's trainer, of which callbacks use no more than a view has.
        self.view = cast(pl.Trainer, _View(self.trainer))
        if self.trainer.random is not None:  # as late as possible: building all this drew random numbers
            restore_random_state(self.trainer.random)
        for callback in self.trainer.callbacks:
            callback.on_train_start(self.view, self.trainer.stage)

    def after_step(self) -> None:
        trainer = self.trainer
        trainer.done = trainer.iter + 1
        trainer.stage.remember()
        model = trainer.model.module if world_size() > 1 else trainer.model
        for callback in trainer.callbacks:
            callback.on_train_batch_end(
                self.view, trainer.stage, {"terms": model.terms}, trainer.data_loader.last, trainer.iter
            )
        if self.view.should_stop:
            raise _StopAsked

    def after_train(self) -> None:
        for callback in self.trainer.callbacks:
            callback.on_train_end(self.view, self.trainer.stage)


class _View:
    """What the callbacks ask of Lightning's trainer."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.should_stop = False
        self.logger = trainer.logger
        self.world_size = world_size()
        self.is_global_zero = rank() == 0
        self.optimizers = [trainer.optimizer]
        self.strategy = self

    @property
    def global_step(self) -> int:
        return int(self._trainer.done)

    def reduce_boolean_decision(self, decision: bool, *, all: bool) -> bool:
        """Whether all processes, or any of them, decide so."""
        votes = int(all_reduce_sum(torch.tensor(int(decision), device=device_here()))[0])
        return votes == world_size() if all else votes > 0

    def save_checkpoint(self, path: Path) -> None:
        self._trainer.save(path)


class _StopAsked(Exception):
    """A callback asked to stop; the loop knows no other way to end early."""


def _clip(longest: float, optimizer: Optimizer, *_: Any) -> None:
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], longest)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _silenced() -> Iterator[None]:
    """detectron2 logs each stage's beginning and end; what a person should read, others say here."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before, silent = [logger.propagate for logger in loggers], logging.NullHandler()
    for logger in loggers:
        logger.addHandler(silent)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before):
            logger.removeHandler(silent)
            logger.propagate = propagate
