"""What watches a run: progress for a person, metrics for a file, a kNN probe, and diagnostics that speak up."""

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sslcore.distributed import all_reduce_sum, world_size
from sslcore.errors import DataError
from sslcore.pretrain.data import iterate_eval
from sslcore.pretrain.diagnostics import Health, measure_health, verdict
from sslcore.pretrain.loop import Images, Pretraining
from sslcore.pretrain.method import Batch
from sslcore.pretrain.probes.knn import knn_accuracy
from sslcore.pretrain.recipe import ProbeSettings
from sslcore.storage import RunDirectory
from sslcore.training.display import Display
from sslcore.training.metrics import check_finite, log
from sslcore.training.resuming import Say

DIVERGED = "lower optimizer.lr, lengthen optimizer.warmup_epochs, or use precision 32"


class Meter(pl.Callback):
    """Loss, rate and learning rate: to the metrics file and the logger every `every` updates, to a person all the time.

    The loss is added up on the device and read only when it is written, so that the device never waits for the host.
    `overall_rate` is images a second over all batches but the first, which pays for what is made once; evaluations are
    left out of it.
    """

    def __init__(self, run: RunDirectory | None, *, every: int = 20, quiet: bool = False) -> None:
        self.run = run
        self.every = every
        self.quiet = quiet
        self.terms: dict[str, list[tuple[int, float]]] = {}
        self.first_step = 0
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}  # by term: one that begins after a warm-up is no mean over the batches before
        self._batches = 0
        self._since = 0.0
        self._first_end: float | None = None
        self._count = 0
        self.overall_rate = 0.0
        self._display: Display | None = None

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, loss) pairs."""
        return self.terms.get("loss", [])

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._since = time.perf_counter() - pl_module.paused
        self.first_step = trainer.global_step
        if trainer.is_global_zero and not self.quiet:
            self._display = Display(pl_module.plan.updates, done=trainer.global_step, what="pretraining")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        for name, value in outputs["terms"].items():
            self._sums[name] = self._sums.get(name, 0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._batches += 1
        now = time.perf_counter() - pl_module.paused
        if self._first_end is None:
            self._first_end = now
        else:
            self._count += pl_module.recipe.batch_size
            self.overall_rate = self._count / (now - self._first_end)
        updates, accumulate = trainer.global_step, pl_module.recipe.accumulate
        if (batch.step + 1) % accumulate:
            return
        if not (updates % self.every == 0 or updates in (1, pl_module.plan.updates)):
            return

        names = list(self._sums)
        means = torch.stack([self._sums[name].float() / self._counts[name] for name in names])
        values = dict(zip(names, (all_reduce_sum(means)[0] / world_size()).tolist(), strict=True))
        rate = self._batches * pl_module.recipe.batch_size / (now - self._since)
        self._sums, self._counts, self._batches, self._since = {}, {}, 0, now
        epoch = (batch.step + 1) / pl_module.plan.steps_per_epoch
        check_finite(values, updates, epoch, remedy=DIVERGED)
        for name, value in values.items():
            self.terms.setdefault(name, []).append((updates, value))
        record = {**values, "learning_rate": trainer.optimizers[0].param_groups[0]["lr"], "images_per_second": rate}
        log(trainer, self.run, updates, epoch=epoch, **record)
        if self._display:
            text = f"epoch {epoch:.1f}  loss {values['loss']:.3f}  {rate:,.0f} images/s"
            self._display.update(updates, text)

    def state_dict(self) -> dict[str, Any]:
        # A resumed run logs the same means as one that was not stopped in the middle of a window.
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._counts = state["sums"], state["counts"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._display:
            self._display.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self._display:
            self._display.close()


class EpochCallback(pl.Callback):
    """Base of what happens every few epochs, after the optimiser step that completes the epoch."""

    every_epochs = 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        done, plan = batch.step + 1, pl_module.plan
        epochs, rest = divmod(done, plan.steps_per_epoch)
        last = done == plan.batches
        if self.every_epochs and (last or (rest == 0 and epochs % self.every_epochs == 0)):
            began, training = time.perf_counter(), pl_module.method.training
            pl_module.method.eval()
            with torch.no_grad():
                self.at_epoch(trainer, pl_module, batch, done / plan.steps_per_epoch)
            pl_module.method.train(training)
            pl_module.paused += time.perf_counter() - began

    def at_epoch(self, trainer: pl.Trainer, module: Pretraining, batch: Batch, epoch: float) -> None:
        raise NotImplementedError


class KNNProbe(EpochCallback):
    """Weighted kNN accuracy of the backbone on labelled images: bank from the training set, queries from another split.

    Runs on the first process; the others wait at the next exchange. Leaves off as soon as the run is asked to stop.
    """

    def __init__(
        self, bank: Images, queries: Images, settings: ProbeSettings, run: RunDirectory | None, stop: Callable[[], bool]
    ) -> None:
        self.every_epochs = settings.every_epochs
        self.bank, self.queries = bank, queries
        self.settings = settings
        self.run = run
        self.stop = stop
        self.history: list[tuple[float, float]] = []

    def at_epoch(self, trainer: pl.Trainer, module: Pretraining, batch: Batch, epoch: float) -> None:
        if not trainer.is_global_zero:
            return
        bank, queries = self.embed(module, self.bank), self.embed(module, self.queries)
        if bank is None or queries is None:
            return
        accuracy = knn_accuracy(
            *bank, *queries, k=min(self.settings.neighbours, len(bank[0])), temperature=self.settings.temperature,
            classes=len(self.bank.classes),
        )  # fmt: skip
        self.history.append((epoch, accuracy))
        log(trainer, self.run, trainer.global_step, epoch=epoch, knn_accuracy=accuracy)

    def embed(self, module: Pretraining, images: Images) -> tuple[Tensor, Tensor] | None:
        """Features and labels of at most `limit` images, evenly spread; None if asked to stop meanwhile."""
        count = min(len(images), self.settings.limit)
        chosen = [i * len(images) // count for i in range(count)]
        features, labels = [], []
        for views, batch_labels, _ in iterate_eval(
            images, module.eval_view, batch_size=512, device=module.device,
            workers=module.recipe.data.workers, ids=chosen,
        ):  # fmt: skip
            if self.stop():
                return None
            features.append(module.method.encoder(views).float())
            assert batch_labels is not None  # `labelled()` images have them
            labels.append(batch_labels)
        if not features:
            raise DataError("none of the probe's images can be read; set probe.every_epochs to 0 to go without")
        return torch.cat(features), torch.cat(labels)


class Watch(EpochCallback):
    """Measures the health of the embeddings each epoch, and says in words when a run sits at chance or collapses."""

    def __init__(self, run: RunDirectory | None, meter: Meter, say: Say, *, limit: int = 1024) -> None:
        self.run = run
        self.meter = meter
        self.say = say
        self.limit = limit
        self.history: list[Health] = []
        self._said: set[str] = set()

    def at_epoch(self, trainer: pl.Trainer, module: Pretraining, batch: Batch, epoch: float) -> None:
        if not trainer.is_global_zero:
            return
        health = self.measure(module, batch)
        self.history.append(health)
        log(trainer, self.run, trainer.global_step, epoch=epoch, **health.as_dict())
        terms = {name: [value for _, value in values] for name, values in self.meter.terms.items()}
        chance = module.method.chance(module.recipe.batch_size)
        for sign in verdict(self.history, terms, chance=chance, epoch=epoch, method=module.recipe.method.name):
            if sign.kind not in self._said:  # once is enough
                self._said.add(sign.kind)
                self.say(sign.sentence)

    def measure(self, module: Pretraining, batch: Batch) -> Health:
        """On the two full-size views of the batch just trained on: at most `limit` images, in eval mode."""
        view_a, view_b = (view[: self.limit] for view in batch.views[:2])
        return measure_health(
            features=module.method.encoder(view_a).float(),
            view_a=module.method.embed(view_a).float(),
            view_b=module.method.embed(view_b).float(),
        )
