"""The Lightning trainer of every loop here: it leaves data, checkpoints, progress and signals to us."""

import subprocess
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from sslcore.nn import sync_batch_norms
from sslcore.training.checkpoints import FolderCheckpoints
from sslcore.training.lightning import PRECISION
from sslcore.training.machine import processes_here
from sslcore.training.together import ends_together


def make_trainer(
    callbacks: list[pl.Callback],
    *,
    devices: int | Literal["auto"],
    nodes: int,
    precision: str,
    logger: Any = False,
    accumulate: int = 1,
    clip_norm: float = 0.0,
    sync_batchnorm: bool = False,
) -> pl.Trainer:
    """A trainer whose only epoch is as long as the loop.

    Args:
        callbacks: in the order in which they are called.
        devices, nodes, precision: as recipes have them.
        logger: Lightning's, see `tensorboard`.
        accumulate: batches an optimiser step.
        clip_norm: longest allowed gradient; 0: any.
        sync_batchnorm: batch norm over all processes.
    """
    processes = processes_here(devices)
    strategy: Any = "auto"
    if processes * nodes > 1:
        # Buffers are queues, prototypes and statistics: every process computes them itself, none need be sent.
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return pl.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=processes,
        num_nodes=nodes,
        strategy=strategy,
        precision=PRECISION[precision],
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip_norm or None,
        sync_batchnorm=sync_batchnorm and torch.cuda.is_available(),
        use_distributed_sampler=False,
        callbacks=callbacks,
        plugins=[FolderCheckpoints(), *([_SyncOnCPU()] if sync_batchnorm and not torch.cuda.is_available() else [])],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


class _SyncOnCPU(LayerSync):
    """Batch norm over all processes where torch's own, which Lightning would take, cannot do it."""

    def apply(self, model: nn.Module) -> nn.Module:
        return sync_batch_norms(model)

    def revert(self, model: nn.Module) -> nn.Module:
        return model  # alone, and where nothing is trained, it is a batch norm like any other


def fit(trainer: pl.Trainer, module: pl.LightningModule, start: Path | None) -> None:
    """Trains from the checkpoint `start`, or from the beginning.

    Raises:
        KeyboardInterrupt: Ctrl-C, which Lightning would answer by ending the process: whoever called could neither say
            what is left nor note in the run that it was stopped.
        LostProcess: another process has failed.
    """
    with ends_together(lambda: started_by(trainer)):
        try:
            trainer.fit(module, ckpt_path=str(start) if start else None)
        except SystemExit as leaving:
            if isinstance(leaving.__context__, KeyboardInterrupt):
                raise leaving.__context__ from None
            raise


def started_by(trainer: pl.Trainer) -> list[subprocess.Popen[bytes]]:
    """The other processes on this machine, if this trainer started them."""
    return getattr(trainer.strategy.launcher, "procs", [])


def tensorboard(folder: Path | None, done: int) -> TensorBoardLogger | Literal[False]:
    """Lightning's logger; what was written after step `done`, before a stop, does not count. False without a folder."""
    if folder is None:
        return False
    return TensorBoardLogger(folder, name="tensorboard", version="", purge_step=done or None)
