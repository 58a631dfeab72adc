"""The data of an open-world run, opened and validated before anything is trained on it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detection.data.annotations import AnnotationSet
from detection.data.categories import with_categories
from detection.data.coco import read_coco
from detection.data.problems import Problem, Problems
from detection.data.settings import CocoData, OpenScenesData
from detection.data.validation import clean, validate
from detection.data.voc import read_voc
from detection.tasks import TaskSet
from sslcore.errors import ConfigError, DataError

LOOKED_FOR = 50
"""Pictures of an annotation file, evenly spread, by which their folder is found."""


@dataclass(frozen=True)
class OpenWorldData:
    """Complete annotations by role; what a stage may see of them is the business of views.

    Attributes:
        tasks: the class lists.
        trains: training images of each task, in order; the same set for all where one file serves all.
        val: images that the decision is fitted on.
        test: completely annotated images, with a category for every class: a detector may find what no test image has.
        folder: where the images are.
        fingerprint: SHA-256 (hex) of the tasks and of all annotations, wherever they lie; of the pictures too for
            OpenScenes.
        ignored: what is wrong with the data without being fatal.
    """

    tasks: TaskSet
    trains: tuple[AnnotationSet, ...]
    val: AnnotationSet
    test: AnnotationSet
    folder: Path
    fingerprint: str
    ignored: tuple[Problem, ...] = ()

    def train(self, task: int) -> AnnotationSet:
        """Training images of a task; tasks count from 1."""
        if not 1 <= task <= self.tasks.count:
            raise ValueError(f"task counts from 1 to {self.tasks.count}, not {task}")
        return self.trains[task - 1]


def open_data(
    settings: OpenScenesData | CocoData, *, fits: bool = True, say: Callable[[str], None] = lambda sentence: None
) -> OpenWorldData:
    """Open what a recipe's `data` names; OpenScenes are composed if they are not there yet.

    An annotation file is a COCO json, or the list of a split in a folder of Pascal VOC's layout
    (`VOC2007/ImageSets/Main/trainval.txt`). Boxes come out clipped to their images.

    Args:
        settings: where everything is.
        fits: the decision is fitted on the validation images, none of which may then be a test image.
        say: is told what takes a while.

    Raises:
        ConfigError: the task file is wrong, or the number of training files is not that of the tasks.
        DataError: everything fatal in the data, by file and id.
    """
    ours = _files(settings, say)
    return open_files(ours.tasks, ours.train, ours.val, ours.test, ours.images, pictures=ours.pictures, fits=fits)


def open_test(
    settings: OpenScenesData | CocoData, *, say: Callable[[str], None] = lambda sentence: None
) -> tuple[AnnotationSet, str | None]:
    """The test annotations that a recipe's `data` names, and the fingerprint of all data.

    Of a CocoData no picture is looked at, and nothing but the test annotations has to be there: without those of
    training and validation the fingerprint is None. OpenScenes are checked whole, or composed if they are not there.

    Args:
        settings: where everything is.
        say: is told what takes a while.

    Raises:
        ConfigError: the task file is wrong.
        DataError: what is fatal in the test annotations, by file and id.
    """
    ours, problems = _files(settings, say), Problems()
    read = {ours.test: read_annotations(ours.test, images=ours.images, tasks=ours.tasks, problems=problems)}
    problems += validate({"test": replace(read[ours.test], folder=None)}, ours.tasks)
    problems.refuse()
    try:
        for file in {*ours.train, ours.val} - {*read}:
            read[file] = read_annotations(file, images=ours.images, tasks=ours.tasks, problems=Problems())
        sets = {role: clean(read[file], Problems()) for role, file in ours.roles.items()}
    except DataError:
        return _to_test_on(clean(read[ours.test], Problems()), ours.tasks), None
    return _to_test_on(sets["test"], ours.tasks), fingerprint(ours.tasks, sets, ours.pictures)


def _to_test_on(annotations: AnnotationSet, tasks: TaskSet) -> AnnotationSet:
    """What is found must have a category, be it in the file or not. The fingerprint is of what the file says."""
    return with_categories(annotations, tasks.classes, unknown_id=tasks.unknown_id)


@dataclass(frozen=True)
class _Files:
    """Which files settings lead to; `pictures` is the pictures' hash, if it is known."""

    tasks: TaskSet
    train: list[str]
    val: str
    test: str
    images: Path
    pictures: str | None = None

    @property
    def roles(self) -> dict[str, str]:
        """The file of each role."""
        several = [f"train_{task}" for task in range(1, len(self.train) + 1)]
        roles = ["train"] if len(self.train) == 1 else several
        return dict(zip([*roles, "val", "test"], [*self.train, self.val, self.test], strict=True))


def _files(settings: OpenScenesData | CocoData, say: Callable[[str], None]) -> _Files:
    if isinstance(settings, OpenScenesData):
        return _scenes(settings, say)
    tasks = TaskSet.from_file(settings.tasks)
    if len(settings.train) not in (1, tasks.count):
        raise ConfigError(
            f"data.train names {len(settings.train)} files and {tasks.name} has {tasks.count} tasks: give one file for "
            "each task, or one for all"
        )
    return _Files(tasks, settings.train, settings.val, settings.test, Path(settings.images))


