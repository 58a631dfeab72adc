"""The numbers that `surnia detect predict` writes: its own, or those of annotations that it is to be like."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from apps.given_images import Given, Images, tell_repeated
from detection.data.annotations import ImageRecord
from detection.data.coco import read_coco
from detection.data.file_names import FileNames
from detection.data.results import category_ids
from detection.detector import OpenWorldDetector
from detection.structures import FIRST_KNOWN, UNKNOWN
from sslcore.errors import ConfigError, DataError
from sslcore.storage.messages import show_path


@dataclass(frozen=True)
class Numbers:
    """Ids in result files.

    Attributes:
        category_of: categories by the detector's labels.
        images: what annotations say of an image, by its name; None: there are none, and images are counted from 1.
        source: the annotations.
    """

    category_of: dict[int, int]
    images: dict[str, ImageRecord] | None = None
    source: str = ""

    def of_image(self, name: str, count: int) -> int | str:
        """The id of the image that comes after `count` others."""
        return count + 1 if self.images is None else self.images[name].id

    def check(self, name: str, path: Path, picture: Image.Image) -> None:
        """DataError if the picture is not as large as annotated: boxes in it would be of another scale."""
        if self.images is None:
            return
        width, height = self.images[name].width, self.images[name].height
        if picture.size != (width, height):
            raise DataError(
                f"{show_path(path)} has {picture.width} x {picture.height} pixels, but {self.source} says "
                f"{width} x {height}; give the pictures that were annotated"
            )


def own_numbers(detector: OpenWorldDetector) -> Numbers:
    """The task set's unknown id, and the known classes by their labels."""
    unknown = detector.tasks.unknown_id
    shift = unknown + 1 if unknown > UNKNOWN else 0
    known = {label: label + shift for label in range(FIRST_KNOWN, len(detector.names))}
    return Numbers({UNKNOWN: unknown} | known)


def read_like(file: Path, images: Sequence[Given], detector: OpenWorldDetector) -> tuple[Images, Numbers]:
    """Those images that a COCO json lists, under its names, and its numbers. How many it does not list, or lists
    besides, is said on stderr. A file is looked at once for each name that is listed, if links give it several.

    Raises:
        ConfigError: the unknown id is that of a class there.
        DataError: the file is no COCO json, or lists none of the images, or which one is meant is not clear.
    """
    annotations = read_coco(file, tasks=detector.tasks)
    unknown = detector.tasks.unknown_id
    taken = dict(zip(annotations.category_ids, annotations.categories, strict=True)).get(unknown)
    if taken in detector.tasks.classes:
        raise ConfigError(
            f"command line: --like  {show_path(file)} has the category '{taken}' under the id {unknown}, which is that "
            "of unknown objects; leave --like out, and give surnia detect score a task file with another unknown_id"
        )
    names = [image.file_name for image in annotations.images]
    listed = _listed(images, FileNames(names), file)
    files = {each.file for each in images}
    if not listed:
        raise DataError(
            f"{show_path(file)} lists none of the {len(files)} images, {show_path(images[0].path)} for one; give the "
            "folder of its images"
        )
    strange = files - {os.path.realpath(path) for path in listed.values()}
    _tell(len(strange), len(names) - len(listed), show_path(file))
    records = {names[place]: annotations.images[place] for place in listed}
    of_label = category_ids(annotations, detector.tasks, detector.task)
    return [(path, names[place]) for place, path in listed.items()], Numbers(of_label, records, show_path(file))


def _listed(images: Sequence[Given], annotated: FileNames, file: Path) -> dict[int, Path]:
    """The file of each image, by its place in the annotations, in the files' order."""
    found, repeated = dict[int, Given](), 0
    for each in images:
        for place in annotated.find(each.path.absolute().as_posix()):
            first = found.setdefault(place, each)
            if first.file != each.file:
                raise DataError(
                    f"{show_path(first.path)} and {show_path(each.path)} are both "
                    f"{show_path(annotated.names[place])} by name, which {show_path(file)} lists once; give the one "
                    "that is meant"
                )
            repeated += first is not each
    tell_repeated(repeated)
    return {place: each.path for place, each in found.items()}


def _tell(strange: int, absent: int, file: str) -> None:
    if strange:
        print(f"note: {strange:,} images that {file} does not list are left out", file=sys.stderr)
    if absent:
        print(
            f"note: {absent:,} images that {file} lists are not among those given; when scored, nothing was found in "
            "them",
            file=sys.stderr,
        )
