"""Reading Pascal VOC's annotations: `Annotations/*.xml`, `ImageSets/Main/SPLIT.txt`, `JPEGImages/`.

The files are untrusted: limited in size, and refused if they declare a document type, which is where entities that
expand without end, or read other files, are defined.
"""

import math
import os
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.data.problems import Problems, shown
from detection.tasks import TaskSet
from sslcore.errors import DataError
from sslcore.storage.files import read_file
from sslcore.storage.images import IMAGE_SUFFIXES

MAX_LIST, MAX_XML = 1 << 28, 1 << 20
MAX_SIDE = 1 << 24
_MISSING = "is missing; unpack the annotations anew, or take the image off its list"
_REMEDY = "give a folder with Annotations, ImageSets/Main and JPEGImages, as Pascal VOC's are laid out"


@dataclass
class _Parsed:
    """One annotation file: the image's size; of each object class, corners as in the file, difficult."""

    width: int
    height: int
    names: list[str] = field(default_factory=list)
    corners: list[tuple[float, ...]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)


def splits(folder: str | Path) -> list[str]:
    """The splits that a folder in VOC's layout lists whole images for, without the lists of single classes."""
    main = Path(folder) / "ImageSets" / "Main"
    return sorted(file.stem for file in main.glob("*.txt") if "_" not in file.stem) if main.is_dir() else []


def read_voc(
    folder: str | Path, split: str | None, *, tasks: TaskSet | None = None, problems: Problems | None = None
) -> AnnotationSet:
    """Read one split of a folder in VOC's layout.

    Corners are made half-open: VOC counts pixels from 1 and includes the last, so (1, 1, 500, 375) becomes
    (0, 0, 500, 375). Images are identified by their names without suffix, boxes are numbered from 1. Category ids count
    from 1: the classes of `tasks` in their order, so that every split has the same, then others by name.

    Args:
        folder: such as VOCdevkit/VOC2007.
        split: trainval, test, ...; None: every image that has an annotation file, by name.
        tasks: gives classes their canonical names.
        problems: is given what is wrong, and what is wrong is left out of the set; None: a fatal problem is raised.

    Raises:
        DataError: not such a folder; or, without `problems`, the fatal problems by file.
    """
    root = Path(folder)
    found = Problems() if problems is None else problems
    names = sorted(file.stem for file in (root / "Annotations").glob("*.xml"))
    names = names if split is None else _listed(root, split, found)
    files = _image_files(root / "JPEGImages")
    parsed = _parse_all(root / "Annotations", names, found)
    if problems is None:
        found.refuse()
    return _as_set(root, split, parsed, files, tasks)


def _as_set(
    root: Path, split: str | None, parsed: dict[str, _Parsed], files: dict[str, str], tasks: TaskSet | None
) -> AnnotationSet:
    canonical = (lambda name: name) if tasks is None else tasks.canonical
    classes = [canonical(name) for one in parsed.values() for name in one.names]
    taught = () if tasks is None else tasks.classes
    categories = (*taught, *sorted(set(classes) - set(taught)))
    place = {name: i for i, name in enumerate(categories)}
    boxes = np.array([box for one in parsed.values() for box in one.corners], dtype=np.float64).reshape(-1, 4)
    boxes[:, :2] -= 1
    count = len(boxes)
    records = (ImageRecord(name, files.get(name, f"{name}.jpg"), one.width, one.height) for name, one in parsed.items())
    return AnnotationSet(
        images=tuple(records),
        categories=categories,
        category_ids=tuple(range(1, len(categories) + 1)),
        box_image=np.repeat(np.arange(len(parsed)), [len(one.names) for one in parsed.values()]),
        boxes=boxes,
        box_category=np.array([place[name] for name in classes], dtype=np.int64),
        crowd=np.zeros(count, dtype=np.bool_),
        difficult=np.array([flag for one in parsed.values() for flag in one.difficult], dtype=np.bool_),
        area=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        box_ids=np.arange(1, count + 1),
        folder=root / "JPEGImages",
        source=str(root / "Annotations" if split is None else root / "ImageSets" / "Main" / f"{split}.txt"),
    )


