"""Detections that name their image and class, as `surnia detect predict` writes them, under the ids of annotations.

A detector that looked at pictures without annotations numbers images and classes in its own way. Its numbers may well
occur in the annotations, and mean something else there; names do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detection.data.annotations import Indices
from detection.data.file_names import FileNames
from detection.data.problems import shown
from detection.evaluation.arrays import DetectionArrays, GroundTruth, as_ids
from detection.tasks import UNKNOWN_NAME, TaskSet
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import DataError

FILE, CATEGORY = "file_name", "category_name"
_REMEDY = f"to have them scored by their ids, remove {FILE} and {CATEGORY} from all"


def has_names(results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether detections carry names of images and classes beside the ids."""
    return any(isinstance(record, Mapping) and FILE in record and CATEGORY in record for record in results)


def by_name(
    results: Sequence[Mapping[str, Any]], truth: GroundTruth, tasks: TaskSet, *, source: str = "detections"
) -> tuple[DetectionArrays, tuple[str, ...]]:
    """Detections with the ids that annotations give to what they name, and what a person should know about that.

    Images that the annotations do not list are left out: where a whole folder was looked at, that is no mistake.

    Args:
        results: COCO results with `file_name` and `category_name`, "unknown" for unknown objects.
        truth: with a category for every class of the task set, under its names.
        tasks: the class lists.
        source: the file, for messages.

    Raises:
        DataError: a detection lacks a name, or names a class that is in no task, or of which the annotations have no
            category; a name may be that of two images, or two names are of one; no image is among those annotated.
    """
    found = DetectionArrays.from_results(results, source=source)
    files, classes = _column(results, FILE, source), _column(results, CATEGORY, source)
    place = _looked_up(files, lambda names: _places(names, truth, source))
    category = _looked_up(classes, lambda names: _categories(names, truth, tasks, source))
    here = np.flatnonzero(place >= 0)
    found = replace(
        found,
        image_ids=as_ids([truth.image_ids[i] for i in place[here].tolist()]),
        category_ids=category[here],
        boxes=found.boxes[here],
        scores=found.scores[here],
        energies=None if found.energies is None else found.energies[here],
        posteriors=None if found.posteriors is None else found.posteriors[here],
    )
    notes = [f"Images and classes were told by the names in {source}, not by its ids."]
    if len(here) < len(place):
        strange = len({file for file, at in zip(files, place.tolist(), strict=True) if at < 0})
        notes.append(
            f"{len(place) - len(here):,} detections in {strange:,} images that {truth.source} does not list were left "
            "out."
        )
    return found, tuple(notes)


def _column(results: Sequence[Mapping[str, Any]], key: str, source: str) -> list[str]:
    for i, record in enumerate(results):
        if not isinstance(record.get(key), str):
            raise DataError(f"{source}: detection {i} (from 0) has no '{key}' in words, but others have; {_REMEDY}")
    return [record[key] for record in results]


def _looked_up(names: list[str], look_up: Callable[[list[str]], dict[str, int]]) -> Indices:
    """A number for each name, each different name looked up once."""
    numbers = look_up(list(dict.fromkeys(names)))
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _places(names: list[str], truth: GroundTruth, source: str) -> dict[str, int]:
    """The place of each image in the annotations, -1 for none."""
    unnamed = [image for image, name in zip(truth.image_ids, truth.file_names, strict=True) if not name]
    if unnamed:
        raise DataError(
            f"{truth.source} has no {FILE} for {len(unnamed):,} of its {len(truth.image_ids):,} images "
            f"({shown(unnamed[0])} for one), by which {source} names them: add it; or, {_REMEDY}"
        )
    annotated, taken = FileNames(truth.file_names), dict[int, str]()
    places = dict[str, int]()
    for name in names:
        fitting = annotated.find(name)
        if len(fitting) > 1:
            raise DataError(
                f"{source}: {shown(name)} may be {annotated.listed(fitting)} of {truth.source}; name the images with "
                "their folders in both"
            )
        places[name] = fitting[0] if fitting else -1
        if fitting and taken.setdefault(fitting[0], name) != name:
            raise DataError(
                f"{source}: {shown(taken[fitting[0]])} and {shown(name)} would both be "
                f"{annotated.listed(fitting)} of {truth.source}; give the detections in the images of one folder"
            )
    if not taken:
        raise DataError(
            f"no image of {source} is in {truth.source}, which has other file names than {shown(names[0])}; score the "
            "detections with the annotations of the images that were looked at"
        )
    return places


def _categories(names: list[str], truth: GroundTruth, tasks: TaskSet, source: str) -> dict[str, int]:
    """The category id of each class."""
    named = map(tasks.canonical, truth.categories)
    ids = dict(zip(named, truth.category_ids, strict=True)) | {UNKNOWN_NAME: tasks.unknown_id}
    numbers = dict[str, int]()
    for name in names:
        ours = tasks.canonical(name)
        if ours != UNKNOWN_NAME and ours not in tasks.classes:
            hint = did_you_mean(ours, [*tasks.classes, UNKNOWN_NAME])
            raise DataError(
                f"{source} has detections of {shown(name)}, which is no class of the task set '{tasks.name}': give the "
                f"task set that the detector was trained with, or, {_REMEDY}{hint}"
            )
        if ours not in ids:
            raise DataError(
                f"{truth.source} has no category {shown(ours)}, of which {source} has detections: add it to the "
                "categories"
            )
        numbers[name] = ids[ours]
    return numbers
