"""The whole annotation of training images, which training itself never sees: what pseudo-unknowns are judged by."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.openworld.purity import CURRENT, DISTRACTOR, OLD, UNKNOWN_KIND
from detection.tasks import TaskSet
from detection.training.samples import TrainingSet


class Truth:
    """Everything that is annotated in the training images of a task, with its kind.

    Where an annotation shows nothing but what is known, as one that was made for a task does, an unknown object would
    be taken for background: by such a set nothing is judged.

    Args:
        images: the training images.
        tasks: the label space.
        task: which is being learnt.
    """

    def __init__(self, images: TrainingSet, tasks: TaskSet, task: int) -> None:
        self.images = images
        old, current = set(tasks.previous(task)), set(tasks.current(task))
        self._kinds: dict[int, Any] = {}
        self._judges: dict[int, bool] = {}
        for labeled in images.sets:
            annotations = labeled.annotations
            names = [tasks.canonical(name) for name in annotations.categories]
            kinds = [OLD if name in old else CURRENT if name in current else UNKNOWN_KIND for name in names]
            of = self._kinds[id(annotations)] = np.asarray(kinds, dtype=np.int64)
            self._judges[id(annotations)] = bool((of[annotations.box_category] == UNKNOWN_KIND).any())

    def judges(self, index: int) -> bool:
        """Whether the set that an image is of has anything unknown annotated."""
        return self._judges[id(self.images.complete(index)[0])]

    def of(self, index: int) -> tuple[Tensor, Tensor]:
        """(m, 4) boxes in the image's pixels and (m,) kinds, on the CPU."""
        annotations, inner = self.images.complete(index)
        boxes, rows = _rows(annotations.boxes, annotations.box_image, inner)
        kinds = self._kinds[id(annotations)][annotations.box_category[rows]]
        pasted, _ = _rows(annotations.distractors, annotations.distractor_image, inner)
        return (
            torch.from_numpy(np.concatenate([boxes, pasted])).float(),
            torch.from_numpy(np.concatenate([kinds, np.full(len(pasted), DISTRACTOR)])),
        )


def _rows(values: Any, groups: Any, group: int) -> tuple[Any, Any]:
    first, last = np.searchsorted(groups, [group, group + 1])
    return values[first:last], slice(int(first), int(last))
