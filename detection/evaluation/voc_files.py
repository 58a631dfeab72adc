"""Detections in files of Pascal VOC's form: one a class, a line for each box, as ORE's code and its heirs write them.

    000139 0.981 48.2 240.7 195.0 371.3      image, score, left, top, right, bottom; of unknown objects in unknown.txt

Corners count pixels from 1 there, right and bottom are as the detector gave them, scores have three digits and corners
one. A run on a list that names an image k times writes that image's detections k times.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path, PurePosixPath

import numpy as np

from detection.data.annotations import Indices
from detection.data.problems import shown
from detection.evaluation.arrays import DetectionArrays, Floats, GroundTruth, as_ids
from detection.evaluation.comparison import lines_of
from detection.tasks import UNKNOWN_NAME, TaskSet
from sslcore.did_you_mean import did_you_mean
from sslcore.errors import DataError
from sslcore.storage.files import read_file
from sslcore.storage.messages import show_path

MAX_BYTES = 1 << 32
_REMEDY = "give the folder with a file for each class (aeroplane.txt, ..., unknown.txt)"
_DEVKIT = re.compile(r"comp\d+_det_[^_]+_(.+)")
"""Names of Pascal VOC's development kit: comp4_det_test_aeroplane.txt."""


@dataclass(frozen=True, eq=False)
class ListedDetections:
    """The lines of all files.

    Attributes:
        lines: every line, in the files' order.
        once: without the repetitions of images that a run had listed several times.
        runs: how often each image, by its place in the annotations, was run; 0 without a detection.
        classes: that there are files of.
    """

    lines: DetectionArrays
    once: DetectionArrays
    runs: Indices
    classes: tuple[str, ...]

    def fit(self, truth: GroundTruth, image_list: Sequence[int | str] | None) -> bool:
        """Whether each image was run as often as it is listed (without a list: whatever), so that `once` says all."""
        if image_list is None:
            return True
        listed = np.bincount(lines_of(truth, image_list), minlength=len(self.runs))
        return bool(((self.runs == 0) | (self.runs == listed)).all())


def read_voc_detections(folder: Path, truth: GroundTruth, tasks: TaskSet) -> ListedDetections:
    """Read the files of a folder.

    Classes go by the files' names, under the task set's names or its aliases (airplane.txt), so that the order in which
    a code base numbers its classes does not matter; images by their file names, with or without suffix, or by number.

    Args:
        folder: of `<class>.txt`, or `comp4_det_<split>_<class>.txt`.
        truth: with a category for every class of the task set, under its names.
        tasks: the class lists.

    Raises:
        DataError: no or other files, a line that is none, an image that the annotations do not have.
    """
    files = _class_files(folder, tasks)
    ids = dict(zip(truth.categories, truth.category_ids, strict=True)) | {UNKNOWN_NAME: tasks.unknown_id}
    names, numbers, categories = list[str](), list[Floats](), list[Indices]()
    for name, file in files.items():
        images, values = _read(file)
        names += images
        numbers.append(values)
        categories.append(np.full(len(images), ids[name], dtype=np.int64))
    values = np.concatenate(numbers)
    boxes = values[:, 1:] - np.array([1.0, 1.0, 0.0, 0.0])
    place = _places(names, truth, folder)
    category = np.concatenate(categories)
    image_ids = as_ids([truth.image_ids[i] for i in place.tolist()])
    lines = DetectionArrays(image_ids, category, boxes, values[:, 0], source=str(folder))
    kept, runs = _repetitions(place, np.column_stack([category, values]), len(truth.image_ids))
    once = DetectionArrays(image_ids[kept], category[kept], boxes[kept], values[kept, 0], source=str(folder))
    return ListedDetections(lines, once, runs, tuple(files))


# --- files -----------------------------------------------------------------------------------------------------------


def _class_files(folder: Path, tasks: TaskSet) -> dict[str, Path]:
    """Files by class, in the task set's order, unknown last."""
    found, strange = dict[str, Path](), list[str]()
    for file in sorted(folder.glob("*.txt")):
        name = _class_of(file.stem, tasks)
        if name is None:
            strange.append(file.stem)
        elif name in found:
            raise DataError(
                f"{show_path(found[name])} and {show_path(file)} are both of {shown(name)}; keep one of them"
            )
        else:
            found[name] = file
    if strange:
        hint = did_you_mean(strange[0], [*tasks.classes, UNKNOWN_NAME])
        others = f" (and {len(strange) - 1} more like it)" if len(strange) > 1 else ""
        raise DataError(
            f"{show_path(folder / strange[0])}.txt{others} is of no class of {tasks.name}: take it out, or name the "
            f"task set that the run was of with --tasks{hint}"
        )
    if not found:
        raise DataError(f"{show_path(folder)} has no detections in Pascal VOC's form; {_REMEDY}")
    return {name: found[name] for name in (*tasks.classes, UNKNOWN_NAME) if name in found}


