"""What a folder of images holds, seen through the same eyes as pretraining: recognised, counted, every file opened."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from apps.annotations import Annotated, find_annotated
from detection.tasks import TaskSet
from sslcore.errors import DataError
from sslcore.pretrain.data import ImageFiles, NoSuchSplit, recognise
from sslcore.pretrain.data.folder import open_folder
from sslcore.pretrain.data.formats import FORMATS
from sslcore.storage.images import read_image

Progress = Callable[[Iterable[Path], int], Iterable[Path]]
"""Wraps what is gone through, given how many there are."""


@dataclass
class Finding:
    """What a folder holds.

    Attributes:
        title: what it is, for people.
        kind: the recipe's `data.kind`.
        path: the recipe's `data.path`.
        splits: number of images by split.
        classes: number of training images by class; empty without labels.
        types: number of files by suffix.
        sizes: (width, height) of the images that were opened.
        grey: the images have one channel.
        broken: (path, reason) of those that could not be opened.
        opened: how many were tried.
        problems: other things that are wrong.
        notes: what a person might not expect, though nothing is wrong.
        annotated: its annotations, if it has boxes.
    """

    title: str
    kind: str
    path: Path
    splits: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    types: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    grey: bool = False
    broken: list[tuple[str, str]] = field(default_factory=list)
    opened: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    annotated: Annotated | None = None

    @property
    def images(self) -> int:
        """Training images that can be used, at the least."""
        return self.splits.get("train", 0) - self.broken_at_most

    @property
    def broken_at_most(self) -> int:
        """How many training images may be broken: those that are, with room for chance where not all were opened."""
        total = self.splits.get("train", 0)
        if self.opened >= total or not self.broken:
            return len(self.broken)
        share = len(self.broken) / self.opened
        return min(total, math.ceil(total * (share + 4 * math.sqrt(share / self.opened))))

    @property
    def side(self) -> int:
        """Median of the images' shorter sides, in pixels."""
        return round(median(min(size) for size in self.sizes)) if self.sizes else 0

    @property
    def nearly_empty(self) -> dict[str, int]:
        """Classes with fewer than 5 images, or than a tenth of the middle class."""
        if not self.classes:
            return {}
        least = max(5, median(self.classes.values()) / 10)
        return {name: count for name, count in self.classes.items() if count < least}

    @property
    def sound(self) -> bool:
        """Nothing is broken."""
        return not self.broken and not self.problems


def inspect(
    folder: Path,
    *,
    limit: int | None = None,
    progress: Progress = lambda items, _: items,
    tasks: TaskSet | None = None,
) -> Finding:
    """Recognise, count, open.

    Args:
        folder: where to look.
        limit: open at most so many files, evenly spread; None: all.
        progress: wraps the files while they are opened.
        tasks: class lists that annotations are checked against.

    Raises:
        ConfigError: the folder's own task file is wrong.
        DataError: there is no image in it, or a published set's files are damaged.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; give the folder with the images (unpack archives first)")
    kind = recognise(folder)
    if kind != "folder":
        return _published(kind, folder)
    annotated = find_annotated(folder, tasks)
    if annotated is None:
        return _files(folder, limit, progress)
    finding = _files(annotated.pictures or folder, limit, progress)
    boxes = f"{sum(annotated.boxes.values()):,} boxes of {len(annotated.boxes)} classes"
    finding.title = f"{annotated.title}, {boxes}; pretraining uses the pictures alone"
    finding.problems += [str(problem) for problem in annotated.problems if problem.fatal]
    finding.notes += [str(problem) for problem in annotated.problems if not problem.fatal]
    finding.classes = {}  # boxes have classes, pictures have none
    finding.annotated = annotated
    return finding


def _published(kind: str, folder: Path) -> Finding:
    known = FORMATS[kind]
    place = known.find(folder) or folder
    train = known.read(place, "train")
    finding = Finding(known.title, kind, folder, {"train": len(train)}, grey=train.channels == 1, opened=len(train))
    finding.sizes = [(train.images.shape[3], train.images.shape[2])]
    if train.labels is not None:
        finding.classes = {name: int((train.labels == i).sum()) for i, name in enumerate(train.classes)}
    try:
        finding.splits["test"] = len(known.read(place, "test"))
    except DataError as error:
        finding.problems.append(str(error))
    return finding


def _files(folder: Path, limit: int | None, progress: Progress) -> Finding:
    files = open_folder(folder, "train")
    divided = files.root != folder
    labelled = files.labels is not None
    title = ("train/ and other splits of " if divided else "") + ("class folders" if labelled else "loose images")
    finding = Finding(title, "folder", folder, {"train": len(files)})
    finding.types = Counter(Path(name).suffix.lower() for name in files.paths)
    if files.labels is not None:
        counts = Counter(files.labels.tolist())
        finding.classes = {name: counts[i] for i, name in enumerate(files.classes)}
    else:
        finding.notes += _unused_classes(files.paths)
    held_out = _held_out(folder) if divided else None
    if isinstance(held_out, ImageFiles):
        finding.splits[held_out.root.name] = len(held_out)
    elif held_out is not None:
        finding.problems.append(held_out)
    _open_all(files, finding, limit, progress)
    return finding


def _unused_classes(paths: list[str]) -> list[str]:
    """Folders are no classes where other images lie beside them: said, because it is easily overlooked."""
    loose = sum(os.sep not in path for path in paths)
    folders = {path.split(os.sep, 1)[0] for path in paths if os.sep in path}
    if not loose or len(folders) < 2:
        return []
    return [
        f"{len(folders)} folders and {loose:,} images beside them: so the folders are not taken for classes; move the "
        "loose images elsewhere if they are"
    ]


def _held_out(folder: Path) -> ImageFiles | str | None:
    """The images beside train/; a sentence if they cannot be used; None if there are none."""
    try:
        return open_folder(folder, "test")
    except NoSuchSplit:
        return None
    except DataError as error:
        return str(error)


def _open_all(files: ImageFiles, finding: Finding, limit: int | None, progress: Progress) -> None:
    step = 1 if limit is None else max(1, -(-len(files) // limit))
    chosen = [files.root / name for name in files.paths[::step]]

    def look(path: Path) -> tuple[int, int] | str:
        try:
            return read_image(path, max_pixels=files.max_pixels).size
        except DataError as error:
            return str(error)

    finding.opened = len(chosen)
    with ThreadPoolExecutor(4) as pool:
        for path, seen in zip(progress(chosen, len(chosen)), pool.map(look, chosen), strict=True):
            if isinstance(seen, str):
                finding.broken.append((str(path), seen))
            else:
                finding.sizes.append(seen)
