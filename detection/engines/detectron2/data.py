"""Data sets of a task set in detectron2's catalogues, one for each task and role."""

import copy
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from jaxtyping import Float
from torch import Tensor, from_numpy

from detection.data.annotations import LabeledSet
from detection.data.openworld import OpenWorldData
from detection.data.views import finetune_view, test_view, train_view, val_view
from detection.engines.detectron2.labels import IGNORED, KNOWN_BEFORE, thing_classes, to_classes
from detection.openworld.replay import Manifest
from detection.tasks import TaskSet
from sslcore.errors import ConfigError

EVALUATOR_TYPE = "openworld"
"""`evaluator_type` in the metadata, by which a train_net.py chooses the evaluator."""


def register_openworld(name: str, data: OpenWorldData, *, exemplars: Sequence[Manifest] = ()) -> list[str]:
    """Register `{name}_{task}_train`, `_val` and `_test` for every task, and `_finetune` where there are exemplars.

    What a set shows of the labels is said by the views of `detection.data.views`: a training set the current task's
    classes only.

    Args:
        name: of the whole, as "farm".
        data: complete annotations, from `open_data`.
        exemplars: manifests of the tasks from the first on; a task has a fine-tuning set if those up to it are there.

    Returns:
        The names.

    Raises:
        ConfigError: a name is registered already.
    """
    tasks, names = data.tasks, []
    for task in range(1, tasks.count + 1):
        views = {
            "train": train_view(data.train(task), tasks, task),
            "val": val_view(data.val, tasks, task),
            "test": test_view(data.test, tasks, task),
        }
        for role, labeled in views.items():
            names.append(register_view(f"{name}_{task}_{role}", [labeled], tasks, task))
        if task <= len(exemplars):
            sets = [
                finetune_view(annotations, tasks, task, rows)
                for number, manifest in enumerate(exemplars[:task], start=1)
                if len(rows := manifest.rows_in(annotations := data.train(number)))
            ]
            names.append(register_view(f"{name}_{task}_finetune", sets, tasks, task))
    return names


def register_view(
    name: str,
    sets: Sequence[LabeledSet],
    tasks: TaskSet,
    task: int,
    *,
    previous: Sequence[Float[Tensor, "q 4"]] | None = None,
) -> str:
    """Register labelled sets, one after the other, as one data set.

    Args:
        name: new among detectron2's.
        sets: of one label space.
        tasks, task: that label space.
        previous: (q, 4) boxes of each image that the model of the task before calls known; only `OpenWorldMapper` hands
            them on.

    Returns:
        The name.

    Raises:
        ConfigError: it is registered already.
    """
    if name in DatasetCatalog.list():
        raise ConfigError(f"the data set {name} is registered already; choose another name")
    DatasetCatalog.register(name, lambda: dataset_dicts(sets, len(tasks.known(task)), previous))
    MetadataCatalog.get(name).set(
        thing_classes=thing_classes(tasks.label_names(task)),
        evaluator_type=EVALUATOR_TYPE,
        tasks=tasks,
        task=task,
        annotations=sets[0].annotations if len(sets) == 1 else None,
    )
    return name


def dataset_dicts(
    sets: Sequence[LabeledSet], known: int, previous: Sequence[Float[Tensor, "q 4"]] | None = None
) -> list[dict[str, Any]]:
    """Labelled sets in detectron2's form.

    What is no object (see `labels`) is marked as a crowd, which detectron2's own mapper leaves out.
    """
    found: list[dict[str, Any]] = []
    for labeled in sets:
        classes = to_classes(from_numpy(labeled.labels), known).tolist()
        for number, image in enumerate(labeled.images):
            rows = labeled.of_image(number)
            boxes = labeled.boxes[rows].tolist()
            of_image = zip(boxes, classes[rows], labeled.ignore[rows].tolist(), strict=True)
            objects = [_box(box, IGNORED if ignored else kind) for box, kind, ignored in of_image]
            if previous is not None:
                objects += [_box(box, KNOWN_BEFORE) for box in previous[len(found)].tolist()]
            path = labeled.annotations.path(number)
            found.append(
                {"file_name": str(path), "image_id": image.id, "height": image.height, "width": image.width,
                 "annotations": objects}
            )  # fmt: skip
    return found


def _box(box: list[float], kind: int) -> dict[str, Any]:
    return {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": kind, "iscrowd": int(kind < 0)}


class OpenWorldMapper(DatasetMapper):
    """detectron2's mapper, which also hands on boxes that are no objects: ignored ones, and those known before."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        boxes = dataset_dict.get("annotations", ())
        kept = [{**box, "iscrowd": 0} for box in boxes]
        return super().__call__({**copy.copy(dataset_dict), "annotations": kept} if kept else dataset_dict)
