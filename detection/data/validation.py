"""What can be wrong with a detection data set beyond one file's syntax: pictures, boxes, splits, classes.

Fatal: a picture that is missing, unreadable or of another size than annotated; a box that is not finite; an image id
or file name that is there twice; a picture in two of training, validation and test, links followed; a set without
pictures; a task none of whose classes is annotated. Ignored, and said: boxes that reach out of the picture (clipped),
lie outside or have no area (left out); a class without annotation; pictures in validation and test where nothing is
fitted on these; on demand, copies of a split's pictures in another.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import AnnotationSet, Indices, Mask
from detection.data.clipping import clip, sides_of
from detection.data.problems import Problem, Problems, shown
from detection.data.splits import find_copies, find_shared, is_train
from detection.tasks import TaskSet
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import DataError
from sslcore.storage.images import image_size

Describe = Callable[[Any], tuple[Any, str]]
HEADERS = 200
"""Image files of a set whose size is looked at, evenly spread."""


def validate(
    sets: Mapping[str, AnnotationSet],
    tasks: TaskSet | None = None,
    *,
    headers: int = HEADERS,
    fits: bool = True,
    copies: bool = False,
) -> list[Problem]:
    """Everything that is wrong with sets that belong together.

    Args:
        sets: by role: "train" (images of all tasks), or "train_1", "train_2", ... one for each task; "val"; "test".
        tasks: whose classes should be annotated.
        headers: image files of each set that are opened for their size; none is decoded.
        fits: the decision between known and unknown is fitted on "val", which then must hold no test image.
        copies: look for images that are copies of those in another split, too, which asks for the size of every file.
    """
    problems = Problems()
    for role, annotations in sets.items():
        if not annotations.images and (fits or role != "val"):
            what = "learn from" if is_train(role) else "fit the decision on" if role == "val" else "measure on"
            problems.add(annotations.source, f"lists no images, so there is nothing to {what}", fatal=True)
            continue
        _ids(annotations, problems)
        clean(annotations, problems)
        _files(annotations, problems, headers)
    find_shared(sets, problems, fits=fits)
    if copies:
        find_copies(sets, problems)
    if tasks is not None:
        _classes(sets, tasks, problems)
    return list(dict.fromkeys(problems))


def check(sets: Mapping[str, AnnotationSet], tasks: TaskSet | None = None, *, headers: int = HEADERS) -> list[Problem]:
    """As `validate`; returns what is ignored.

    Raises:
        DataError: the fatal problems, each with its file and id.
    """
    problems = Problems(validate(sets, tasks, headers=headers))
    problems.refuse()
    return problems


def clean(annotations: AnnotationSet, problems: Problems | None = None) -> AnnotationSet:
    """Boxes clipped to their images (where their sizes are known), without those that have no area or lie outside.

    Args:
        problems: is told of the boxes left out, and of those that reached out by a pixel or more; less is rounding.

    Raises:
        DataError: without `problems`, a box that is not finite.
    """
    found = Problems() if problems is None else problems
    sides = sides_of(annotations.images)
    boxes = annotations.boxes
    judged = clip(boxes, sides[annotations.box_image])
    clipped = judged.boxes
    finite, solid, inside, moved = (
        mask & np.isfinite(annotations.area) for mask in (judged.finite, judged.solid, judged.inside, judged.moved)
    )
    about = _Boxes(annotations, found)
    about.report(~finite, "is not finite", "boxes that are not finite", fatal=True)
    about.report(finite & ~solid, "has no area and is ignored", "boxes without area, which are ignored")
    about.report(solid & ~inside, "lies outside the image and is ignored", "boxes outside the image, which are ignored")
    about.report(moved, "reaches out of the image and is clipped", "boxes clipped to the image")
    unsized = int(np.isnan(sides).any(axis=1).sum())
    if unsized:
        said = f"{unsized:,} of its {len(sides):,} images have no width and height: no box is checked against these"
        found.add(annotations.source, said, fatal=False)
    if problems is None:
        found.refuse()
    rows = np.flatnonzero(inside)
    size = np.prod(clipped[rows, 2:] - clipped[rows, :2], axis=1)
    area = annotations.area[rows]
    return replace(
        annotations,
        box_image=annotations.box_image[rows],
        boxes=clipped[rows],
        box_category=annotations.box_category[rows],
        crowd=annotations.crowd[rows],
        difficult=annotations.difficult[rows],
        area=np.where((clipped[rows] != boxes[rows]).any(axis=1), np.minimum(area, size), area),
        box_ids=annotations.box_ids[rows],
    )


class _Boxes:
    """Reports boxes of one set."""

    def __init__(self, annotations: AnnotationSet, problems: Problems) -> None:
        self.annotations, self.problems = annotations, problems

    def report(self, which: Mask, says: str, kind: str, *, fatal: bool = False) -> None:
        ours = self.annotations

        def describe(row: int) -> tuple[int, str]:
            image = ours.images[ours.box_image[row]]
            corners = ", ".join(f"{side:g}" for side in ours.boxes[row])
            size = f"{image.width} x {image.height}" if image.width and image.height else "of unknown size"
            number = int(ours.box_ids[row])
            return number, f"annotation {number}: box ({corners}) of image {shown(image.id)}, {size}, {says}"

        self.problems.add_each(ours.source, np.flatnonzero(which).tolist(), describe, fatal=fatal, kind=kind)


def _ids(annotations: AnnotationSet, problems: Problems) -> None:
    """Readers see to it; sets made otherwise may not."""
    for kind, keys in (
        ("id", [image.id for image in annotations.images]),
        ("file name", [os.path.normpath(image.file_name) for image in annotations.images]),
    ):
        if len(set(keys)) < len(keys):
            seen, again = set[object](), list[int | str]()
            for key in keys:
                if key in seen:
                    again.append(key)
                seen.add(key)
            describe = _twice(kind)
            problems.add_each(annotations.source, again, describe, fatal=True, kind=f"image {kind}s that are repeated")


def _twice(kind: str) -> Describe:
    return lambda key: (key, f"image {kind} {shown(key)} is there twice")


# --- pictures --------------------------------------------------------------------------------------------------------


def _files(annotations: AnnotationSet, problems: Problems, headers: int) -> None:
    if annotations.folder is None:
        return
    there = _Listing(annotations.folder)
    missing = [image for image in annotations.images if image.file_name not in there]
    if len(missing) == len(annotations.images) > 1:  # one thing is wrong, not thousands
        problems.add(
            annotations.source,
            f"none of its {len(missing):,} images is in {annotations.folder}, where {shown(missing[0].file_name)} "
            "should be: put them there, or name the folder that the file names are relative to",
            fatal=True,
        )
        return
    problems.add_each(
        annotations.source,
        missing,
        lambda image: (image.id, f"image {shown(image.id)}: {annotations.folder / image.file_name} does not exist"),
        fatal=True,
        kind=f"images that are not in {annotations.folder}",
    )
    gone = {image.id for image in missing}
    present = [image for image in annotations.images if image.id not in gone]
    wrong = []
    for image in present[:: max(1, -(-len(present) // headers))] if headers else []:
        try:
            size = image_size(annotations.folder / image.file_name)
        except DataError as error:
            wrong.append((image.id, f"image {shown(image.id)}: {error}"))
            continue
        if size != (image.width, image.height):
            said = f"{annotations.folder / image.file_name} has {size[0]} x {size[1]} pixels, annotated are"
            wrong.append((image.id, f"image {shown(image.id)}: {said} {image.width} x {image.height}"))
    problems.add_each(
        annotations.source, wrong, lambda pair: pair, fatal=True, kind="images that cannot be used, of those opened"
    )


class _Listing:
    """Which files a folder has; every folder below is listed once, which is much quicker than asking for each file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = dict[str, set[str]]()

    def __contains__(self, name: str) -> bool:
        folder, base = os.path.split(os.path.normpath(name))
        if folder not in self._names:
            try:
                self._names[folder] = set(os.listdir(self._root / folder))
            except OSError:
                self._names[folder] = set()
        # A case-insensitive disk has files that its listing spells otherwise.
        return base in self._names[folder] or (self._root / folder / base).is_file()


