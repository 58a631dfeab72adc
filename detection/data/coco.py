"""Reading COCO's object annotations.

The files are untrusted: every value's type and range is looked at, and what is wrong is told by file and id. The check
of a value costs as much as its use: columns are made in one pass and judged as arrays; only a file that fails there is
searched for the offenders.
"""

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from posixpath import normpath
from typing import Any

import numpy as np
import numpy.typing as npt

from detection.data.annotations import AnnotationSet, Boxes, ImageRecord, Indices
from detection.data.coco_columns import UNUSABLE, as_columns, complaint, corners, offenders
from detection.data.problems import Problems, shown
from detection.tasks import TaskSet
from sslcore.errors import DataError
from sslcore.storage.files import read_file

MAX_BYTES = 1 << 32
MAX_SIDE = 1 << 24
_OUTLINE = re.compile(rb'(?<!\\)"segmentation"\s*:\s*(?:\[[-+0-9.eE,\s\[\]]*\]|\{[^{}]*\})')
"""An object's outline: three quarters of COCO's files, and nothing that is read here."""


def read_coco(
    path: str | Path,
    *,
    images: str | Path | None = None,
    tasks: TaskSet | None = None,
    problems: Problems | None = None,
    by_ids: bool = False,
) -> AnnotationSet:
    """Read a COCO json: `images`, `annotations`, `categories`, and `distractors` where scenes have them.

    Boxes come out as the file has them (`validation.clean` clips them to the image), images without one are kept.
    A missing area is the box's, a missing iscrowd or `difficult` 0; annotations whose ids are missing or repeated are
    numbered from 1.

    Args:
        path: the file.
        images: folder that file names are relative to; None: annotations alone.
        tasks: gives categories their canonical names.
        problems: is given what is wrong, and what is wrong is left out of the set; None: a fatal problem is raised.
        by_ids: no picture will be looked at: images may lack file_name, width and height, and file names may lead
            anywhere; what is lacking is "" and 0.

    Raises:
        DataError: not a COCO json; or, without `problems`, the fatal problems by file and id.
    """
    found = Problems() if problems is None else problems
    content = load_json(path)
    reader = _Reader(str(path), found)
    with _no_collector():
        records = reader.images(content["images"], by_ids)
        categories = reader.categories(content["categories"], tasks)
        index_of = {record.id: i for i, record in enumerate(records)}
        columns = reader.annotations(content["annotations"], index_of, categories)
        distractor_image, distractors = reader.distractors(content.get("distractors", []), index_of)
    if problems is None:
        found.refuse()
    return AnnotationSet(
        images=tuple(records),
        categories=tuple(categories.values()),
        category_ids=tuple(categories),
        folder=None if images is None else Path(images),
        distractor_image=distractor_image,
        distractors=distractors,
        source=str(path),
        **columns,
    )


def load_json(path: str | Path) -> dict[str, Any]:
    """The content of a COCO json, its three lists present and everything in them unchecked.

    Raises:
        DataError: it is missing, too large, not JSON or not COCO's.
    """
    remedy = "give a COCO json of images, annotations and categories"
    try:
        with _no_collector():
            content = _parsed(path, remedy)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or "it is too large"
        raise DataError(f"{path} is not JSON ({reason}); {remedy}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__} where a COCO json has an object; {remedy}")
    for key in ("images", "annotations", "categories", "distractors"):
        if key not in content and key != "distractors":
            raise DataError(f"{path} has no '{key}'; {remedy}")
        if not isinstance(content.get(key, []), list):
            raise DataError(f"'{key}' of {path} is no list; {remedy}")
    return content


def _parsed(path: str | Path, remedy: str) -> Any:
    """The content without outlines, which as Python's numbers would take ten times their length in memory."""
    text = _OUTLINE.sub(b'"segmentation":0', read_file(path, limit=MAX_BYTES, error=DataError, remedy=remedy))
    try:
        return json.loads(text)
    except ValueError:
        del text
        # Once more as it is, for the place of the mistake in the file.
        return json.loads(read_file(path, limit=MAX_BYTES, error=DataError, remedy=remedy))


@contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of small objects that all stay: looking for garbage among them more than doubles the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Reader:
    """Turns the lists of one file into records and arrays, and tells `problems` what had to be left out."""

    def __init__(self, file: str, problems: Problems) -> None:
        self.file, self.problems = file, problems

    # --- images and categories ---------------------------------------------------------------------------------------

    def images(self, entries: list[Any], by_ids: bool) -> list[ImageRecord]:
        records, wrong = [], []
        ids, names = set[Any](), set[str]()
        for place, entry in enumerate(entries):
            complaint = _wrong_image(entry, by_ids)
            if complaint:
                wrong.append((entry.get("id") if isinstance(entry, dict) else None, f"image {place + 1}: {complaint}"))
                continue
            name, width, height = (entry.get(key) for key in ("file_name", "width", "height"))
            record = ImageRecord(entry["id"], name or "", int(width or 0), int(height or 0))
            if record.id in ids:
                wrong.append((record.id, f"image id {shown(record.id)} is given to more than one image"))
            elif record.file_name and normpath(record.file_name) in names:
                wrong.append((record.id, f"image {shown(record.id)}: {shown(record.file_name)} is listed twice"))
            else:
                records.append(record)
            ids.add(record.id)
            names.add(normpath(record.file_name))
        self.problems.add_each(self.file, wrong, lambda pair: pair, fatal=True, kind="images that cannot be used")
        return records

    def categories(self, entries: list[Any], tasks: TaskSet | None) -> dict[int, str]:
        names, wrong = dict[int, str](), list[tuple[Any, str]]()
        first = dict[str, int]()
        for place, entry in enumerate(entries):
            number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
            if type(number) is not int or not 0 <= number < 2**31 or not isinstance(name, str) or not name:
                wrong.append((number, f"category {place + 1} needs a whole number as id and a name: {shown(entry)}"))
                continue
            ours = name if tasks is None else tasks.canonical(name)
            if number in names:
                wrong.append((number, f"category id {number} is given to {shown(names[number])} and to {shown(name)}"))
            elif ours in first:
                wrong.append((number, f"categories {first[ours]} and {number} are both called {shown(ours)}"))
            else:
                names[number] = ours
                first[ours] = number
        self.problems.add_each(self.file, wrong, lambda pair: pair, fatal=True, kind="categories that cannot be used")
        return names

    # --- boxes -------------------------------------------------------------------------------------------------------

    def annotations(
        self, entries: list[Any], index_of: dict[int | str, int], categories: dict[int, str]
    ) -> dict[str, Any]:
        columns = self._columns(entries, "annotation")
        names = columns["id"]
        image = self._looked_up(columns["image_id"], index_of, names, "image", "annotation")
        category_of = {number: i for i, number in enumerate(categories)}
        category = self._looked_up(columns["category_id"], category_of, names, "category", "annotation")
        finite = self._finite(columns, names)
        rows = np.flatnonzero((image >= 0) & (category >= 0) & finite)
        rows = rows[np.argsort(image[rows], kind="stable")]
        return {
            "box_image": image[rows],
            "boxes": corners(columns["bbox"])[rows],
            "box_category": category[rows],
            "crowd": columns["iscrowd"][rows],
            "difficult": columns["difficult"][rows],
            "area": columns["area"][rows],
            "box_ids": self._numbers(names)[rows],
        }

    def distractors(self, entries: list[Any], index_of: dict[int | str, int]) -> tuple[Indices, Boxes]:
        usable = [{"category_id": 0, **entry} if isinstance(entry, dict) else entry for entry in entries]
        columns = self._columns(usable, "distractor")
        image = self._looked_up(columns["image_id"], index_of, columns["id"], "image", "distractor")
        rows = np.flatnonzero((image >= 0) & self._finite(columns, columns["id"]))
        rows = rows[np.argsort(image[rows], kind="stable")]
        return image[rows], corners(columns["bbox"])[rows]

    def _columns(self, entries: list[Any], what: str) -> dict[str, Any]:
        try:
            return as_columns(entries)
        except UNUSABLE:
            wrong = set(offenders(entries))
            self.problems.add_each(
                self.file,
                sorted(wrong),
                lambda place: (_id_of(entries[place]), f"{what} {_label(entries, place)} {complaint(entries[place])}"),
                fatal=True,
                kind=f"{what}s that cannot be used",
            )
            return as_columns([entry for place, entry in enumerate(entries) if place not in wrong])

    def _looked_up(self, keys: list[Any], index_of: dict[Any, int], names: list[Any], kind: str, what: str) -> Indices:
        index = np.array([index_of.get(key, -1) for key in keys], dtype=np.int64)
        self.problems.add_each(
            self.file,
            np.flatnonzero(index < 0).tolist(),
            lambda row: (names[row], f"{what} {shown(names[row])} has unknown {kind} id {shown(keys[row])}"),
            fatal=True,
            kind=f"{what}s of unknown {'categories' if kind == 'category' else 'images'}",
        )
        return index

    def _finite(self, columns: dict[str, Any], names: list[Any]) -> npt.NDArray[np.bool_]:
        with np.errstate(over="ignore"):
            finite = np.isfinite(corners(columns["bbox"])).all(axis=1) & np.isfinite(columns["area"])
        self.problems.add_each(
            self.file,
            np.flatnonzero(~finite).tolist(),
            lambda row: (
                names[row],
                f"annotation {shown(names[row])} has a box or area that is not finite: "
                f"{columns['bbox'][row].tolist()}, {columns['area'][row]}",
            ),
            fatal=True,
            kind="annotations with a box or area that is not finite",
        )
        return finite

    def _numbers(self, names: list[Any]) -> Indices:
        """The annotations' ids; their places, counted from 1, where ids are missing, repeated or no numbers."""
        if all(type(name) is int and -(2**63) <= name < 2**63 for name in names) and len(set(names)) == len(names):
            return np.array(names, dtype=np.int64)
        self.problems.add(
            self.file, "annotation ids are missing or repeated; annotations are numbered from 1 instead", fatal=False
        )
        return np.arange(1, len(names) + 1)


