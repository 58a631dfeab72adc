"""What a pretraining method is to the training loop: four hooks, and nothing else.

For every batch the loop calls `step`; when the gradients of an optimiser step are complete, `before_optimizer`; when
the optimiser has moved, `after_update` with all that the steps asked to remember. Memory is written and momentum
encoders move only there, so no method can meet its own keys as negatives, or write in place what autograd still needs.
`before_epoch` comes first in every epoch, with a way to embed the whole training set for methods that cluster.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sslcore.nn import Backbone


@dataclass(frozen=True)
class Progress:
    """Where a run stands: optimiser steps done, optimiser steps in all, and the epoch with its fraction."""

    step: int
    total_steps: int
    epoch: float

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.total_steps))


@dataclass
class Batch:
    """A batch as methods see it.

    Attributes:
        views: one (n, c, s, s) tensor per view of the same n images, normalised; sizes may differ between views.
        ids: (n,) which images of the training set these are.
        labels: (n,) their classes, or None.
        step: counts batches from the start of the run.
        seed: the run's seed; whatever is random in a method is a function of (seed, step, ids).
        progress: where the run stands.
    """

    views: list[Tensor]
    ids: Tensor
    labels: Tensor | None
    step: int
    seed: int
    progress: Progress


@dataclass
class StepResult:
    """What a step gives back.

    Attributes:
        loss: 0-d tensor to be differentiated.
        to_remember: handed to `after_update` unchanged, once the optimiser has moved.
        terms: parts of the loss to be logged, detached; named as in `Method.chance`.
    """

    loss: Tensor
    to_remember: Any = None
    terms: dict[str, Tensor] = field(default_factory=dict)


Embedder = Callable[[Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]]
"""Maps a function of images, (n, c, s, s) -> (n, d), to its values on the whole training set, (N, d), by image; and
(N,) which of them are values: images that cannot be read have none."""


class Method(nn.Module):
    """Base of all methods.

    Attributes:
        encoder: the backbone that is trained, evaluated and exported.
        projector: the head whose output the loss sees.
    """

    def __init__(self, encoder: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def embed(self, images: Tensor) -> Tensor:
        """(n, c, s, s) images to (n, d) embeddings, the ones that the loss compares."""
        return self.projector(self.encoder(images))

    def before_epoch(self, embed: Embedder, progress: Progress) -> None:
        """First in every epoch. `embed` maps a function of images over the whole training set; it costs a pass."""

    @abstractmethod
    def step(self, batch: Batch) -> StepResult:
        """The loss of a batch: 0-d, the mean over this process's images, with the complete gradient of its rows."""

    def before_optimizer(self, progress: Progress) -> None:
        """Gradients are complete, the optimiser has not moved: the place to freeze something."""

    def after_update(self, remembered: list[Any], progress: Progress) -> None:
        """The optimiser has moved. `remembered` holds every `to_remember` of the steps behind this update, in order."""

    def chance(self, batch_size: int) -> dict[str, float]:
        """Value of each loss term when embeddings carry no information; empty where chance says nothing.

        Args:
            batch_size: images a step over all processes.
        """
        return {}
