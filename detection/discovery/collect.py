"""Looks through pictures with a detector and keeps what it calls unknown."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detection.data.pictures import file_hash
from detection.discovery.records import FoundBy, SourceImage, UnknownObjects
from detection.structures import UNKNOWN, Detections
from sslcore.errors import DataError
from sslcore.storage import list_images, read_image
from sslcore.storage.messages import show_path

Predict = Callable[[list[Image.Image]], Sequence[Detections]]


@dataclass(frozen=True)
class Wanted:
    """Which detections are kept.

    Attributes:
        score: lowest score.
        posterior: lowest probability of being unknown; up to .5: all that the detector calls unknown.
        per_image: most objects of a picture, those of highest score; None: all.
        min_side: shorter boxes are left out, in pixels: nobody could name them.
    """

    score: float = 0.05
    posterior: float = 0.0
    per_image: int | None = None
    min_side: float = 8.0

    def of(self, found: Detections, width: int, height: int) -> Detections:
        """Those of one picture, by falling score, their boxes cut at the picture's edges."""
        found = found.to("cpu")
        bounds = torch.tensor([width, height, width, height], dtype=found.boxes.dtype)
        boxes = torch.minimum(found.boxes.clamp(min=0), bounds)
        found = Detections(
            boxes, found.labels, found.scores, found.energies, found.posteriors, found.embeddings.flatten(1)
        )
        sides = boxes[:, 2:] - boxes[:, :2]
        keep = (
            (found.labels == UNKNOWN)
            & (found.scores >= self.score)  # false for NaN
            & ~(found.posteriors < self.posterior)
            & boxes.isfinite().all(dim=1)
            & (sides.amin(dim=1) >= self.min_side)
        )
        found = found[keep]
        return found[found.scores.argsort(descending=True, stable=True)[: self.per_image]]


DEFAULT = Wanted()


@dataclass
class _Collection:
    """What has been found so far."""

    images: list[SourceImage] = field(default_factory=list)
    found: list[Detections] = field(default_factory=list)

    def add(self, image: SourceImage, found: Detections) -> None:
        if len(found):
            self.images.append(image)
            self.found.append(found)


def collect_unknowns(
    predict: Predict,
    images: str | Path | Iterable[str | Path],
    *,
    known: Sequence[str] = (),
    found_by: FoundBy | None = None,
    wanted: Wanted = DEFAULT,
    batch_size: int = 8,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> UnknownObjects:
    """Unknown objects in a folder of pictures, or in given files.

    A picture that lies there twice, under whatever names, is looked at once. A damaged one is skipped, which is said.

    Args:
        predict: pictures in, one `Detections` each out, boxes in the picture's pixels.
        images: a folder, a file, or several files.
        known: names of the classes the detector knows; recorded.
        found_by: which detector it is; recorded.
        wanted: which detections are kept.
        batch_size: pictures at a time.
        say: is told in one sentence about each picture that was skipped.
        progress: is told how many pictures are done, and how many there are.

    Raises:
        DataError: a folder without images, or none that can be read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, not {batch_size}")
    root, paths = _root_and_paths(images)
    collection, done, usable = _Collection(), 0, 0
    for batch, looked_at in _batches(paths, batch_size, say):
        pictures = [picture for _, picture in batch]
        results = list(predict(pictures)) if pictures else []
        if len(results) != len(pictures):
            raise ValueError(
                f"predict must return one Detections for each of {len(pictures)} pictures, not {len(results)}"
            )
        for (image, _), found in zip(batch, results):
            collection.add(image, wanted.of(found, image.width, image.height))
        usable, done = usable + len(batch), done + looked_at
        progress(done, len(paths))
    if not usable:
        raise DataError(
            "there is nothing to look at: the only picture cannot be read"
            if len(paths) == 1
            else f"none of the {len(paths)} pictures can be read; give other pictures"
        )
    return _as_arrays(root, tuple(known), found_by, collection)


def _root_and_paths(images: str | Path | Iterable[str | Path]) -> tuple[Path, list[tuple[Path, str]]]:
    """The folder that all pictures lie under; their paths as they were given, and below that folder."""
    if isinstance(images, str | os.PathLike):
        start = Path(images)
        if not start.is_file():
            return _absolute(start), [(path, path.relative_to(start).as_posix()) for path in list_images(start)]
        images = [start]
    given = [Path(path) for path in images]
    if not given:
        raise DataError("the list of pictures is empty; give a folder, or at least one image file")
    places = [_absolute(path) for path in given]
    root = Path(os.path.commonpath([place.parent for place in places]))
    return root, [(path, place.relative_to(root).as_posix()) for path, place in zip(given, places, strict=True)]


def _absolute(path: Path) -> Path:
    """Links are kept as they are; only where a `..` leads is asked of the disk, because no record may lead upwards."""
    place = path.absolute()
    return place.parent.resolve() / place.name if ".." in place.parts[:-1] else place


def _batches(
    paths: Sequence[tuple[Path, str]], size: int, say: Callable[[str], None]
) -> Iterator[tuple[list[tuple[SourceImage, Image.Image]], int]]:
    """Pictures to look at, `size` at a time, and how many paths that took."""
    seen: dict[str, Path] = {}
    for first in range(0, len(paths), size):
        chunk = paths[first : first + size]
        batch = [read for path, name in chunk if (read := _read(path, name, seen, say)) is not None]
        yield batch, len(chunk)


def _read(
    path: Path, name: str, seen: dict[str, Path], say: Callable[[str], None]
) -> tuple[SourceImage, Image.Image] | None:
    try:
        sha256, size = file_hash(path)
        if sha256 in seen:
            say(f"skipped: {show_path(path)} is the same picture as {show_path(seen[sha256])}")
            return None
        picture = read_image(path)
    except DataError as error:
        say(f"skipped: {error}")
        return None
    seen[sha256] = path
    return SourceImage(name, sha256, size, *picture.size), picture


def _as_arrays(root: Path, known: tuple[str, ...], found_by: FoundBy | None, collection: _Collection) -> UnknownObjects:
    found = collection.found
    counts = [len(f) for f in found]

    def column(name: str, *shape: int) -> np.ndarray:
        parts = [getattr(f, name).detach().double().numpy().reshape(len(f), *shape) for f in found]
        return np.concatenate(parts) if parts else np.zeros((0, *(max(s, 0) for s in shape)))

    return UnknownObjects(
        root=root,
        images=tuple(collection.images),
        known=known,
        box_image=np.repeat(np.arange(len(found)), counts).astype(np.int64),
        boxes=column("boxes", 4).round(2),
        scores=column("scores").round(6),
        posteriors=column("posteriors").round(6),
        energies=column("energies").round(6),
        embeddings=column("embeddings", -1).astype(np.float32),
        found_by=found_by,
    )
