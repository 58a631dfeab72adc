"""Small test sets: classes a and b come with task 1, c with task 2, d with task 3; `far` belongs to no task."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.evaluation import DetectionArrays, GroundTruth
from detection.tasks import TaskSet

CATEGORIES = ("a", "b", "c", "d", "far")
Box = tuple[float, float, float, float]


@pytest.fixture
def tasks() -> TaskSet:
    return TaskSet("letters", (("a", "b"), ("c",), ("d",)))


@pytest.fixture
def truth() -> Callable[..., GroundTruth]:
    """Objects as (image, class, box[, "crowd" or "difficult"]); images count from 0 and have the ids 10, 11, ..."""

    def make(
        objects: Sequence[tuple],
        *,
        images: int = 1,
        distractors: Sequence[tuple[int, Box]] = (),
        categories: Sequence[str] = CATEGORIES,
    ) -> GroundTruth:
        objects = sorted(objects, key=lambda row: row[0])
        kinds = [row[3] if len(row) > 3 else "" for row in objects]
        return GroundTruth.from_annotations(
            AnnotationSet(
                images=tuple(ImageRecord(10 + i, f"folder/img_{i}.jpg", 2000, 2000) for i in range(images)),
                categories=tuple(categories),
                category_ids=tuple(range(1, len(categories) + 1)),
                box_image=np.array([row[0] for row in objects], dtype=np.int64),
                boxes=np.array([row[2] for row in objects], dtype=np.float64).reshape(-1, 4),
                box_category=np.array([categories.index(row[1]) for row in objects], dtype=np.int64),
                crowd=np.array([kind == "crowd" for kind in kinds], dtype=bool),
                difficult=np.array([kind == "difficult" for kind in kinds], dtype=bool),
                area=np.ones(len(objects)),
                box_ids=np.arange(len(objects)),
                distractor_image=np.array([row[0] for row in distractors], dtype=np.int64),
                distractors=np.array([row[1] for row in distractors], dtype=np.float64).reshape(-1, 4),
            )
        )

    return make


@pytest.fixture
def detections() -> Callable[..., DetectionArrays]:
    """Detections as (image, class or "unknown", box, score)."""

    def make(rows: Sequence[tuple], *, energies: Sequence[float] | None = None) -> DetectionArrays:
        return DetectionArrays(
            np.array([10 + row[0] for row in rows], dtype=np.int64),
            np.array([0 if row[1] == "unknown" else CATEGORIES.index(row[1]) + 1 for row in rows], dtype=np.int64),
            np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4),
            np.array([row[3] for row in rows], dtype=np.float64),
            None if energies is None else np.array(energies, dtype=np.float64),
        )

    return make
