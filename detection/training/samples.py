"""The training images of a stage under one numbering, and which of them make up which batch.

A batch is a function of (seed, task, stage, step) alone, so that where a run stands in its data is one number, and any
number of processes and of reading workers trains on the same batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from detection.data.annotations import AnnotationSet, Indices, LabeledSet
from detection.structures import FIRST_KNOWN, Target
from sslcore.errors import DataError
from sslcore.random import permutation


class TrainingSet:
    """Several labelled sets one after the other; an image's number here is the key of everything random about it.

    Args:
        sets: at least one; all of the same label space.
        partial: of each, whether its images may show known objects that are not labelled; None: no set's do.
    """

    def __init__(self, sets: Sequence[LabeledSet], partial: Sequence[bool] | None = None) -> None:
        self.sets = tuple(sets)
        self.partial = tuple(partial or [False] * len(self.sets))
        self.starts = np.cumsum([0, *(len(each) for each in self.sets)])
        self.names = self.sets[0].names

    def __len__(self) -> int:
        return int(self.starts[-1])

    def where(self, index: int) -> tuple[LabeledSet, int]:
        """The set that an image is of, and its number there."""
        which = self._set_of(index)
        return self.sets[which], index - int(self.starts[which])

    def is_partial(self, index: int) -> bool:
        """Whether an image may show known objects that are not labelled."""
        return self.partial[self._set_of(index)]

    def _set_of(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def path(self, index: int) -> Path:
        """The file of an image."""
        labeled, inner = self.where(index)
        return labeled.annotations.path(inner)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) as annotated."""
        labeled, inner = self.where(index)
        return labeled.images[inner].height, labeled.images[inner].width

    def files(self) -> list[tuple[Path, tuple[int, int] | None]]:
        """Path and size of every image."""
        return [(self.path(index), self.size(index)) for index in range(len(self))]

    def target(self, index: int) -> Target:
        """What is labelled in an image, in its own pixels."""
        labeled, inner = self.where(index)
        rows = labeled.of_image(inner)
        return Target(
            boxes=torch.from_numpy(labeled.boxes[rows]).float(),
            labels=torch.from_numpy(labeled.labels[rows]),
            ignore=torch.from_numpy(labeled.ignore[rows]),
            key=index,
        )

    def complete(self, index: int) -> tuple[AnnotationSet, int]:
        """The whole annotation that an image's labels are a view of, and its number there; for measuring only."""
        labeled, inner = self.where(index)
        return labeled.annotations, inner


def every_image(labeled: LabeledSet, start: int = 0) -> Indices:
    """Each image once: (N,) numbers, from `start`."""
    return np.arange(start, start + len(labeled), dtype=np.int64)


def balanced(images: TrainingSet) -> Indices:
    """Each known class about equally often: (M,) numbers, images of rare classes several times.

    Every class gets as many places as the most frequent one has boxes, and goes round its own boxes to fill them. An
    image that shows several classes counts for all of them, so the balance is not exact.
    """
    by_class: dict[int, list[int]] = {}
    for labeled, start in zip(images.sets, images.starts.tolist(), strict=False):
        wanted = (labeled.labels >= FIRST_KNOWN) & ~labeled.ignore
        for label, image in zip(labeled.labels[wanted].tolist(), labeled.box_image[wanted].tolist(), strict=True):
            by_class.setdefault(label, []).append(start + image)
    if not by_class:
        return np.zeros(0, dtype=np.int64)
    most = max(len(boxes) for boxes in by_class.values())
    places = [np.resize(np.asarray(by_class[label], dtype=np.int64), most) for label in sorted(by_class)]
    return np.concatenate(places)


@dataclass(frozen=True)
class Part:
    """What fills some places of each batch.

    Attributes:
        places: image numbers, one a place of an epoch; a number may recur.
        count: images that it gives to each batch.
    """

    places: Indices
    count: int


@dataclass
class Plan:
    """Which images make up which batch: epochs of each part follow one another without a gap, each in an order of its
    own, so that the last incomplete batch of an epoch is completed from the next.

    Attributes:
        parts: all of a batch's sources.
        seed: of this stage.
        steps: batches of this stage.
    """

    parts: tuple[Part, ...]
    seed: int
    steps: int
    _orders: dict[int, tuple[int, Indices]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for part in self.parts:
            if part.count and not len(part.places):
                raise DataError("there is no image to fill a batch with; give images with labelled boxes")

    @property
    def batch_size(self) -> int:
        """Images of a batch over all processes."""
        return sum(part.count for part in self.parts)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """Image numbers of this process: the rank-th contiguous slice of the whole batch."""
        chosen = [
            self._place(number, position)
            for number, part in enumerate(self.parts)
            for position in range(step * part.count, (step + 1) * part.count)
        ]
        each = len(chosen) // world
        return chosen[rank * each : (rank + 1) * each]

    def _place(self, number: int, position: int) -> int:
        places = self.parts[number].places
        epoch, rest = divmod(position, len(places))
        if self._orders.get(number, (-1,))[0] != epoch:
            order = permutation(self.seed, epoch, len(places), stream=number).numpy()
            self._orders[number] = epoch, places[order]
        return int(self._orders[number][1][rest])
