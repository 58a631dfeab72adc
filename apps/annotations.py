"""Recognising a detection data set in a folder (COCO, Pascal VOC, OpenScenes), and validating it as training will.

Copies of one split's pictures in another are looked for here alone: at every start of a command the sizes of all files
would be much to ask for, and what was found is told, not refused.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from detection.data.annotations import AnnotationSet
from detection.data.openworld import read_annotations
from detection.data.problems import Problems, shown
from detection.data.validation import validate
from detection.data.voc import read_voc, splits
from detection.tasks import TaskSet
from sslcore.did_you_mean import nearest
from sslcore.errors import DataError

SCENES_TASKS, MANIFEST = "tasks.yaml", "manifest.json"
_NUMBERED = re.compile(r"train[_-]?(\d{1,2})")  # train_2, not train2017
_ROLES = ("train", "val", "test")
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_NAMED = re.compile(r"(instances_)?(train|val|test)([_-]?\d{1,4})?")  # not captions_train2017
_FIRST = 3


@dataclass
class Annotated:
    """A detection data set.

    Attributes:
        title: what it is, for people.
        folder: what to give as its folder.
        sets: annotations by role: train, or train_1, train_2, ... one a task; val; test.
        files: the annotation files of the same.
        tasks: the class lists, if they are known.
        scenes: it is an OpenScenes folder.
        problems: what is wrong, fatal or ignored.
    """

    title: str
    folder: Path
    sets: dict[str, AnnotationSet]
    files: dict[str, Path]
    tasks: TaskSet | None = None
    scenes: bool = False
    problems: Problems = field(default_factory=Problems)

    @property
    def train(self) -> list[str]:
        """Roles of the training images, in order."""
        return [role for role in self.sets if role.startswith("train")]

    @property
    def pictures(self) -> Path | None:
        """The folder with the training images; None if they are not there."""
        first = self.sets[next(iter([*self.train, *self.sets]))]
        return first.folder if first.folder is not None and first.folder.is_dir() else None

    @property
    def boxes(self) -> Counter[str]:
        """Number of boxes by class in the training images; in the first set where none is for training."""
        counted = Counter[str]()
        for role in self.train or [next(iter(self.sets))]:
            ours = self.sets[role]
            counted.update(ours.categories[k] for k in ours.box_category.tolist())
        return counted


def find_annotated(folder: Path, tasks: TaskSet | None = None) -> Annotated | None:
    """The detection data set that a folder holds, validated; None if it holds none.

    Args:
        folder: where to look.
        tasks: class lists to check it against; OpenScenes have their own.

    Raises:
        ConfigError: the task file of an OpenScenes folder is wrong.
        DataError: there are annotation files and none of them can be read.
    """
    found = _find_voc(folder, tasks) or _find_coco(folder, tasks)
    if found is None:
        return None
    problems, tasks = found.problems, found.tasks
    numbered = [role for role in found.files if _NUMBERED.fullmatch(role)]
    if tasks is not None and numbered and len(numbered) != tasks.count:
        file = str(found.files[numbered[-1]])
        said = f"{folder} has training annotations of {len(numbered)} tasks, and {tasks.name} has {tasks.count}"
        problems.add(file, said, fatal=True)
        tasks = None
    seen = set(problems)
    problems += [problem for problem in validate(found.sets, tasks, copies=True) if problem not in seen]
    if tasks is not None and not found.scenes:
        _tell_strangers(found, tasks)
    return found


def _tell_strangers(found: Annotated, tasks: TaskSet) -> None:
    """A class that a task has under a slightly other name would be taken for unknown without a word."""
    strangers = [name for name in found.boxes if tasks.canonical(name) not in tasks.classes] if found.train else []
    if not strangers:
        return
    meant = {name: near for name in strangers if (near := nearest(name, tasks.classes))}
    strangers.sort(key=lambda name: name not in meant)
    names = ", ".join(map(shown, strangers[:_FIRST]))
    more = f" and {len(strangers) - _FIRST} more" if len(strangers) > _FIRST else ""
    hints = [f"if {shown(name)} is {shown(meant[name])}, rename it" for name in strangers[:_FIRST] if name in meant]
    said = f"{names}{more}, annotated and in no task of {tasks.name}, {'count' if len(strangers) > 1 else 'counts'}"
    found.problems.add(found.sets[found.train[0]].source, "; ".join([f"{said} as unknown", *hints]), fatal=False)


# --- COCO and OpenScenes ---------------------------------------------------------------------------------------------


def _find_coco(folder: Path, tasks: TaskSet | None) -> Annotated | None:
    files = _coco_files(folder, damaged=tasks is not None)
    # COCO's own archive has captions and keypoints of the same pictures beside the objects.
    files = [file for file in files if file.stem.startswith("instances_")] or files
    problems = Problems()
    roles, others = _by_role(files)
    scenes = _is_scenes(folder) and {"train_1", "val", "test"} <= set(roles)
    if scenes and tasks is None:
        tasks = TaskSet.from_file(folder / SCENES_TASKS)
    root = folder / "images" if scenes else folder
    sets = dict[str, AnnotationSet]()
    for role, file in roles.items():
        try:
            sets[role] = read_annotations(file, images=root, tasks=tasks, problems=problems)
        except DataError as error:
            problems.add(str(file), str(error).removeprefix(f"{file} "), fatal=True)
    if not sets:
        problems.refuse()
        return None
    if scenes:
        _whole(folder, problems)
    for file in others:
        problems.add(str(file), "is not looked at: its name says neither train nor val nor test", fatal=False)
    names = ", ".join(roles[role].name for role in sets)
    title = "OpenScenes" if scenes else "COCO annotations"
    return Annotated(f"{title} ({names})", folder, sets, roles, tasks, scenes, problems)


def _coco_files(folder: Path, *, damaged: bool) -> list[Path]:
    """Files meant for a COCO json: a damaged one is to be named, others are to be passed by.

    Args:
        folder: where to look.
        damaged: annotations must be here, so that a file named after a split is meant for one whatever it holds; else
            that takes another file that is one beyond doubt.
    """
    files = [*sorted(folder.glob("*.json")), *sorted((folder / "annotations").glob("*.json"))]
    keys = {file: _keys_of(file) for file in files}
    least = 0 if damaged or len(_KEYS) in keys.values() else len(_KEYS) - 1
    return [file for file in files if keys[file] >= (least if _NAMED.fullmatch(file.stem) else len(_KEYS))]


def _keys_of(file: Path) -> int:
    """How many of a COCO json's three keys a file mentions."""
    try:
        with file.open("rb") as opened:
            found, tail = set[bytes](), b""
            while len(found) < len(_KEYS) and (block := opened.read(1 << 20)):
                found |= {key for key in _KEYS if key in tail + block}
                tail = block[-16:]
        return len(found)
    except OSError:
        return 0