def open_files(
    tasks: TaskSet,
    train: list[str],
    val: str,
    test: str,
    images: Path,
    *,
    pictures: str | None = None,
    fits: bool = True,
) -> OpenWorldData:
    """Read, validate and clean annotation files.

    Args:
        train: one for each task, or one for all.
        images: folder that file names are relative to.
        pictures: hash of the pictures, if known; part of the fingerprint.
        fits: see `open_data`.

    Raises:
        DataError: everything fatal, by file and id.
    """
    problems, named = Problems(), _Files(tasks, train, val, test, images).roles
    read = dict[str, AnnotationSet]()
    for file in named.values():
        if file not in read:
            read[file] = read_annotations(file, images=images, tasks=tasks, problems=problems)
    sets = {role: read[file] for role, file in named.items()}
    problems += validate(sets, tasks, fits=fits)
    problems.refuse()
    cleaned = {file: clean(annotations, Problems()) for file, annotations in read.items()}
    trains = tuple(cleaned[file] for file in train) * (tasks.count if len(train) == 1 else 1)
    return OpenWorldData(
        tasks=tasks,
        trains=trains,
        val=cleaned[val],
        test=_to_test_on(cleaned[test], tasks),
        folder=images,
        fingerprint=fingerprint(tasks, {role: cleaned[file] for role, file in named.items()}, pictures),
        ignored=tuple(problems),
    )


def read_annotations(
    file: str | Path, *, images: Path | None = None, tasks: TaskSet | None = None, problems: Problems | None = None
) -> AnnotationSet:
    """A COCO json, or the list of a split in a folder of Pascal VOC's layout, which knows where its images are.

    The images of a COCO json may also lie in `images` of that folder, in a folder named after the file, as train2017 is
    after instances_train2017.json, or in the one folder there that has more of them than any other.
    """
    path = Path(file)
    if path.suffix == ".txt" and path.parent.name == "Main":
        return read_voc(path.parent.parent.parent, path.stem, tasks=tasks, problems=problems)
    ours = read_coco(path, images=images, tasks=tasks, problems=problems)
    if images is None:
        return ours
    return replace(ours, folder=find_pictures(ours, images) or images)


def find_pictures(annotations: AnnotationSet, folder: Path) -> Path | None:
    """The folder of a COCO json's pictures, at or below one, as `read_annotations` has it; None: not there.

    That which holds most of them: one picture may be missing, and is to be named then.
    """
    split = Path(annotations.source).stem.removeprefix("instances_")
    every = max(1, -(-len(annotations.images) // LOOKED_FOR))
    names = [image.file_name for image in annotations.images[::every]]
    expected = (folder, folder / split, folder / "images", folder / "images" / split)
    places = {place: _held(names, place) for place in expected}
    # Splits may use the same names: where pictures are expected most suffice, whatever another split's folder has.
    found = next((place for place, held in places.items() if 2 * held > len(names)), None)
    if found is None and folder.is_dir():
        places |= {path: _held(names, path) for path in folder.iterdir() if path.is_dir()}
    return found or _fullest(places)


def _fullest(places: Mapping[Path, int]) -> Path | None:
    """The place that holds most; None if none holds any, or several as many."""
    most = max(places.values(), default=0)
    fitting = [place for place, held in places.items() if held == most]
    return fitting[0] if most and len(fitting) == 1 else None


def _held(names: list[str], folder: Path) -> int:
    return sum((folder / name).is_file() for name in names)


def _scenes(settings: OpenScenesData, say: Callable[[str], None]) -> _Files:
    from detection.data.scenes.openscenes import make_openscenes, open_openscenes

    if settings.path is not None:
        scenes = open_openscenes(settings.path)
    else:
        scenes = make_openscenes(
            settings.variant,
            settings.size,
            settings.seed,
            sprites=settings.sprites,
            backgrounds=settings.backgrounds,
            workers=max(1, settings.workers),
            say=say,
        )
    train = [str(scenes.train(task)) for task in range(1, scenes.tasks.count + 1)]
    hashed = str(scenes.manifest["hash"])
    return _Files(scenes.tasks, train, str(scenes.val), str(scenes.test), scenes.images, hashed)


def fingerprint(tasks: TaskSet, sets: Mapping[str, AnnotationSet], pictures: str | None = None) -> str:
    """SHA-256 (hex) of what a run learns from and is measured on; the same wherever the files lie."""
    digest = hashlib.sha256(json.dumps([tasks.to_dict(), pictures], sort_keys=True).encode())
    for role, ours in sets.items():
        images = [[image.id, image.file_name, image.width, image.height] for image in ours.images]
        digest.update(json.dumps([role, images, ours.categories, ours.category_ids]).encode())
        arrays = (ours.box_image, ours.boxes, ours.box_category, ours.crowd, ours.difficult, ours.area, ours.box_ids)
        for array in (*arrays, ours.distractor_image, ours.distractors):
            digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
