"""From named groups to the next task: its classes, and annotations to learn them from.

Only what a person named is annotated. What the detector knows already it has not been asked about, and other unknown
objects in the same pictures stay unlabelled, as in every training set of an open world.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations import AnnotationSet, Boxes, ImageRecord
from detection.discovery.learned import SAME, Learned, LearnedBox, Place, find_pictures, overlaps
from detection.discovery.naming import Named, read_names
from detection.discovery.records import SourceImage
from detection.tasks import TaskSet
from sslcore.errors import DataError
from sslcore.storage import files, folders
from sslcore.storage.messages import show_path

TASKS, TRAIN = "tasks.yaml", "train.json"


@dataclass(frozen=True, eq=False)
class Lesson:
    """The next task.

    Attributes:
        tasks: the tasks learned so far, and the new one.
        task: its number.
        annotations: its training images, referred to where they are (`annotations.folder` is the root).
        notes: what was understood, put together or skipped, in sentences.
        tasks_file, train_file: the same as files.
    """

    tasks: TaskSet
    task: int
    annotations: AnnotationSet
    notes: tuple[str, ...]
    tasks_file: Path
    train_file: Path


@dataclass(frozen=True)
class _Item:
    """One annotation to be."""

    id: int
    image_id: int
    thing: int
    name: str


def learn(
    names: str | Path,
    tasks: TaskSet,
    task: int,
    folder: str | Path,
    *,
    record: str | Path,
    labelled: Sequence[AnnotationSet] = (),
    held_out: Sequence[AnnotationSet] = (),
    root: str | Path | None = None,
) -> Lesson:
    """Make the next task of what a person named, and write it as `tasks.yaml` and `train.json` (COCO) into a folder.

    Giving the same lesson again, say after its training was broken off, gives the same files.

    Args:
        names: the names.yaml.
        tasks: those of the run.
        task: the last one that was learned, from 1. Tasks after it are dropped: their classes may be named anew.
        folder: where the files go; replaced if it holds a lesson.
        record: file that remembers what was learned in this run; made if it is not there.
        labelled: training annotations of earlier tasks. What they label in the same picture is not labelled again, and
            ids go on after theirs.
        held_out: annotations of validation and test images. Such pictures are skipped.
        root: where the pictures are now, if they have moved together.

    Raises:
        ConfigError: everything that is wrong in names.yaml.
        DataError: the collection or its pictures are gone or changed, nothing is named, or nothing new is left; or
            `folder` holds something else.
        CheckpointError: the files cannot be written.
    """
    folder, record = Path(folder), Path(record)
    _refuse_foreign(folder)
    known = tasks.known(task)
    named = read_names(names, known=known, canonical=tasks.canonical, root=root)
    if not named.classes:
        raise DataError(
            f"no group in {show_path(Path(names))} has a name; type at least one after 'name:', then try again"
        )
    notes = list(named.notes)
    learned = Learned.load(record).before(task + 1)
    items = _items(named, learned, tasks, task, labelled, held_out, notes)
    classes = [name for name in named.classes if any(item.name == name for item in items)]
    if not classes:
        raise DataError(
            f"nothing new is left to learn: {'; '.join(notes)}; collect unknown objects from other pictures"
        )
    notes += [f"'{name}' has no object left and is no class" for name in named.classes if name not in classes]
    extended = _extended(tasks, task, classes)
    annotations = _annotations(named, items, extended)
    folders.make_folder(folder.parent)
    with folders.new_folder(folder) as temporary:
        extended.save(temporary / TASKS)
        files.write_json(temporary / TRAIN, _coco(named, items, annotations))
    learned.save(record)  # last: without the files nothing was learned
    return Lesson(extended, task + 1, annotations, tuple(notes), folder / TASKS, folder / TRAIN)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - {TASKS, TRAIN}):
        raise DataError(f"{show_path(folder)} already holds something else; name a new folder, or delete this one")


def _extended(tasks: TaskSet, task: int, classes: Sequence[str]) -> TaskSet:
    """The tasks up to `task` and a new one, with the aliases that still stand for something."""
    kept = tasks.tasks[:task]
    left = {*classes, *(name for names in kept for name in names)}
    aliases = {other: name for other, name in tasks.aliases.items() if name in left}
    return TaskSet(tasks.name, (*kept, tuple(classes)), tasks.unknown_id, aliases)


class _Annotator:
    """Turns objects into annotations and enters them into the record, unless they are labelled already.

    Args:
        learned: the record.
        known: classes of the tasks before.
        labelled: the training annotations of these; only what they say of the known classes is looked at.
        before: where the pictures are in them.
    """

    def __init__(
        self, learned: Learned, known: Sequence[str], labelled: Sequence[AnnotationSet], before: Mapping[str, Place]
    ) -> None:
        self.learned, self.before = learned, before
        self.known = frozenset(known)
        ids = [record.id for each in labelled for record in each.images if isinstance(record.id, int)]
        self._next_image = 1 + max([0, *ids, *learned.images.values()])
        box_ids = [int(each.box_ids.max()) for each in labelled if len(each.box_ids)]
        self._next_box = 1 + max([0, *box_ids, *(box.id for box in learned.boxes)])
        self._taken = set(learned.images.values())
        self._there: dict[int, list[Boxes]] = {}
        for box in learned.boxes:
            self._there.setdefault(box.image, []).append(np.array(box.box))
        self._met: set[int] = set()

    def add(self, image: SourceImage, box: Boxes, name: str, task: int) -> LearnedBox | None:
        """The annotation; None if the box is labelled already."""
        number = self._image(image.sha256)
        there = self._there.setdefault(number, [])
        if there and (overlaps(box, np.stack(there)) > SAME).any():
            return None
        left, top, right, bottom = box.tolist()
        entry = LearnedBox(self._next_box, number, (left, top, right, bottom), name, task)
        self._next_box += 1
        there.append(box)
        self.learned.boxes.append(entry)
        return entry

    def _image(self, sha256: str) -> int:
        """A picture's id. One that was labelled before keeps its own, also that of an annotation file."""
        place = self.before.get(sha256)
        if sha256 not in self.learned.images:
            given = place.annotations.images[place.index].id if place is not None else None
            if not isinstance(given, int) or given in self._taken:
                given, self._next_image = self._next_image, self._next_image + 1
            self.learned.images[sha256] = given
            self._taken.add(given)
        number = self.learned.images[sha256]
        if place is not None and number not in self._met:
            self._there.setdefault(number, []).extend(place.boxes(self.known))
        self._met.add(number)
        return number


