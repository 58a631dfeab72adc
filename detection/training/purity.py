"""What lies under the pseudo-unknowns: measured against the complete annotation, which training itself never sees."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import box_iou

from detection.openworld.purity import KINDS
from detection.openworld.sampling import OBJECT_IOU
from detection.tasks import TaskSet
from detection.training.samples import TrainingSet

UNKNOWN_KIND, OLD, CURRENT, DISTRACTOR, BACKGROUND_KIND = range(5)


class Truth:
    """Everything that can be seen in the training images of a task, with its kind.

    Args:
        images: the training images.
        tasks: the label space.
        task: which is being learnt.
    """

    def __init__(self, images: TrainingSet, tasks: TaskSet, task: int) -> None:
        self.images = images
        old, current = set(tasks.previous(task)), set(tasks.current(task))
        self._kinds: dict[int, Any] = {}
        for labeled in images.sets:
            annotations = labeled.annotations
            names = [tasks.canonical(name) for name in annotations.categories]
            kinds = [OLD if name in old else CURRENT if name in current else UNKNOWN_KIND for name in names]
            self._kinds[id(annotations)] = np.asarray(kinds, dtype=np.int64)

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


@torch.no_grad()
def count_kinds(
    boxes: Float[Tensor, "n 4"], counted: Bool[Tensor, " n"], truth: Float[Tensor, "m 4"], kinds: Int[Tensor, " m"]
) -> Int[Tensor, " 5"]:
    """How many of the counted boxes lie on what: the kind of whatever they overlap best, by an IoU of at least 0.5.

    Reads nothing back from a device.
    """
    where = torch.full((len(boxes),), BACKGROUND_KIND, device=boxes.device)
    if len(truth) and len(boxes):
        overlap, which = box_iou(truth.to(boxes), boxes).max(dim=0)
        where = torch.where(overlap >= OBJECT_IOU, kinds.to(boxes.device)[which], where)
    return torch.nn.functional.one_hot(where, len(KINDS)).mul(counted[:, None]).sum(dim=0)


def shares(counts: Tensor) -> dict[str, float | None]:
    """The share of each kind, and under "count" of how many; shares of none are None."""
    total = int(counts.sum())
    values: Mapping[str, int] = dict(zip(KINDS, counts.tolist(), strict=True))
    return {"count": total, **{kind: value / total if total else None for kind, value in values.items()}}