def _class_of(stem: str, tasks: TaskSet) -> str | None:
    devkit = _DEVKIT.fullmatch(stem)
    for name in (stem, devkit[1] if devkit else stem):
        for spelled in (name, name.replace("_", " ")):
            ours = tasks.canonical(spelled)
            if ours in tasks.classes or ours == UNKNOWN_NAME:
                return ours
    return None


def _read(file: Path) -> tuple[list[str], Floats]:
    """Image names and (n, 5) score and corners."""
    raw = read_file(file, limit=MAX_BYTES, error=DataError, remedy=_REMEDY)
    rows = [(number, line.split()) for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), start=1)]
    rows = [(number, row) for number, row in rows if row]
    if not rows:
        return [], np.zeros((0, 5))
    try:
        values = np.array([row[1:] for _, row in rows], dtype=np.float64)
        if values.shape == (len(rows), 5) and np.isfinite(values).all():
            return [row[0] for _, row in rows], values
    except ValueError:
        pass  # told below
    number = next((number for number, row in rows if not _is_line(row)), 1)
    raise DataError(
        f"{show_path(file)}, line {number}, is no detection: it needs an image, a score and left, top, right, bottom"
    )


def _is_line(row: list[str]) -> bool:
    try:
        return len(row) == 6 and bool(np.isfinite([float(value) for value in row[1:]]).all())
    except ValueError:
        return False


# --- images ----------------------------------------------------------------------------------------------------------


def _places(names: Sequence[str], truth: GroundTruth, folder: Path) -> Indices:
    """The place of each line's image in the annotations."""
    by_name = {name: i for i, name in enumerate(truth.file_names)}
    by_stem, by_number = dict[str, list[int]](), dict[int, set[int]]()
    for i, (image, name) in enumerate(zip(truth.image_ids, truth.file_names, strict=True)):
        stem = PurePosixPath(name).stem
        by_stem.setdefault(stem, []).append(i)
        for number in (image, int(stem) if stem.isdecimal() else image):
            if isinstance(number, int):
                by_number.setdefault(number, set()).add(i)
    place, unclear = dict[str, int](), dict[str, int]()
    for name in dict.fromkeys(names):
        fitting = {by_name[name]} if name in by_name else set(by_stem.get(name, ()))
        if not fitting and name.isdecimal():
            fitting = by_number.get(int(name), set())
        if len(fitting) == 1:
            place[name] = next(iter(fitting))
        else:
            unclear[name] = len(fitting)
    _refuse_strangers([name for name, count in unclear.items() if not count], truth, folder)
    _refuse_ambiguous([name for name, count in unclear.items() if count])
    return np.array([place[name] for name in names], dtype=np.int64)


def _refuse_strangers(names: Sequence[str], truth: GroundTruth, folder: Path) -> None:
    if names:
        remedy = "score them with the annotations they were made for"
        if "" in truth.file_names:
            remedy = "give all of its images the file_name by which these files call them"
        raise DataError(
            f"{show_path(folder)} has detections in {len(names):,} images that {truth.source} does not have, "
            f"{shown(names[0])} for one; {remedy}"
        )


def _refuse_ambiguous(names: Sequence[str]) -> None:
    if names:
        raise DataError(
            f"{len(names):,} images are named by a number that two of the annotated images have, {shown(names[0])} for "
            "one: read as a number, Pascal VOC's 000139 and COCO's 000000000139 are the same; write the detections "
            "under the images' file names"
        )


# --- repetitions -----------------------------------------------------------------------------------------------------


def _repetitions(place: Indices, rows: Floats, images: int) -> tuple[Indices, Indices]:
    """Lines without the repetitions of whole images, in order; and how often each image was run: the greatest number
    that divides how often each of its lines is there."""
    keyed = np.column_stack([place, rows])
    _, group, counts = np.unique(keyed, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    runs = np.zeros(images, dtype=np.int64)
    first = np.zeros(len(counts), dtype=np.int64)
    first[group[::-1]] = np.arange(len(group))[::-1]  # the first line of each kind
    for image, count in zip(place[first].tolist(), counts.tolist(), strict=True):
        runs[image] = gcd(int(runs[image]), count)
    # Of a line that is there n times in an image that was run k times, n / k stay: the first ones.
    order = np.argsort(group, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, counts)
    return np.flatnonzero(rank < counts[group] // runs[place]), runs


def notes_on(found: ListedDetections) -> Iterable[str]:
    """What a person should know about the files."""
    again = int((found.runs > 1).sum())
    if again:
        yield f"The run had {again:,} images listed more than once; their detections are in the files as often."
    if UNKNOWN_NAME not in found.classes:
        yield f"There is no {UNKNOWN_NAME}.txt: nothing was called unknown."
