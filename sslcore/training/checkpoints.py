"""When checkpoints are written, and how: Lightning's dictionary in the folders of `sslcore.storage`."""

from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
from pytorch_lightning.plugins.io import CheckpointIO

from sslcore.errors import CheckpointError
from sslcore.storage import StopSignals, load_checkpoint, prune_checkpoints, save_checkpoint, step_folder
from sslcore.training.finite import all_finite
from sslcore.training.resumable import ResumableModule


class FolderCheckpoints(CheckpointIO):
    """Checkpoints without pickle: tensors as safetensors, the rest as JSON, hashes written last."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        train = dict(checkpoint)
        save_checkpoint(Path(path), model=train.pop("state_dict"), info=train.pop("surnia"), train=train)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        loaded = load_checkpoint(Path(path))
        return {**loaded.train, "state_dict": loaded.model, "surnia": loaded.info}

    def remove_checkpoint(self, path: Any) -> None:
        raise CheckpointError("checkpoints are pruned by Surnia alone, after the newest one has verified")


class Numbered(Protocol):
    """A batch that knows its place in the run."""

    step: int


class Checkpoints(pl.Callback):
    """Saves every `every` optimiser steps, at the end of the run, and when a signal asks to stop.

    Signals only set a flag; this polls it after each batch, and all processes agree before any of them stops. A run
    stops between optimiser steps, never inside an accumulation, because gradients are not saved.
    """

    def __init__(self, folder: Path, *, every: int, keep: int, signals: StopSignals) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.signals = signals
        self.stopped = False
        self.saved: Path | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # Not before: Lightning installs a handler of its own, which sends a collective from within the signal and
        # stops different processes at different steps. Ours takes its place while the run trains.
        self.signals.__enter__()

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.signals.__exit__(None, None, None)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.signals.__exit__(None, None, None)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Numbered, batch_idx: int
    ) -> None:
        done = batch.step + 1
        module: ResumableModule = pl_module
        if done % module.accumulate:
            return
        stop = self.signals.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop or done == module.batches or trainer.global_step % self.every == 0:
            self.save(trainer, pl_module)
        if stop:
            self.stopped = True
            trainer.should_stop = True

    def save(self, trainer: pl.Trainer, module: Any) -> None:
        # Weights that are not finite are not saved: the sound checkpoint before them is worth more.
        if not trainer.strategy.reduce_boolean_decision(all_finite(module.parameters()), all=True):
            return
        path = step_folder(self.folder, trainer.global_step)
        module.before_checkpoint()
        if path != self.saved:  # a folder of that name may be there all the same, and damaged: it is replaced
            trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            prune_checkpoints(self.folder, keep=self.keep)
        self.saved = path