# --- classes ----------------------------------------------------------------------------------------------------------


def _classes(sets: Mapping[str, AnnotationSet], tasks: TaskSet, problems: Problems) -> None:
    for role, annotations in sets.items():
        if not annotations.images:
            continue  # said already
        if tasks.unknown_id in annotations.category_ids:
            name = annotations.categories[annotations.category_ids.index(tasks.unknown_id)]
            problems.add(
                annotations.source,
                f"category {shown(name)} has id {tasks.unknown_id}, which is the unknown_id of {tasks.name}: set "
                "unknown_id in the task file to an id that no category has",
                fatal=True,
            )
        present = _annotated(annotations, tasks)
        numbers = range(1, tasks.count + 1)
        if role.startswith("train_"):
            numbers = range(int(role.removeprefix("train_")), int(role.removeprefix("train_")) + 1)
        for task in numbers:
            _absent(annotations, role, task, tasks.current(task), present, problems)


def _annotated(annotations: AnnotationSet, tasks: TaskSet) -> set[str]:
    used: Indices = np.unique(annotations.box_category)
    return {tasks.canonical(annotations.categories[i]) for i in used.tolist()}


def _absent(
    annotations: AnnotationSet, role: str, task: int, names: Sequence[str], present: set[str], problems: Problems
) -> None:
    absent = [name for name in names if name not in present]
    if len(absent) == len(names) and is_train(role):
        problems.add(
            annotations.source,
            f"no class of task {task} is annotated ({', '.join(absent)}); the file's classes are "
            f"{', '.join(sorted(present)[:20]) or 'none'}: correct the task file, or give the annotations of this task",
            fatal=True,
        )
        return
    for name in absent:
        others = [other for other in annotations.categories if other not in names]
        hint = did_you_mean(name, others) if name not in annotations.categories else ""
        problems.add(annotations.source, f"class {shown(name)} of task {task} has no annotation{hint}", fatal=False)