def _items(
    named: Named,
    learned: Learned,
    tasks: TaskSet,
    task: int,
    labelled: Sequence[AnnotationSet],
    held_out: Sequence[AnnotationSet],
    notes: list[str],
) -> list[_Item]:
    """Objects that become annotations, with entries in the record; `notes` gets what was skipped."""
    unknowns = named.unknowns
    class_of = {thing: name for name, things in named.classes.items() for thing in things.tolist()}
    images = {unknowns.image_of(thing) for thing in class_of}
    withheld = find_pictures(images, held_out)
    annotator = _Annotator(learned, tasks.known(task), labelled, find_pictures(images, labelled))
    items: list[_Item] = []
    in_test = there = 0
    for thing in sorted(class_of):  # by picture, then by falling score: of two boxes of one object the surer one stays
        image = unknowns.image_of(thing)
        if image.sha256 in withheld:
            in_test += 1
            continue
        entry = annotator.add(image, unknowns.boxes[thing], class_of[thing], task + 1)
        if entry is None:
            there += 1
        else:
            items.append(_Item(entry.id, entry.image, thing, entry.name))
    if there:
        notes.append(f"{there} of {len(class_of)} objects were skipped: the same object is labelled already")
    if in_test:
        notes.append(f"{in_test} of {len(class_of)} objects were skipped: they are in validation or test images")
    return items


def _annotations(named: Named, items: Sequence[_Item], tasks: TaskSet) -> AnnotationSet:
    """The same as arrays; all classes are categories, numbered from 1 in the tasks' order."""
    unknowns = named.unknowns
    index: dict[int, int] = {}
    images = list[ImageRecord]()
    for item in items:
        if item.image_id not in index:
            index[item.image_id] = len(images)
            source = unknowns.image_of(item.thing)
            images.append(ImageRecord(item.image_id, source.file, source.width, source.height))
    things = np.array([item.thing for item in items], dtype=np.int64)
    boxes = unknowns.boxes[things]
    none = np.zeros(len(items), dtype=np.bool_)
    place = {name: k for k, name in enumerate(tasks.classes)}
    return AnnotationSet(
        images=tuple(images),
        categories=tasks.classes,
        category_ids=_category_ids(tasks),
        box_image=np.array([index[item.image_id] for item in items], dtype=np.int64),
        boxes=boxes,
        box_category=np.array([place[item.name] for item in items], dtype=np.int64),
        crowd=none,
        difficult=none.copy(),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1).round(2),
        box_ids=np.array([item.id for item in items], dtype=np.int64),
        folder=unknowns.root,
        source=TRAIN,
    )


def _category_ids(tasks: TaskSet) -> tuple[int, ...]:
    free = (number for number in range(1, len(tasks.classes) + 2) if number != tasks.unknown_id)
    return tuple(number for number, _ in zip(free, tasks.classes))


def _coco(named: Named, items: Sequence[_Item], annotations: AnnotationSet) -> dict[str, Any]:
    """COCO's keys, and where each annotation comes from beside them."""
    unknowns = named.unknowns
    sources = {item.image_id: unknowns.image_of(item.thing) for item in items}
    return {
        "info": {"description": "Named unknown objects", "root": str(unknowns.root)},
        "images": [
            {
                "id": record.id,
                "file_name": record.file_name,
                "width": record.width,
                "height": record.height,
                "sha256": sources[record.id].sha256,
            }
            for record in annotations.images
            if isinstance(record.id, int)
        ],
        "annotations": [
            {
                "id": item.id,
                "image_id": item.image_id,
                "category_id": annotations.category_ids[int(annotations.box_category[row])],
                "bbox": _xywh(annotations.boxes[row]),
                "area": float(annotations.area[row]),
                "iscrowd": 0,
                "score": _or_none(unknowns.scores[item.thing]),
                "unknown_posterior": _or_none(unknowns.posteriors[item.thing]),
                "group": int(named.group_of[item.thing]),
            }
            for row, item in enumerate(items)
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(annotations.category_ids, annotations.categories)
        ],
    }


def _xywh(box: Boxes) -> list[float]:
    left, top, right, bottom = box.tolist()
    return [left, top, round(right - left, 2), round(bottom - top, 2)]


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
