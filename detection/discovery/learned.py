"""What was learned from unknown objects before, so that nothing is labelled twice."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detection.data.annotations import AnnotationSet, Boxes
from detection.data.pictures import Contents
from detection.discovery.records import SourceImage, read_json
from sslcore.errors import DataError
from sslcore.storage import files, folders
from sslcore.storage.messages import show_path

SAME = 0.5
"""Boxes in the same picture that overlap by more than this IoU are about the same object, as in training.
A detector that has learnt more in between draws another box around the same object."""
SCHEMA = 1


@dataclass(frozen=True)
class LearnedBox:
    """A box that became an annotation: its id, its picture's id, where it is, its class, the task that brought it."""

    id: int
    image: int
    box: tuple[float, float, float, float]
    name: str
    task: int


@dataclass
class Learned:
    """The record of a run: which pictures have which ids, and which boxes in them are labelled.

    Attributes:
        images: SHA-256 of a picture's file and its id.
        boxes: in the order in which they were learned.
    """

    images: dict[str, int] = field(default_factory=dict)
    boxes: list[LearnedBox] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Learned":
        """Read the record; an empty one if there is no file yet.

        Raises:
            DataError: it is damaged, or something else.
        """
        if not path.exists():
            return cls()
        remedy = "restore it from a copy, or remove it if nothing that was learned may be labelled again"
        value = read_json(path, remedy=remedy)
        try:
            if value["schema"] != SCHEMA:
                raise DataError(f"{show_path(path)} was written by another version of Surnia; {remedy}")
            boxes = [LearnedBox(**{**box, "box": _four(box["box"])}) for box in value["boxes"]]
            return cls({str(sha256): int(number) for sha256, number in value["images"].items()}, boxes)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{show_path(path)} is no record of what was learned; {remedy}") from error

    def save(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        boxes = [{**vars(box), "box": list(box.box)} for box in self.boxes]
        folders.make_folder(path.parent)
        files.write_json(path, {"schema": SCHEMA, "images": self.images, "boxes": boxes})

    def before(self, task: int) -> "Learned":
        """The record as it was before a task: a lesson that is given again replaces itself. Pictures keep their ids."""
        return Learned(dict(self.images), [box for box in self.boxes if box.task < task])


@dataclass(frozen=True)
class Place:
    """A picture in a set of annotations."""

    annotations: AnnotationSet
    index: int

    def boxes(self, classes: Container[str]) -> Boxes:
        """(m, 4) what is annotated in it of some classes."""
        rows = np.flatnonzero(self.annotations.box_image == self.index)
        names = self.annotations.categories
        return self.annotations.boxes[[row for row in rows if names[self.annotations.box_category[row]] in classes]]


def find_pictures(images: Iterable[SourceImage], sets: Sequence[AnnotationSet]) -> dict[str, Place]:
    """Which of the pictures are in annotated sets, by SHA-256, whatever they are called there.

    Only files of the right size and shape are read. Sets without a folder, and files that are gone, hold none of them.
    """
    wanted = {(image.bytes, image.width, image.height) for image in images}
    hashes = {image.sha256 for image in images}
    found: dict[str, Place] = {}
    contents = Contents()
    for annotations in sets:
        if annotations.folder is None:
            continue
        for index, record in enumerate(annotations.images):
            path = annotations.path(index)
            sha256 = contents.sha256(path) if contents.shape(path, record) in wanted else None
            if sha256 is not None and sha256 in hashes:
                found.setdefault(sha256, Place(annotations, index))
    return found


def overlaps(box: Sequence[float] | npt.NDArray[np.float64], others: Boxes) -> npt.NDArray[np.float64]:
    """(m,) IoU of a box with others."""
    box = np.asarray(box, dtype=np.float64)
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = sides.clip(min=0).prod(axis=1)
    together = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - common
    return common / np.maximum(together, 1e-12)


def _four(box: Any) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(x) for x in box)
    return left, top, right, bottom
