"""Label views: what of a complete annotation a stage is allowed to see.

A view is chosen by the caller, by function or by name, and never by what a data set is called. `current`, `known` and
`future` classes are those of the task set at the given task (ORE, Joseph et al., CVPR 2021, section 3); a category of
no task is never introduced ("far unknown").

| view | labelled | vanishes (stays in the pixels) | images |
|---|---|---|---|
| train | current | previous, future, far unknown | all, or those with a label |
| val | known | future, far unknown | all |
| finetune | known | future, far unknown | those with an exemplar |
| test | known; everything else is `UNKNOWN` | nothing | all |
| oracle | known; everything else is `UNKNOWN` | nothing | all, or those with a label |

Crowds and difficult objects are `ignore` in every view.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from detection.data.annotations import AnnotationSet, Indices, LabeledSet, Mask
from detection.structures import UNKNOWN
from detection.tasks import TaskSet

ViewName = Literal["train", "val", "finetune", "test", "oracle"]
_GONE = -1


def train_view(annotations: AnnotationSet, tasks: TaskSet, task: int, *, drop_empty: bool = False) -> LabeledSet:
    """Labels of the classes that `task` introduces.

    Args:
        annotations: complete.
        tasks: the class lists.
        task: counts from 1.
        drop_empty: leave out images without a label, as the published protocol does; they are valid negatives.
    """
    return _view(annotations, tasks, task, tasks.current(task), drop_empty=drop_empty)


def val_view(annotations: AnnotationSet, tasks: TaskSet, task: int) -> LabeledSet:
    """Labels of all classes introduced up to and with `task`, and nothing of later ones."""
    return _view(annotations, tasks, task, tasks.known(task))


def finetune_view(
    annotations: AnnotationSet, tasks: TaskSet, task: int, exemplars: Indices | Mask | None = None
) -> LabeledSet:
    """Images with exemplars, for balanced fine-tuning after `task`.

    All known objects in these images are labelled, exemplars or not, as in ORE's code (`remove_unknown_instances`), so
    that no known object counts as background.

    Args:
        annotations: complete.
        tasks: the class lists.
        task: counts from 1.
        exemplars: which boxes of `annotations` are, as rows or as a mask; None: all.

    Raises:
        ValueError: a row is no box, or is of a class that is not known at `task`.
    """
    if exemplars is None:
        return _view(annotations, tasks, task, tasks.known(task))
    chosen = _as_mask(exemplars, len(annotations.boxes))
    strangers = chosen & (_labels(annotations, tasks, task, tasks.known(task)) == _GONE)
    if strangers.any():
        row = int(np.flatnonzero(strangers)[0])
        name = annotations.categories[annotations.box_category[row]]
        raise ValueError(f"exemplar {row} is of class '{name}', which is not known at task {task}; choose among known")
    # Their order in the set, not that of the exemplars.
    images = np.unique(annotations.box_image[chosen])
    return _view(annotations.select(images), tasks, task, tasks.known(task))


def test_view(annotations: AnnotationSet, tasks: TaskSet, task: int) -> LabeledSet:
    """Labels of known classes; every other object, of a later task or of none, is `UNKNOWN`."""
    return _view(annotations, tasks, task, tasks.known(task), others=UNKNOWN)


def oracle_view(annotations: AnnotationSet, tasks: TaskSet, task: int, *, drop_empty: bool = False) -> LabeledSet:
    """For training with everything labelled, known classes and unknown objects: the upper bound, no method."""
    return _view(annotations, tasks, task, tasks.known(task), others=UNKNOWN, drop_empty=drop_empty)


VIEWS: Mapping[ViewName, Callable[..., LabeledSet]] = {
    "train": train_view,
    "val": val_view,
    "finetune": finetune_view,
    "test": test_view,
    "oracle": oracle_view,
}
"""The views by name."""


def _view(
    annotations: AnnotationSet,
    tasks: TaskSet,
    task: int,
    labelled: tuple[str, ...],
    *,
    others: int = _GONE,
    drop_empty: bool = False,
) -> LabeledSet:
    labels = _labels(annotations, tasks, task, labelled, others)
    if drop_empty:
        annotations = annotations.select(np.unique(annotations.box_image[labels != _GONE]))
        labels = _labels(annotations, tasks, task, labelled, others)
    rows = np.flatnonzero(labels != _GONE)
    return LabeledSet(
        annotations=annotations,
        names=tasks.label_names(task),
        box_image=annotations.box_image[rows],
        boxes=annotations.boxes[rows],
        labels=labels[rows],
        ignore=annotations.crowd[rows] | annotations.difficult[rows],
        rows=rows,
    )


def _labels(
    annotations: AnnotationSet, tasks: TaskSet, task: int, labelled: tuple[str, ...], others: int = _GONE
) -> Indices:
    """(B,) label of every box; `others` for classes that are not among the labelled."""
    label_of = tasks.label_of(task)
    wanted = {name: label_of[name] for name in labelled}
    names = [tasks.canonical(name) for name in annotations.categories]
    by_category = np.array([wanted.get(name, others) for name in names], dtype=np.int64)
    return by_category[annotations.box_category]


def _as_mask(exemplars: Indices | Mask, count: int) -> Mask:
    rows: npt.NDArray[Any] = np.asarray(exemplars)
    if rows.dtype == np.bool_:
        if rows.shape != (count,):
            raise ValueError(f"a mask of exemplars needs one value for each of {count} boxes, not shape {rows.shape}")
        return rows
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise ValueError(f"exemplars are rows of the {count} boxes, from 0; there are {rows.min()} to {rows.max()}")
    mask = np.zeros(count, dtype=np.bool_)
    mask[rows.astype(np.int64)] = True
    return mask
