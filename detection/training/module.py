"""One stage of training as Lightning sees it: a module around the engine."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detection.training.augmenting import augment, flip_boxes
from detection.training.batches import Batch, BatchStream
from detection.training.layout import Stage
from detection.training.recipe import DetectionRecipe, StageSettings
from sslcore.training.resumable import ResumableModule


@dataclass(frozen=True)
class Place:
    """Where in a run a stage stands.

    Attributes:
        task: from 1.
        stage: "train" or "finetune".
        offset: optimiser steps of the stages before it.
        seed: of everything random in it.
    """

    task: int
    stage: Stage
    offset: int
    seed: int

    @property
    def name(self) -> str:
        """In words."""
        return f"task {self.task}, {self.stage}"


class StageModule(ResumableModule):
    """Trains the engine for one stage: its losses summed, memory written after the optimiser's step.

    Args:
        engine: the detector.
        stream: its batches.
        recipe: everything else.
        settings: of this stage.
        place: where the stage stands.
        previous: for each image number the boxes of what is known already and may be unlabelled, in the image's pixels,
            see `detection.training.previous`; None: there is no model that could say.
        description: saved with every checkpoint.
    """

    def __init__(
        self,
        engine: nn.Module,
        stream: BatchStream,
        recipe: DetectionRecipe,
        settings: StageSettings,
        place: Place,
        previous: Sequence[Tensor] | None,
        description: dict[str, Any],
    ) -> None:
        super().__init__()
        self.engine: Any = engine
        self.stream = stream
        self.recipe = recipe
        self.settings = settings
        self.place = place
        self.previous = previous
        self.description = description
        self.watchers: list[Callable[[Batch, Any], None]] = []  # see every step's labelled regions
        self._remembered: tuple[Any, ...] | None = None

    # --- data

    def train_dataloader(self) -> BatchStream:
        return self.stream

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    @torch.no_grad()
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augments on the device that the batch is on."""
        settings, where = self.recipe.augment, {"seed": self.place.seed, "step": batch.step}
        images, targets, mirrored = augment(batch.images, batch.targets, settings, **where)
        return Batch(images, targets, batch.step, mirrored)

    def previous_of(self, batch: Batch) -> list[Tensor] | None:
        """What the model of the task before calls known in a batch's images, as they are shown."""
        if self.previous is None:
            return None
        found = []
        for image, target, mirrored in zip(batch.images, batch.targets, batch.mirrored, strict=True):
            boxes = self.previous[target.key].to(image.device, non_blocking=True)
            found.append(flip_boxes(boxes, image.shape[-1]) if mirrored else boxes)
        return found

    # --- a step

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The engine's losses, to be added up; the watchers have seen them, and `remember` is due after the
        optimiser's step."""
        output = self.engine.losses(
            batch.images,
            batch.targets,
            step=self.place.offset + batch.step,
            progress=batch.step / self.settings.steps,
            previous=self.previous_of(batch),
        )
        self._remembered = output.to_remember
        for watch in self.watchers:
            watch(batch, output)
        return output.losses

    @torch.no_grad()
    def remember(self) -> None:
        """Memory is written after the optimiser's step."""
        if self._remembered is not None:
            self.engine.head.remember(*self._remembered)
        self._remembered = None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        losses = self.losses(batch)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        return {"loss": loss, "terms": {"loss": loss.detach(), **{k: v.detach() for k, v in losses.items()}}}

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.remember()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = build_sgd(self.engine, self.recipe, self.settings)
        schedule = LambdaLR(optimizer, lambda step: rate_factor(step, self.settings))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # --- what must survive

    @property
    def batches(self) -> int:
        return self.settings.steps


def build_sgd(model: nn.Module, recipe: DetectionRecipe, settings: StageSettings) -> Optimizer:
    """SGD over whatever of the model is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return SGD(trained, settings.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def rate_factor(step: int, settings: StageSettings) -> float:
    """Factor on the learning rate before optimiser step `step` of a stage, counted from 0.

    Rises linearly over the warm-up (the first is 1/warmup of the rate, not 0), then drops to a tenth at each milestone,
    or falls along half a cosine to 0 at the stage's end.
    """
    warmup = min(settings.warmup, settings.steps)
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "steps":
        return 0.1 ** sum(step >= milestone * settings.steps for milestone in settings.milestones)
    done = min(1.0, (step - warmup) / max(1, settings.steps - warmup))
    return (1 + math.cos(math.pi * done)) / 2