def _wrong_image(entry: Any, by_ids: bool) -> str | None:
    """What is wrong with an entry of `images`."""
    if not isinstance(entry, dict):
        return f"is no object but {shown(entry)}"
    needed = ("id",) if by_ids else ("id", "file_name", "width", "height")
    missing = [key for key in needed if entry.get(key) is None]
    if missing:
        return f"id {shown(entry.get('id'))} has no {' and no '.join(missing)}"
    number, name = entry["id"], entry.get("file_name")
    if type(number) not in (int, str):
        return f"its id must be a whole number or text, not {shown(number)}"
    if name is not None and (not isinstance(name, str) or not name or not name.isprintable()):
        return f"id {shown(number)}: file_name must be text, not {shown(name)}"
    if name is not None and not by_ids and _leads_out(name):
        return f"id {shown(number)}: {shown(name)} leads out of the images' folder; file names must be relative to it"
    for key in ("width", "height"):
        side = entry.get(key)
        if side is None:
            continue
        if type(side) not in (int, float) or not 1 <= side <= MAX_SIDE or side != int(side):
            return f"id {shown(number)}: {key} must be a whole number of pixels, not {shown(side)}"
    return None


def _leads_out(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")


def _id_of(entry: Any) -> Any:
    return entry.get("id") if isinstance(entry, dict) else None


def _label(entries: list[Any], place: int) -> str:
    name = _id_of(entries[place])
    return f"number {place + 1}" if name is None else shown(name)
