"""Writing what others read: COCO's result lists, and annotations as a COCO json."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import AnnotationSet
from detection.tasks import UNKNOWN_NAME, TaskSet
from sslcore.storage import files


def category_ids(annotations: AnnotationSet, tasks: TaskSet, task: int) -> dict[int, int]:
    """The id that each label of a model at `task` has in result files: `unknown_id`, or the ground truth's own.

    A known class that the ground truth does not list gets an id above all of the file's.
    """
    ids = {
        tasks.canonical(name): number
        for name, number in zip(annotations.categories, annotations.category_ids, strict=True)
    }
    free = max((*annotations.category_ids, tasks.unknown_id), default=0) + 1
    found = {}
    for label, name in enumerate(tasks.label_names(task)):
        if name == UNKNOWN_NAME:
            found[label] = tasks.unknown_id
        elif label:
            found[label] = ids[name] if name in ids else free + label
    return found


def results_of(image_id: int | str, found: Any, category_of: dict[int, int]) -> list[dict[str, Any]]:
    """The detections of one image as COCO results.

    Args:
        image_id: the ground truth's.
        found: `Detections`: boxes (n, 4), labels, scores, energies, posteriors; tensors or arrays.
        category_of: from `category_ids`.

    Raises:
        ValueError: a box or score is not finite.
    """
    boxes, scores = _array(found.boxes).reshape(-1, 4), _array(found.scores)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"detections of image {image_id} hold a box or score that is not finite")
    sides = np.round(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1), 3).tolist()
    columns = (_array(found.labels).tolist(), sides, _short(scores))
    extra = (_short(_array(found.energies)), _short(_array(found.posteriors)))
    return [
        {
            "image_id": image_id,
            "category_id": category_of[int(label)],
            "bbox": box,
            "score": score,
            "energy": energy,
            "unknown_posterior": posterior,
        }
        for label, box, score, energy, posterior in zip(*columns, *extra, strict=True)
    ]


def _array(values: Any) -> Any:
    return np.asarray(values.detach().cpu().double() if hasattr(values, "detach") else values, dtype=np.float64)


def _short(values: Any) -> list[float | None]:
    """Nine digits, which keep a float32; null for what is not finite."""
    return [float(f"{value:.9g}") if np.isfinite(value) else None for value in values.tolist()]


def write_results(file: str | Path, results: Iterable[dict[str, Any]]) -> None:
    """Write COCO results, one a line; whole or not at all."""
    files.write_chunks(file, _lines(results))


def _lines(results: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    before = b"[\n"
    for result in results:
        yield before + json.dumps(result, allow_nan=False).encode()
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def write_coco(file: str | Path, annotations: AnnotationSet) -> None:
    """Write annotations as a COCO json, which `read_coco` reads back as they are. Difficult objects get `difficult`."""
    files.write_json(file, as_coco(annotations))


def as_coco(annotations: AnnotationSet) -> dict[str, Any]:
    """A COCO json's content."""
    ids = [image.id for image in annotations.images]
    sides = _sides(annotations.boxes)
    rows = zip(
        annotations.box_ids.tolist(), annotations.box_image.tolist(), annotations.box_category.tolist(), sides,
        annotations.area.tolist(), annotations.crowd.tolist(), annotations.difficult.tolist(), strict=True,
    )  # fmt: skip
    content: dict[str, Any] = {
        "images": [
            {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image in annotations.images
        ],
        "annotations": [
            {
                "id": number,
                "image_id": ids[image],
                "category_id": annotations.category_ids[category],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
                **({"difficult": 1} if difficult else {}),
            }
            for number, image, category, box, area, crowd, difficult in rows
        ],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(annotations.category_ids, annotations.categories, strict=True)
        ],
    }
    if len(annotations.distractors):
        content["distractors"] = [
            {"id": place, "image_id": ids[image], "bbox": box}
            for place, (image, box) in enumerate(
                zip(annotations.distractor_image.tolist(), _sides(annotations.distractors), strict=True), start=1
            )
        ]
    return content


def _sides(boxes: Any) -> Sequence[list[float]]:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