def _by_role(files: list[Path]) -> tuple[dict[str, Path], list[Path]]:
    """Files by what their names say they are for, training first; and those whose names say nothing, or it again."""
    roles, others = dict[str, Path](), list[Path]()
    for file in files:
        stem = file.stem.removeprefix("instances_").lower()
        numbered = _NUMBERED.fullmatch(stem)
        role = f"train_{int(numbered[1])}" if numbered else next((role for role in _ROLES if role in stem), None)
        if role is None or role in roles:
            others.append(file)
        else:
            roles[role] = file
    if not roles and others:
        roles["train"] = others.pop(0)
    if any(_NUMBERED.fullmatch(role) for role in roles) and "train" in roles:
        others.append(roles.pop("train"))
    order = sorted(roles, key=lambda role: (_ROLES.index(role.partition("_")[0]), len(role), role))
    return {role: roles[role] for role in order}, others


def _is_scenes(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        return (folder / SCENES_TASKS).is_file() and "openscenes" in manifest["request"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _whole(folder: Path, problems: Problems) -> None:
    """Training refuses scenes that were changed since they were made."""
    from detection.data.scenes.openscenes import open_openscenes

    try:
        open_openscenes(folder)
    except DataError as error:
        problems.add(str(folder / MANIFEST), str(error), fatal=True)


# --- Pascal VOC ------------------------------------------------------------------------------------------------------


def _find_voc(folder: Path, tasks: TaskSet | None) -> Annotated | None:
    for root in [folder, *sorted(folder.glob("VOC*")), *sorted(folder.glob("VOCdevkit/VOC*"))]:
        if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
            return _voc(root, tasks)
    return None


def _voc(root: Path, tasks: TaskSet | None) -> Annotated:
    problems, there = Problems(), splits(root)
    named: Mapping[str, str | None] = {role: role for role in _ROLES if role in there}
    if "trainval" in there and not {"train", "val"} <= set(there):
        named = {"train": "trainval", **({"test": "test"} if "test" in there else {})}
    if not named:
        named = {"train": None}  # every annotation there is
    sets = {role: read_voc(root, split, tasks=tasks, problems=problems) for role, split in named.items()}
    files = {role: root / "ImageSets" / "Main" / f"{split}.txt" for role, split in named.items() if split}
    return Annotated(f"Pascal VOC ({root.name})", root, sets, files, tasks, problems=problems)
