"""What watches a stage: progress for a person, metrics for a file, and the purity of pseudo-labels."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from detection.openworld.purity import KINDS, purity, purity_counts, shares
from detection.training.augmenting import flip_boxes
from detection.training.batches import Batch
from detection.training.truth import Truth
from sslcore.distributed import all_reduce_sum, rank, world_size
from sslcore.storage import RunDirectory
from sslcore.training.display import Display
from sslcore.training.metrics import check_finite

DIVERGED = "lower the stage's lr, lengthen its warmup, or use precision 32"


class Meter(pl.Callback):
    """Losses, rate and learning rate: to the metrics file and the logger every `every` steps, to a person all the time.

    Losses are added up on the device and read only when they are written, so that the device never waits for the host.

    Attributes:
        terms: (step of the run, mean) pairs of each loss.
        seconds: spent on this stage's steps, in all the sessions that worked on it.
    """

    def __init__(
        self, run: RunDirectory | None, purity: "PurityWatch | None", *, every: int = 20, quiet: bool = False
    ) -> None:
        self.run, self.purity = run, purity
        self.every, self.quiet = every, quiet
        self.terms: dict[str, list[tuple[int, float]]] = {}
        self.first_step = 0
        self.seconds = 0.0
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._since = self._lap = 0.0
        self._display: Display | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._since = self._lap = time.perf_counter()
        self.first_step = trainer.global_step
        if trainer.is_global_zero and not self.quiet:
            self._display = Display(pl_module.batches, done=trainer.global_step, what=pl_module.place.name)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        for name, value in outputs["terms"].items():
            self._sums[name] = self._sums.get(name, 0) + value
        self._batches += 1
        now = time.perf_counter()
        self.seconds, self._lap = self.seconds + now - self._lap, now
        done = batch.step + 1
        if done % self.every == 0 or done in (1, pl_module.batches):
            self._write(trainer, pl_module, done, now)

    def _write(self, trainer: pl.Trainer, module: Any, done: int, now: float) -> None:
        names = list(self._sums)
        means = torch.stack([self._sums[name].float() / self._batches for name in names])
        values = dict(zip(names, (all_reduce_sum(means)[0] / world_size()).tolist(), strict=True))
        rate = self._batches * module.recipe.batch_size / max(now - self._since, 1e-9)
        self._sums, self._batches, self._since = {}, 0, now
        step = module.place.offset + done
        check_finite(values, step, done / module.batches, remedy=DIVERGED)
        for name, value in values.items():
            self.terms.setdefault(name, []).append((step, value))
        record = {**values, "learning_rate": trainer.optimizers[0].param_groups[0]["lr"], "images_per_second": rate}
        if self.purity is not None:
            record |= self.purity.window()
        if self.run is not None and trainer.is_global_zero:
            where = {"task": module.place.task, "stage": module.place.stage}
            self.run.log_metrics(step, **where, **record)
            if trainer.logger is not None:
                trainer.logger.log_metrics(record, step=step)
        if self._display:
            self._display.update(done, f"{module.place.name}  loss {values['loss']:.3f}  {rate:,.1f} images/s")

    def state_dict(self) -> dict[str, Any]:
        # A resumed run logs the same means as one that was not stopped in the middle of a window. Every process is
        # asked for its state and gets the first one's back, which therefore is the mean of all.
        sums = {name: all_reduce_sum(value)[0] / world_size() for name, value in self._sums.items()}
        return {"sums": sums, "batches": self._batches, "terms": self.terms, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._batches, self.seconds = state["sums"], state["batches"], state["seconds"]
        self.terms = {name: [(int(step), value) for step, value in pairs] for name, pairs in state["terms"].items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._display:
            self._display.close()


class PurityWatch(pl.Callback):
    """Counts what lies under the pseudo-unknowns, and under as many proposals chosen at random among the same.

    Attributes:
        totals: (2, 5) counts of the stage in this process, up to the current window: of pseudo-unknowns and of random
            proposals, by `KINDS`.
    """

    def __init__(self, truth: Truth, start: float) -> None:
        self.truth = truth
        self.start = start  # share of the stage after which labelling begins
        self.totals = torch.zeros(2, len(KINDS), dtype=torch.int64)
        self._window = torch.zeros_like(self.totals)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.totals, self._window = self.totals.to(pl_module.device), self._window.to(pl_module.device)
        pl_module.watchers.append(lambda batch, output: self._look(pl_module, batch, output))

    @torch.no_grad()
    def _look(self, module: Any, batch: Batch, output: Any) -> None:
        """Reads nothing back from the device."""
        if batch.step / module.batches < self.start:
            return
        for i, sample in enumerate(output.samples):
            boxes, kinds = self.truth.of(batch.targets[i].key)
            if batch.mirrored[i]:
                boxes = flip_boxes(boxes, batch.images[i].shape[-1])
            boxes = (boxes * torch.tensor([*output.scales[i], *output.scales[i]])).to(sample.boxes)
            self._window += purity_counts(sample, boxes, kinds.to(boxes.device))

    def window(self) -> dict[str, float]:
        """Shares since the last call, of all processes; nothing if no label was given."""
        self.totals += self._window
        chosen, random = (shares(counts) for counts in all_reduce_sum(self._window)[0].cpu())
        self._window = torch.zeros_like(self._window)
        named = {"purity": chosen["unknown"], "purity_of_random": random["unknown"], "pseudo_on_old": chosen["old"]}
        return {name: value for name, value in named.items() if value is not None}

    def totalled(self) -> dict[str, Any]:
        """What `purity` says of the whole stage; every process must call this."""
        return purity(all_reduce_sum(self.totals + self._window)[0].cpu())

    def state_dict(self) -> dict[str, Any]:
        # Every process is asked; what is kept is the first one's, and is given to it alone.
        totals, window = all_reduce_sum(self.totals, self._window)
        return {"totals": totals.clone(), "window": window.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if rank() == 0:
            self.totals, self._window = state["totals"], state["window"]


def stage_record(train: dict[str, Any]) -> dict[str, Any]:
    """What results say of a stage, from the state in its last checkpoint."""
    states = train["callbacks"]
    meter, watched = states[Meter.__qualname__], states.get(PurityWatch.__qualname__)
    return {
        "seconds": meter["seconds"],
        "purity": purity(watched["totals"] + watched["window"]) if watched else None,
        "loss": {name: pairs[-1][1] for name, pairs in meter["terms"].items()},
    }
