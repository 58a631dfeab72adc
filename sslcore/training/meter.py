"""What a person and a file are told of a training loop as it goes on."""

import time
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from sslcore.distributed import all_reduce_sum, world_size
from sslcore.storage import RunDirectory
from sslcore.training.display import Display
from sslcore.training.finite import check_finite
from sslcore.training.metrics import log
from sslcore.training.running_means import RunningMeans


class LossMeter(pl.Callback):
    """Losses, rate and learning rate: to the metrics file and the logger every `every` steps, to a person all the time.

    Losses are added up on the device and read only when they are written, so that the device never waits for the host.
    Training steps return `{"terms": {name: scalar, ...}}` with a "loss" among them. What its steps are, a loop says by
    the methods from `length` on.

    Args:
        run: None in all processes but the first.
        every: steps between two lines of the file.
        quiet: no progress display.

    Attributes:
        terms: (step, mean) pairs of each loss.
        first_step: optimiser steps that were done when this process began.
    """

    remedy = "lower the learning rate"
    """What to do where a loss is not finite."""

    def __init__(self, run: RunDirectory | None, *, every: int = 20, quiet: bool = False) -> None:
        self.run, self.every, self.quiet = run, every, quiet
        self.terms: dict[str, list[tuple[int, float]]] = {}
        self.first_step = 0
        self._means = RunningMeans()
        self._batches = 0
        self._since = 0.0
        self._display: Display | None = None

    # --- what a loop says of itself

    def length(self, module: Any) -> int:
        """Its steps."""
        raise NotImplementedError

    def done(self, trainer: pl.Trainer, module: Any, batch: Any) -> int | None:
        """Its steps that are done after a batch; None amid one that takes several batches."""
        raise NotImplementedError

    def step(self, module: Any, done: int) -> int:
        """The number that a step bears in the metrics."""
        return done

    def epoch(self, module: Any, batch: Any) -> float:
        """How far it is after a batch."""
        raise NotImplementedError

    def label(self, module: Any, epoch: float | None) -> str:
        """What the display calls it; at the beginning there is no epoch yet."""
        raise NotImplementedError

    def extra(self, module: Any, batch: Any) -> dict[str, float]:
        """More to write beside the losses; every process is asked."""
        return {}

    def columns(self, module: Any) -> dict[str, Any]:
        """Where a line of the file belongs."""
        return {}

    def clock(self, module: Any) -> float:
        """Seconds of training since some time."""
        return time.perf_counter()

    # --- Lightning's calls

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._since = self.clock(pl_module)
        self.first_step = trainer.global_step
        if trainer.is_global_zero and not self.quiet:
            what = self.label(pl_module, None)
            self._display = Display(self.length(pl_module), done=trainer.global_step, what=what)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._means.add(outputs["terms"])
        self._batches += 1
        done = self.done(trainer, pl_module, batch)
        if done is not None and (done % self.every == 0 or done in (1, self.length(pl_module))):
            self._write(trainer, pl_module, batch, done)

    def _write(self, trainer: pl.Trainer, module: Any, batch: Any, done: int) -> None:
        now = self.clock(module)
        values = self._means.take(over=_mean_of_processes)
        rate = self._batches * module.recipe.batch_size / max(now - self._since, 1e-9)
        self._batches, self._since = 0, now
        step, epoch = self.step(module, done), self.epoch(module, batch)
        check_finite(values, f"before step {step} (epoch {epoch:.1f})", remedy=self.remedy)
        for name, value in values.items():
            self.terms.setdefault(name, []).append((step, value))
        rates = {"learning_rate": trainer.optimizers[0].param_groups[0]["lr"], "images_per_second": rate}
        log(trainer, self.run, step, self.columns(module), **values, **rates, **self.extra(module, batch))
        if self._display:
            speed = f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
            self._display.update(done, f"{self.label(module, epoch)}  loss {values['loss']:.3f}  {speed} images/s")

    def state_dict(self) -> dict[str, Any]:
        # A resumed run logs the same means as one that was not stopped in the middle of a window. Every process is
        # asked for its state and gets the first one's back, which therefore is the mean of all.
        return self._means.state(over=_mean_of_processes)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._means.restore(state)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._display:
            self._display.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self._display:
            self._display.close()


def _mean_of_processes(values: Tensor) -> Tensor:
    return all_reduce_sum(values)[0] / world_size()
