"""The training loop as Lightning sees it: one module around any method.

A run is one stream of batches from the first epoch to the last (Lightning is told of a single epoch). Epoch borders are
ours: they follow from the batch's number. So there is one way to stop and one way to resume, in the middle of the
stream, and Lightning's rules for restarts at the start, the end and between epochs never come into play.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from sslcore.augment import EvalView, RandomView
from sslcore.distributed import all_reduce_sum, rank, world_size
from sslcore.errors import SurniaError
from sslcore.pretrain.data import ImageArray, ImageFiles, RawBatch, TrainLoader, iterate_eval
from sslcore.pretrain.method import Batch, Method, Progress, StepResult
from sslcore.pretrain.optim import build_optimizer, build_schedule
from sslcore.pretrain.recipe import Recipe
from sslcore.training.resumable import ResumableModule

Images = ImageArray | ImageFiles


class EpochStream:
    """All epochs of a loader, one after the other, as one stream that can be left and entered anywhere."""

    def __init__(self, loader: TrainLoader, total: int) -> None:
        self.loader = loader
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[RawBatch]:
        while self.loader.step < self.total:
            for batch in self.loader:  # the rest of an epoch
                yield batch
                if self.loader.step >= self.total:
                    return

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)


class Plan:
    """The numbers that follow from a recipe and the size of its data set.

    Attributes:
        steps_per_epoch: batches an epoch; the last incomplete one is left out.
        batches: batches in all.
        updates: optimiser steps in all.
    """

    def __init__(self, recipe: Recipe, images: int) -> None:
        self.steps_per_epoch = images // recipe.batch_size
        updates = recipe.epochs * self.steps_per_epoch // recipe.accumulate
        self.updates = min(updates, recipe.max_steps) if recipe.max_steps else updates
        self.batches = self.updates * recipe.accumulate
        self.updates_per_epoch = self.steps_per_epoch / recipe.accumulate


class Pretraining(ResumableModule):
    """Runs a `Method`: makes its views, calls its four hooks, keeps everything that a resumed run needs.

    Args:
        method: what is trained.
        images: the training set.
        recipe: everything else.
        views: one per view of an image, in the method's order.
        eval_view: how images are shown to methods that embed the whole training set.
        description: saved with every checkpoint, so that its backbone can be used without the recipe.
    """

    def __init__(
        self,
        method: Method,
        images: Images,
        recipe: Recipe,
        views: list[RandomView],
        eval_view: EvalView,
        description: dict[str, Any],
    ) -> None:
        super().__init__()
        self.method = method
        self.images = images
        self.recipe = recipe
        self.accumulate = recipe.accumulate
        self.views = views
        self.eval_view = eval_view
        self.description = description
        self.plan = Plan(recipe, len(images))
        self.paused = 0.0  # seconds that went into evaluations, not into training
        self.say: Callable[[str], None] = lambda sentence: None  # for what a person should know at once
        self.stream: EpochStream | None = None
        self._remembered: list[Any] = []
        self._progress = Progress(step=0, total_steps=self.plan.updates, epoch=0.0)

    # --- data

    def train_dataloader(self) -> EpochStream:
        data = self.recipe.data
        loader = TrainLoader(
            self.images,
            batch_size=self.recipe.batch_size,
            views=self.views,
            seed=self.recipe.seed,
            rank=rank(),
            world=world_size(),
            device=self.device,
            workers=data.workers,
            worker_timeout=data.worker_timeout,
            bad_images=data.bad_images,
            max_pixels=data.max_pixels,
        )
        self.stream = EpochStream(loader, self.plan.batches)
        return self.stream

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: RawBatch, dataloader_idx: int) -> Batch:
        """Augments on the device that the batch is on."""
        where: dict[str, Any] = {"seed": self.recipe.seed, "step": batch.step, "ids": batch.ids}
        for path, reason in batch.bad:
            self.say(f"skipped {path}: {reason}")
        if batch.images is not None:
            views = [view(batch.images, view=i, **where) for i, view in enumerate(self.views)]
        else:
            assert batch.crops is not None
            views = [view.finish(batch.crops[i], view=i, **where) for i, view in enumerate(self.views)]
        self._progress = Progress(self.global_step, self.plan.updates, batch.step / self.plan.steps_per_epoch)
        return Batch(views, batch.ids, batch.labels, batch.step, self.recipe.seed, self._progress)

    # --- the four hooks of a method

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch.step % self.plan.steps_per_epoch == 0:
            self.method.before_epoch(self.embed_all, batch.progress)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        result: StepResult = self.method.step(batch)
        self._remembered.append(result.to_remember)
        return {"loss": result.loss, "terms": result.terms or {"loss": result.loss.detach()}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        self.method.before_optimizer(self._progress)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        with torch.no_grad():
            self.method.after_update(self._remembered, self._progress)
        self._remembered = []

    # --- what methods may ask for

    @torch.no_grad()
    def embed_all(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """(N, d): `function` of every training image, centre-cropped, in the order of the data set, in eval mode; and
        (N,) bool, which images could be read.

        Every process embeds its share; the sum over processes fills the rows of the others.
        """
        training = self.method.training
        self.method.eval()
        shares = range(rank(), len(self.images), world_size())
        rows: Tensor | None = None
        readable = torch.zeros(len(self.images), device=self.device)
        for views, _, ids in iterate_eval(
            self.images, self.eval_view, batch_size=self.recipe.batch_size, device=self.device,
            workers=self.recipe.data.workers, ids=shares,
        ):  # fmt: skip
            values = function(views)
            if rows is None:
                rows = values.new_zeros(len(self.images), values.shape[1], dtype=torch.float32)
            rows[ids] = values.float()
            readable[ids] = 1
        self.method.train(training)
        if rows is None:
            raise SurniaError("there is no image to embed: every image of the training set is unreadable")
        rows, readable = all_reduce_sum(rows, readable)
        return rows, readable > 0

    # --- optimiser

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.recipe.optimizer
        optimizer = build_optimizer(self.method, settings, self.recipe.learning_rate)
        schedule = build_schedule(
            optimizer, settings, steps_per_epoch=self.plan.updates_per_epoch, total=self.plan.updates
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- what must survive

    @property
    def batches(self) -> int:
        return self.plan.batches

    def before_checkpoint(self) -> None:
        if self.stream is not None:
            self.stream.loader.merge_bad()  # each process met its own share of the images

    def teardown(self, stage: str) -> None:
        if self.stream is not None:
            self.stream.loader.close()
