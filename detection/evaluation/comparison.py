"""Annotations and detections brought together under one task: the labels both are scored in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detection.data.annotations import Boxes, Indices, Mask
from detection.evaluation.arrays import DetectionArrays, Floats, GroundTruth
from detection.evaluation.matching import Pairs, greedy, overlapping
from sslcore.errors import ConfigError, DataError

if TYPE_CHECKING:
    from detection.tasks import TaskSet

IOU = 0.5
"""A detection lies on an object from this intersection over union on."""


@dataclass(frozen=True, eq=False)
class Truths:
    """Objects: (T,) image, (T, 4) boxes, (T,) label, crowd and difficult."""

    image: Indices
    boxes: Boxes
    label: Indices
    crowd: Mask
    difficult: Mask


@dataclass(frozen=True, eq=False)
class Found:
    """Detections: (N,) image, (N, 4) boxes, (N,) label, score, and what says that they are unknown."""

    image: Indices
    boxes: Boxes
    label: Indices
    scores: Floats
    energies: Floats | None
    posteriors: Floats | None

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, which: Any) -> "Found":
        """Some of them, or all in another order."""
        energies = None if self.energies is None else self.energies[which]
        posteriors = None if self.posteriors is None else self.posteriors[which]
        parts = (self.image[which], self.boxes[which], self.label[which], self.scores[which])
        return Found(*parts, energies, posteriors)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What is compared. Labels here are 0 .. C - 1 for the classes of all tasks in order, and C for `unknown`.

    Attributes:
        names: of the C classes.
        previous, known: how many of them earlier tasks brought, and how many all tasks so far.
        images: number of different images.
        lines: (L,) images as listed, an image as often as the list has it.
        truths: objects; of classes not yet introduced, and of categories in no task, with the label C.
        found: detections; `known <= label < C` where a detector with fixed outputs names a class of a later task.
        distractor_image, distractors: what looks like an object and is none.
        left_out: how many detections `image_list`, `score_floor` and `per_image` left out, one after the other.
    """

    names: tuple[str, ...]
    previous: int
    known: int
    images: int
    lines: Indices
    truths: Truths
    found: Found
    distractor_image: Indices
    distractors: Boxes
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def unknown(self) -> int:
        """The label of unknown objects."""
        return len(self.names)

    @cached_property
    def overlaps(self) -> Pairs:
        """Detections and the objects on which they lie, of whatever label; without crowds and difficult objects."""
        rows = np.flatnonzero(~(self.truths.crowd | self.truths.difficult))
        found, truths = self.found, self.truths
        pairs = overlapping(found.image, found.boxes, truths.image[rows], truths.boxes[rows], above=IOU)
        return Pairs(pairs.detection, rows[pairs.truth], pairs.overlap)

    def overlaps_of(self, detections: Indices) -> Pairs:
        """The same for some of the detections, numbered in the order given."""
        place = np.full(len(self.found), -1, dtype=np.int64)
        place[detections] = np.arange(len(detections))
        pairs = self.overlaps
        here = place[pairs.detection] >= 0
        return Pairs(place[pairs.detection[here]], pairs.truth[here], pairs.overlap[here])

    @cached_property
    def on_objects(self) -> tuple[Found, Mask]:
        """Of each object that was found the best-scored detection on it (COCO's matching, whatever the labels), and
        (m,) whether the object is unknown. Crowds and difficult objects have none."""
        order = np.lexsort((self.found.image, -self.found.scores))
        matched = greedy(self.overlaps_of(order), len(order), len(self.truths.label))
        chosen = np.flatnonzero(matched >= 0)
        return self.found[order[chosen]], self.truths.label[matched[chosen]] == self.unknown


def compare(
    ground_truth: GroundTruth,
    detections: DetectionArrays,
    tasks: "TaskSet",
    task: int,
    *,
    score_floor: float | None = None,
    per_image: int | None = None,
    image_list: Sequence[int | str] | None = None,
) -> Comparison:
    """Labels for both sides, restricted to the listed images, to scores of at least `score_floor`, and to each image's
    `per_image` best detections.

    Raises:
        ConfigError: there is no such task, or `unknown_id` is the id of one of its classes.
        DataError: a detection or a line names an image or category that the annotations do not have.
    """
    if not 1 <= task <= tasks.count:
        raise ConfigError(f"task {task} does not exist; the task set '{tasks.name}' has tasks 1 to {tasks.count}.")
    if per_image is not None and per_image < 1:
        raise ConfigError(f"per_image must be at least 1, not {per_image}.")
    if score_floor is not None and not np.isfinite(score_floor):
        raise ConfigError(f"score_floor must be a finite number, not {score_floor}.")
    names, known = tuple(tasks.classes), len(tasks.known(task))
    label_of = {name: label for label, name in enumerate((*names, "unknown"))}
    of_category = [label_of.get(tasks.canonical(name)) for name in ground_truth.categories]

    lines = lines_of(ground_truth, image_list)
    listed = np.unique(lines)
    place = np.full(len(ground_truth.image_ids), -1, dtype=np.int64)
    place[listed] = np.arange(len(listed))

    found = _found(ground_truth, detections, _label_by_id(ground_truth, of_category, tasks))
    counts = [len(found)]
    found = found[place[found.image] >= 0]
    found = replace(found, image=place[found.image])
    counts.append(len(found))
    if score_floor is not None:
        found = found[found.scores >= score_floor]
    counts.append(len(found))
    if per_image is not None:
        found = found[rank_within(found.image, found.scores) < per_image]
    counts.append(len(found))
    reasons = ("image_list", "score_floor", "per_image")
    left_out = {reason: before - after for reason, before, after in zip(reasons, counts, counts[1:])}

    here, near = place[ground_truth.box_image] >= 0, place[ground_truth.distractor_image] >= 0
    labels = np.array([len(names) if label is None or label >= known else label for label in of_category], np.int64)
    truths = Truths(
        place[ground_truth.box_image[here]],
        ground_truth.boxes[here],
        labels[ground_truth.box_category[here]],
        ground_truth.crowd[here],
        ground_truth.difficult[here],
    )
    return Comparison(
        names,
        len(tasks.previous(task)),
        known,
        len(listed),
        place[lines],
        truths,
        found,
        place[ground_truth.distractor_image[near]],
        ground_truth.distractors[near],
        left_out,
    )


