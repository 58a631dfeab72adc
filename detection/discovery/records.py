"""Unknown objects as they were found: which picture, where in it, how sure, and what they look like to the network.

    unknowns.json          the folder of the pictures, the pictures with their hashes, one line for each object
    unknowns.safetensors   the objects' embeddings, in the same order

Pictures are referred to, not copied: by their path below a root folder, and by the SHA-256 of the file, which is what
makes two records be about the same picture.
"""

import json
import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detection.data.annotations import Boxes, Indices
from detection.data.pictures import file_hash
from sslcore.errors import DataError, SurniaError
from sslcore.storage import files, read_weights
from sslcore.storage.messages import show_path
from sslcore.storage.weights import write_weights

RECORDS, EMBEDDINGS = "unknowns.json", "unknowns.safetensors"
SCHEMA = 1
_LIMIT = 1 << 30

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SourceImage:
    """A picture that objects were found in.

    Attributes:
        file: path below the root, with forward slashes.
        sha256: of the file; the picture's identity.
        bytes: size of the file.
        width, height: in pixels, upright.
    """

    file: str
    sha256: str
    bytes: int
    width: int
    height: int


@dataclass(frozen=True)
class FoundBy:
    """The detector that found unknown objects.

    Attributes:
        path: where it lay.
        weights: SHA-256 (hexadecimal) of its weights: what it is, wherever it is copied to.
    """

    path: str
    weights: str


