"""What a run has measured, as plain values in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from detection.data.annotations import AnnotationSet
from detection.data.openworld import OpenWorldData
from detection.data.results import category_ids, results_of
from detection.evaluation import DetectionArrays, GroundTruth, evaluate, forgetting
from detection.structures import Detections
from detection.tasks import TaskSet
from detection.training.layout import Layout, read_json
from detection.training.recipe import DetectionRecipe
from sslcore.storage import surroundings, write_json, write_weights

RESULTS = "results.json"
HEADLINE = (
    "map_previous", "map_current", "map_both", "u_recall_10", "u_recall_100", "u_ap", "u_f1", "wi", "a_ose",
    "a_ose_objects", "h_score",
)  # fmt: skip
"""What is shown of a task at a glance."""


def as_coco(
    found: Sequence[Detections], numbers: Sequence[int], images: AnnotationSet, tasks: TaskSet, task: int
) -> list[tuple[int, list[dict[str, Any]]]]:
    """(image number, its COCO results) for each image."""
    of_label = category_ids(images, tasks, task)
    return [
        (number, results_of(images.images[number].id, each, of_label))
        for number, each in zip(numbers, found, strict=True)
    ]


def measure(test: AnnotationSet, found: list[dict[str, Any]], tasks: TaskSet, task: int) -> dict[str, Any]:
    """Everything the evaluator says of COCO results, in both of its modes."""
    truth, detections = GroundTruth.from_annotations(test), DetectionArrays.from_results(found)
    return {mode: evaluate(truth, detections, tasks, task, mode=mode) for mode in ("strict", "ore")}


def headline(measured: dict[str, Any]) -> dict[str, float]:
    """The figures of a task that are defined, of mode strict."""
    strict = measured["strict"]
    return {name: strict[name] for name in HEADLINE if strict.get(name) is not None}


def together(
    recipe: DetectionRecipe, data: OpenWorldData, done: Sequence[dict[str, Any]], *, complete: bool
) -> dict[str, Any]:
    """All tasks that have been evaluated, and what they were measured with."""
    complete_so_far = [each["task"] for each in done] == list(range(1, len(done) + 1))
    lost = {
        mode: forgetting([each[mode] for each in done], data.tasks) if done and complete_so_far else None
        for mode in ("strict", "ore")
    }
    return {
        "complete": complete,
        "tasks": data.tasks.to_dict(),
        "data": data.fingerprint,
        "seed": recipe.seed,
        "recipe": recipe.as_dict(),
        "evaluation": {"modes": ["strict", "ore"], "score_floor": None, "per_image": None},
        "by_task": list(done),
        "forgetting": lost,
    }


def write(layout: Layout, values: dict[str, Any]) -> None:
    """The run's results.json, with what it was made with and where."""
    assert layout.folder is not None
    write_json(layout.folder / RESULTS, {**values, "surroundings": surroundings()})


def write_embeddings(path: Path, found: dict[str, Tensor], prototypes: Tensor, seen: Tensor) -> None:
    """Embeddings of objects (see `object_embeddings`), and the prototypes among them, for a map."""
    tensors = {name: tensor.contiguous() for name, tensor in found.items()}
    write_weights(path, {**tensors, "prototypes": prototypes.cpu(), "prototypes_seen": seen.cpu()}, {})


def read_results(run: Path) -> Any:
    """The content of a run's results.json; None if no task has been evaluated yet. Raises CheckpointError."""
    return read_json(run / RESULTS)
