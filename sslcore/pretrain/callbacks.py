"""What watches a run: progress for a person, metrics for a file, a kNN probe, and diagnostics that speak up."""

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sslcore.errors import DataError
from sslcore.pretrain.data import iterate_eval
from sslcore.pretrain.diagnostics import Health, measure_health, verdict
from sslcore.pretrain.loop import Images, Pretraining
from sslcore.pretrain.method import Batch
from sslcore.pretrain.probes.knn import knn_accuracy
from sslcore.pretrain.recipe import ProbeSettings
from sslcore.storage import RunDirectory
from sslcore.training.meter import LossMeter
from sslcore.training.metrics import log
from sslcore.training.resuming import Say


class Meter(LossMeter):
    """Of a pretraining run; its steps are optimiser updates.

    Attributes:
        overall_rate: images a second over all batches but the first, which pays for what is made once; evaluations are
            left out of it.
    """

    remedy = "lower optimizer.lr, lengthen optimizer.warmup_epochs, or use precision 32"

    def __init__(self, run: RunDirectory | None, *, every: int = 20, quiet: bool = False) -> None:
        super().__init__(run, every=every, quiet=quiet)
        self.overall_rate = 0.0
        self._first_end: float | None = None
        self._count = 0

    def length(self, module: Any) -> int:
        return module.plan.updates

    def done(self, trainer: pl.Trainer, module: Any, batch: Batch) -> int | None:
        return None if (batch.step + 1) % module.recipe.accumulate else trainer.global_step

    def epoch(self, module: Any, batch: Batch) -> float:
        return (batch.step + 1) / module.plan.steps_per_epoch

    def label(self, module: Any, epoch: float | None) -> str:
        return "pretraining" if epoch is None else f"epoch {epoch:.1f}"

    def extra(self, module: Any, batch: Batch) -> dict[str, float]:
        return {"epoch": self.epoch(module, batch)}

    def clock(self, module: Any) -> float:
        return time.perf_counter() - module.paused

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = self.clock(pl_module)
        if self._first_end is None:
            self._first_end = now
        else:
            self._count += pl_module.recipe.batch_size
            self.overall_rate = self._count / (now - self._first_end)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


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
