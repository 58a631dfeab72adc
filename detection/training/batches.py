"""Batches of a stage as the training loop sees them. Where a stage stands in its data is one number: the step."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detection.structures import Target
from detection.training.reading import Reader
from detection.training.samples import Plan, TrainingSet
from sslcore.errors import DataError


@dataclass
class Batch:
    """One step's images of this process.

    Attributes:
        images: (3, h, w) each: uint8 as read, then float32 in [0, 1].
        targets: what is labelled in them, in their pixels.
        step: of the stage, from 0.
        mirrored: which of the images are mirrored.
    """

    images: list[Tensor]
    targets: list[Target]
    step: int
    mirrored: list[bool] = field(default_factory=list)

    def to(self, device: torch.device) -> "Batch":
        """The same on another device; what is there already is not copied."""
        images = [image.to(device, non_blocking=True) for image in self.images]
        return Batch(images, [target.to(device) for target in self.targets], self.step, self.mirrored)


class BatchStream:
    """All batches of a stage, a stream that can be entered anywhere: what Lightning takes for a loader.

    Where iterating begins is looked up when the first batch is asked for, not before: Lightning makes its iterator
    first and restores the state afterwards.

    Args:
        images: what the plan's numbers mean.
        plan: which images make up which batch.
        reader: of the same images' files; None reads them in this process.
        rank, world: which of how many training processes this is.
        fingerprint: of the data; a state that was taken with other data is refused.
    """

    def __init__(
        self,
        images: TrainingSet,
        plan: Plan,
        *,
        reader: Reader | None = None,
        rank: int = 0,
        world: int = 1,
        fingerprint: str = "",
    ) -> None:
        self.images, self.plan = images, plan
        self.reader = reader or Reader(images.files())
        self.rank, self.world = rank, world
        self.fingerprint = fingerprint
        self.step = 0

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[Batch]:
        start = self.step
        jobs = [self.plan.batch(step, self.rank, self.world) for step in range(start, self.plan.steps)]
        for step, (numbers, images) in enumerate(zip(jobs, self.reader.read(jobs), strict=True), start):
            self.step = step + 1
            yield Batch(images, [self.images.target(number) for number in numbers], step)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "step": self.step, "batch_size": self.plan.batch_size, "seed": self.plan.seed, "data": self.fingerprint,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises DataError if data, batch size or seed are others."""
        here = self.state_dict()
        for key, what in (("data", "data"), ("batch_size", "batch size"), ("seed", "seed")):
            if state.get(key, here[key]) != here[key]:
                raise DataError(
                    f"cannot resume exactly: the {what} of the interrupted run was {state[key]!r} and is now "
                    f"{here[key]!r}; restore it, or start a new run"
                )
        self.step = int(state["step"])