@dataclass(frozen=True, eq=False)
class UnknownObjects:
    """Unknown objects of a collection of pictures, by picture and falling score.

    Attributes:
        root: folder that the pictures' paths begin at.
        images: the pictures in which something was found.
        known: names of the classes that the detector knew.
        box_image: (n,) index into `images`.
        boxes: (n, 4) left, top, right, bottom, in pixels, inside the picture.
        scores, posteriors, energies: (n,) as the detector gave them; NaN where it gave none.
        embeddings: (n, d) float32.
        found_by: the detector; None if that was not noted.
        collected_in: the root when they were collected, if it is another one now.
    """

    root: Path
    images: tuple[SourceImage, ...]
    known: tuple[str, ...]
    box_image: Indices
    boxes: Boxes
    scores: Values
    posteriors: Values
    energies: Values
    embeddings: npt.NDArray[np.float32]
    found_by: FoundBy | None = None
    collected_in: Path | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def path(self, image: int) -> Path:
        """The file of a picture."""
        return self.root / self.images[image].file

    def image_of(self, thing: int) -> SourceImage:
        """The picture an object was found in."""
        return self.images[int(self.box_image[thing])]

    def changed(self, images: Collection[int]) -> list[str]:
        """What is wrong with these pictures, those with named objects: a sentence for all that are gone, one for all
        that are no longer the files that were looked at, one for all that cannot be read."""
        gone, other, unreadable = list[int](), list[int](), list[str]()
        again = "put it back, or collect the unknown objects anew"
        for i in images:
            try:
                if not self.path(i).exists():
                    gone.append(i)
                elif file_hash(self.path(i), remedy=again)[0] != self.images[i].sha256:
                    other.append(i)
            except (DataError, OSError) as error:
                unreadable.append(str(error))
        said = [self._gone(gone, len(images))] if gone else []
        if other:
            remedy = "collect anew" if self.collected_in is None else "give the folder of the originals with --images"
            said.append(
                f"{_so_many(len(other), len(images), 'is not the file', 'are not the files')} that objects were found "
                f"in, as {show_path(self.path(other[0]))}: put back the originals, or {remedy}"
            )
        if unreadable:
            count = f" ({len(unreadable)} of {len(images)} pictures are so)" if len(images) > 1 else ""
            said.append(f"{unreadable[0]}{count}")
        return said

    def _gone(self, images: Sequence[int], of: int) -> str:
        shown, example = show_path(self.root), show_path(self.images[images[0]].file)
        count = _so_many(len(images), of, "is", "are")
        if self.collected_in is None:
            return (
                f"{count} not in {shown}, as {example}: put {'it' if len(images) == 1 else 'them'} back, or say where "
                "the pictures are now with --images FOLDER"
            )
        return (
            f"{count} not in {shown}, which --images names, as {example}: give the folder that has now what was in "
            f"{show_path(self.collected_in)}"
        )

    def save(self, folder: Path) -> None:
        """Write both files into a folder.

        Raises:
            CheckpointError: they cannot be written.
        """
        head: dict[str, Any] = {"schema": SCHEMA, "root": os.fspath(self.root), "known": list(self.known)}
        if self.found_by is not None:
            head["found_by"] = asdict(self.found_by)
        rows = zip(self.box_image.tolist(), self.boxes.tolist(), self.scores, self.posteriors, self.energies)
        things = [
            {"image": i, "box": box, "score": _or_none(s), "posterior": _or_none(p), "energy": _or_none(e)}
            for i, box, s, p, e in rows
        ]
        text = json.dumps(head, indent=1)[:-2]
        text += (
            f',\n "images": [{_lines(asdict(image) for image in self.images)}],\n "objects": [{_lines(things)}]\n}}\n'
        )
        write_weights(folder / EMBEDDINGS, {"embeddings": torch.from_numpy(self.embeddings)}, {})
        files.write_text(folder / RECORDS, text)

    @classmethod
    def load(cls, folder: str | Path, *, root: str | Path | None = None) -> "UnknownObjects":
        """Read what `save` wrote.

        Args:
            folder: where it lies.
            root: where the pictures are now, if they have moved together.

        Raises:
            DataError: a file is missing, damaged, or does not belong to the other.
            CheckpointError: the embeddings are damaged.
        """
        path = Path(folder) / RECORDS
        value = read_json(path, remedy="collect the unknown objects anew")
        try:
            if value["schema"] != SCHEMA:
                raise DataError(f"{show_path(path)} was written by another version of Surnia; collect anew")
            found = cls._from_json(value)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise DataError(f"{show_path(path)} is not a collection of unknown objects; collect anew") from error
        embeddings = read_weights(Path(folder) / EMBEDDINGS).get("embeddings")
        if embeddings is None or embeddings.ndim != 2 or len(embeddings) != len(found):
            raise DataError(
                f"{show_path(Path(folder) / EMBEDDINGS)} does not hold one embedding for each of the "
                f"{len(found)} objects in {RECORDS}; collect anew"
            )
        found = replace(found, embeddings=embeddings.float().numpy())
        return found if root is None else replace(found, root=Path(root), collected_in=found.root)

    @classmethod
    def _from_json(cls, value: Any) -> "UnknownObjects":
        images = tuple(SourceImage(**image) for image in value["images"])
        things = value["objects"]
        boxes = np.array([thing["box"] for thing in things], dtype=np.float64).reshape(len(things), 4)
        box_image = np.array([thing["image"] for thing in things], dtype=np.int64)
        if len(box_image) and not (box_image.min() >= 0 and box_image.max() < len(images)):
            raise ValueError("an object belongs to no picture")
        if not np.isfinite(boxes).all():
            raise ValueError("a box is not finite")
        for image in images:
            _check_inside(image.file)

        def column(name: str) -> Values:
            return np.array([math.nan if thing[name] is None else float(thing[name]) for thing in things])

        return cls(
            root=Path(value["root"]),
            images=images,
            known=tuple(str(name) for name in value["known"]),
            box_image=box_image,
            boxes=boxes,
            scores=column("score"),
            posteriors=column("posterior"),
            energies=column("energy"),
            embeddings=np.zeros((len(things), 0), dtype=np.float32),
            found_by=FoundBy(**value["found_by"]) if "found_by" in value else None,
        )


def read_json(path: Path, *, remedy: str, error: type[SurniaError] = DataError) -> Any:
    """A JSON object from a file that may have been edited, or be another; `error` if it is none."""
    data = files.read_file(path, limit=_LIMIT, error=error, remedy=remedy)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError, MemoryError) as reason:
        raise error(f"{show_path(path)} is not valid JSON ({reason}); {remedy}") from reason
    if type(value) is not dict:
        raise error(f"{show_path(path)} does not hold a JSON object; {remedy}")
    return value


def _so_many(count: int, of: int, singular: str, plural: str) -> str:
    """ "3 of 8 pictures with named objects are", with the verb that fits."""
    if of == 1:
        return f"the only picture with named objects {singular}"
    return f"{count:,} of {of:,} pictures with named objects {singular if count == 1 else plural}"


def _check_inside(file: str) -> None:
    """A record from elsewhere must not make anyone read outside the root."""
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ValueError(f"{file!r} leads out of the root folder")


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _lines(values: Iterable[Any]) -> str:
    """JSON values, one a line: short enough to look through, and to compare."""
    return ",".join(f"\n  {json.dumps(value, allow_nan=False)}" for value in values)