def _listed(root: Path, split: str, problems: Problems) -> list[str]:
    """The images of a split, each once."""
    file = root / "ImageSets" / "Main" / f"{split}.txt"
    if not file.is_file():
        there = splits(root)
        raise DataError(f"there is no {file}; " + (f"splits there: {', '.join(there)}" if there else _REMEDY))
    text = read_file(file, limit=MAX_LIST, error=DataError, remedy=_REMEDY).decode("utf-8", "replace")
    # A class's own list has 1, 0 or -1 beside each name.
    names = [_stem(root, line.split()[0]) for line in text.splitlines() if line.strip()]
    seen, again, strange = set[str](), list[str](), list[str]()
    for name in names:
        if name in seen:
            again.append(name)
        elif "/" in name or "\\" in name or not name.isprintable() or len(name) > 200:
            strange.append(name)
        seen.add(name)
    problems.add_each(
        str(file), again, lambda name: (name, f"{name} is listed again; it is read once"), fatal=False,
        kind="images listed again",
    )  # fmt: skip
    problems.add_each(
        str(file), strange, lambda name: (None, f"{shown(name)} is no name of an image"), fatal=True,
        kind="lines that are no name of an image",
    )  # fmt: skip
    return [name for name in dict.fromkeys(names) if name not in set(strange)]


def _stem(root: Path, name: str) -> str:
    """An image's name without suffix: VOC's lists have none, lists made by hand often do."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in IMAGE_SUFFIXES or not name.isprintable() or len(name) > 200:
        return name
    return name if (root / "Annotations" / f"{name}.xml").is_file() else stem


def _image_files(folder: Path) -> dict[str, str]:
    """File names in a folder of images by their stems; the first by name where a stem has several suffixes."""
    try:
        with os.scandir(folder) as scan:
            files = sorted((entry.name for entry in scan), reverse=True)
    except OSError:
        return {}  # every image will be reported missing
    return {
        name: f"{name}{suffix}" for name, suffix in map(os.path.splitext, files) if suffix.lower() in IMAGE_SUFFIXES
    }


def _parse_all(folder: Path, names: list[str], problems: Problems) -> dict[str, _Parsed]:
    parsed, broken = {}, list[tuple[str, str]]()
    for name in names:
        try:
            parsed[name] = _parse(folder / f"{name}.xml")
        except DataError as error:
            broken.append((name, str(error)))
    problems.add_each(
        str(folder), broken, lambda pair: (pair[0], f"{pair[0]}.xml {pair[1]}"), fatal=True,
        kind="annotation files that cannot be used",
    )  # fmt: skip
    return parsed


def _parse(file: Path) -> _Parsed:
    """Read one annotation file. Raises DataError with the rest of a sentence that begins with the file's name."""
    try:
        raw = read_file(file, limit=MAX_XML, error=DataError, remedy="give its annotation")
    except DataError as error:
        raise DataError(f"cannot be read ({error})" if file.exists() else _MISSING) from error
    # In an encoding other than these expat reads the same bytes for the same ASCII characters, so nothing hides.
    if b"\0" in raw:
        raise DataError("is not UTF-8 text")
    if b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise DataError("declares a document type or entities, which no VOC annotation needs; remove them")
    try:
        root = ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"is not XML ({error}); unpack it anew") from error
    width, height = (_number(root, f"size/{key}", "the image") for key in ("width", "height"))
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE) or width != int(width) or height != int(height):
        raise DataError(f"gives the image the size {width} x {height}; it must be whole pixels")
    parsed = _Parsed(int(width), int(height))
    for number, element in enumerate(root.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        if not name or not name.isprintable():
            raise DataError(f"object {number} has no name")
        what = f"object {number} ({name})"
        corners = tuple(_number(element, f"bndbox/{key}", what) for key in ("xmin", "ymin", "xmax", "ymax"))
        parsed.names.append(name)
        parsed.corners.append(corners)
        parsed.difficult.append(_number(element, "difficult", what, missing=0) != 0)
    return parsed


def _number(element: ElementTree.Element, path: str, what: str, missing: float | None = None) -> float:
    text = element.findtext(path)
    if text is None and missing is not None:
        return missing
    if text is None:
        raise DataError(f"{what} has no {path}")
    try:
        value = float(text[:50])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{what} has {path} {shown(text.strip())}, which is no finite number")
    return value