def rank_within(groups: Indices, scores: Floats) -> Indices:
    """Place of each element in its group by falling score, from 0; equal scores in the order given."""
    order = np.lexsort((-scores, groups))
    sizes = np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.int64)
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def _label_by_id(ground_truth: GroundTruth, of_category: list[int | None], tasks: "TaskSet") -> dict[int, int | None]:
    """What a detection's category id means; None for a category in no task."""
    by_id = dict(zip(ground_truth.category_ids, of_category))
    taken = by_id.get(tasks.unknown_id)
    if taken is not None and taken < len(tasks.classes):
        raise ConfigError(
            f"unknown_id {tasks.unknown_id} of the task set '{tasks.name}' is the id of '{tasks.classes[taken]}' in "
            f"{ground_truth.source}; choose another unknown_id."
        )
    return by_id | {tasks.unknown_id: len(tasks.classes)}


def _found(ground_truth: GroundTruth, detections: DetectionArrays, by_id: dict[int, int | None]) -> Found:
    used, inverse = np.unique(detections.category_ids, return_inverse=True)
    labels = np.zeros(len(used), dtype=np.int64)
    for i, category in enumerate(used.tolist()):
        label = by_id.get(category)
        if label is None:
            at = int(np.flatnonzero(detections.category_ids == category)[0])
            why = "belongs to no task" if category in by_id else f"is not in {ground_truth.source}"
            raise DataError(
                f"{detections.source}: detection {at} (from 0) has the category id {category}, which {why}; unknown "
                "objects carry the task set's unknown_id."
            )
        labels[i] = label
    return Found(
        _image_indices(ground_truth, detections),
        detections.boxes,
        labels[inverse.reshape(-1)],
        detections.scores,
        detections.energies,
        detections.posteriors,
    )


def _image_indices(ground_truth: GroundTruth, detections: DetectionArrays) -> Indices:
    """Index of each detection's image."""
    of_id = {image_id: i for i, image_id in enumerate(ground_truth.image_ids)}
    ids: npt.NDArray[Any] = detections.image_ids
    if ids.dtype.kind in "iu":  # a look-up per image, not per detection
        used, inverse = np.unique(ids, return_inverse=True)
        index = np.array([of_id.get(image_id, -1) for image_id in used.tolist()], dtype=np.int64)
        index = index[inverse.reshape(-1)] if len(ids) else index
    else:
        index = np.array([of_id.get(image_id, -1) for image_id in ids.tolist()], dtype=np.int64)
    if (index < 0).any():
        at = int(np.flatnonzero(index < 0)[0])
        image_id = ids.tolist()[at]
        raise DataError(
            f"{detections.source}: detection {at} (from 0) is in the image {image_id!r}, which {ground_truth.source} "
            "does not have; score it with the annotations it was made for, or go by names as surnia detect predict "
            "does (file_name and category_name in every detection)."
        )
    return index


def lines_of(ground_truth: GroundTruth, image_list: Sequence[int | str] | None) -> Indices:
    """Index of the image of each line: a file name, the same without folder and suffix, or an id.

    Raises:
        DataError: a line names no image of the annotations, or two.
    """
    if image_list is None:
        return np.arange(len(ground_truth.image_ids))
    by_id = {str(image_id): i for i, image_id in enumerate(ground_truth.image_ids)}
    by_stem: dict[str, int] = {}
    for i, name in enumerate(ground_truth.file_names):
        if not name:
            continue
        stem = PurePosixPath(name).stem
        by_stem[stem] = -1 if stem in by_stem else i  # -1: two files have it
    by_name = {name: i for i, name in enumerate(ground_truth.file_names) if name}
    lines = []
    for number, line in enumerate(image_list, start=1):
        index = next((known[str(line)] for known in (by_name, by_stem, by_id) if str(line) in known), None)
        if index is None or index < 0:
            why = "does not have" if index is None else "has more than once"
            raise DataError(f"image list, line {number}: '{line}' is an image that {ground_truth.source} {why}.")
        lines.append(index)
    return np.array(lines, dtype=np.int64)
