"""What is scored, as arrays: annotations of a test set, and detections in it. Files are not trusted."""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from detection.data.annotations import AnnotationSet, Boxes, Indices, Mask
from detection.data.clipping import Sides, sides_of
from sslcore.errors import DataError
from sslcore.storage.files import read_file

Floats = npt.NDArray[np.float64]
MAX_BYTES = 1 << 32
LARGEST = 1e9
"""No image is so large; beyond it areas would lose their digits."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Everything that is annotated in a test set, future classes included. Boxes are left, top, right, bottom.

    Boxes are here as the annotations have them: what becomes of those that reach out of their images or have no area is
    the business of a mode. `strict` clips and ignores them, as `open_data` does for a run; `ore` does neither.

    Attributes:
        image_ids, file_names: of each image, also those without a box; "" where a file does not name it.
        categories: names as the file has them; several may be names of one class.
        category_ids: the ids by which detections refer to them.
        box_image: (B,) index into the images.
        boxes: (B, 4) pixels; within an image in the file's order.
        box_category: (B,) index into `categories`.
        crowd, difficult: (B,) regions that count neither for nor against a detector in mode `strict`.
        distractor_image, distractors: (D,) and (D, 4): what looks like an object and is none.
        source: the file, for messages.
        sides: (I, 2) width and height of each image, NaN where they are not known; None: of none.
    """

    image_ids: tuple[int | str, ...]
    file_names: tuple[str, ...]
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    box_image: Indices
    boxes: Boxes
    box_category: Indices
    crowd: Mask
    difficult: Mask
    distractor_image: Indices
    distractors: Boxes
    source: str = "annotations"
    sides: Sides | None = None

    @classmethod
    def from_annotations(cls, annotations: AnnotationSet) -> Self:
        """What a reader made of a file, or `open_data` of that.

        Raises:
            DataError: a box is not finite, a distractor's is no box, or an image or category id occurs twice.
        """
        images, source = annotations.images, annotations.source
        _refuse_twice([image.id for image in images], "image id", source)
        _refuse_twice(annotations.category_ids, "category id", source)
        infinite = np.flatnonzero(~np.isfinite(annotations.boxes).all(axis=1))
        for name, boxes, bad, ids in (
            ("annotation", annotations.boxes, infinite[0] if len(infinite) else None, annotations.box_ids),
            ("distractor", annotations.distractors, first_bad_box(annotations.distractors), None),
        ):
            if bad is not None:
                at = bad if ids is None else ids[bad]
                raise DataError(f"{source}: {name} {at} has the box {boxes[bad].tolist()}, which is none; correct it.")
        return cls(
            tuple(image.id for image in images),
            tuple(image.file_name for image in images),
            annotations.categories,
            annotations.category_ids,
            annotations.box_image,
            annotations.boxes,
            annotations.box_category,
            annotations.crowd,
            annotations.difficult,
            annotations.distractor_image,
            annotations.distractors,
            source,
            sides_of(images),
        )

    @classmethod
    def from_coco(cls, path: str | Path) -> Self:
        """A COCO json; images need not be there, nor their file names and sizes in it.

        Raises:
            DataError: the file cannot be read or contradicts itself.
        """
        from detection.data.coco import read_coco

        return cls.from_annotations(read_coco(Path(path), images=None, tasks=None, by_ids=True))


@dataclass(frozen=True, eq=False)
class DetectionArrays:
    """Detections in any order, with the ids that result files carry.

    Attributes:
        image_ids: (N,) as the annotations have them, numbers or texts.
        category_ids: (N,) `TaskSet.unknown_id`, or an id of the annotations' categories.
        boxes: (N, 4) left, top, right, bottom in pixels.
        scores: (N,)
        energies, posteriors: (N,) of being unknown, where the detector gives them.
        source: the file, for messages.

    Raises:
        DataError: shapes do not fit, or a number is not finite.
    """

    image_ids: npt.NDArray[Any]
    category_ids: Indices
    boxes: Boxes
    scores: Floats
    energies: Floats | None = None
    posteriors: Floats | None = None
    source: str = "detections"

    def __post_init__(self) -> None:
        count = len(self.scores)
        shapes = {"image_ids": (count,), "category_ids": (count,), "boxes": (count, 4), "scores": (count,)}
        shapes |= {name: (count,) for name in ("energies", "posteriors") if getattr(self, name) is not None}
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise DataError(f"{self.source}: {name} has the shape {found}, but the scores need {shape}.")
        for name in ("scores", "energies", "posteriors"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(values).all():
                at = int(np.flatnonzero(~np.isfinite(values))[0])
                raise DataError(f"{self.source}: detection {at} (from 0) has {values[at]} among its {name}; remove it.")
        bad = first_bad_box(self.boxes)
        if bad is not None:
            raise DataError(
                f"{self.source}: detection {bad} (from 0) has the box {self.boxes[bad].tolist()} "
                "(left, top, right, bottom), which is none; remove it."
            )

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def from_results(cls, results: str | Path | Sequence[Mapping[str, Any]], *, source: str = "detections") -> Self:
        """COCO results: a list of {image_id, category_id, bbox: [x, y, w, h], score, energy?, unknown_posterior?}.

        Ids are taken as they are; `by_name` takes those that go by names, as in files of `surnia detect predict`.

        Raises:
            DataError: the file is no such list; the first record at fault is named.
        """
        if isinstance(results, str | Path):
            source = str(results)
            results = read_results(results)
        if not isinstance(results, Sequence) or isinstance(results, str | bytes):
            raise DataError(f"{source} must be a list of detections as COCO's results are, not a {_kind(results)}.")
        try:
            image_ids = [record["image_id"] for record in results]
            category_ids = [record["category_id"] for record in results]
            boxes = [record["bbox"] for record in results]
            scores = [record["score"] for record in results]
            extras = [[record.get(name) for record in results] for name in ("energy", "unknown_posterior")]
        except (KeyError, TypeError, AttributeError, IndexError):
            raise _culprit(results, source) from None
        xywh = _numbers(boxes, (len(results), 4), "bbox", source)
        return cls(
            _ids(image_ids, source),
            _category_ids(category_ids, source),
            np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            _numbers(scores, (len(results),), "score", source),
            _optional(extras[0], "energy", source),
            _optional(extras[1], "unknown_posterior", source),
            source,
        )


def as_ids(ids: Sequence[int | str]) -> npt.NDArray[Any]:
    """Image ids as an array: numbers as numbers, anything else as objects."""
    if all(isinstance(image, int) for image in ids):
        return np.array(ids, dtype=np.int64)
    found = np.empty(len(ids), dtype=object)
    found[:] = ids
    return found


def read_results(path: str | Path) -> Any:
    """The content of a JSON file of COCO results, with nothing in it checked.

    Raises:
        DataError: it cannot be read or is not JSON.
    """
    path = Path(path)
    remedy = "give a JSON list of detections, as COCO's results are"
    raw = read_file(path, limit=MAX_BYTES, error=DataError, remedy=remedy)
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects that all stay: looking for garbage among them triples the time
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); {remedy}") from error
    finally:
        if collecting:
            gc.enable()


def _kind(value: Any) -> str:
    names = {dict: "mapping", str: "text", int: "number", float: "number", type(None): "null", bool: "truth value"}
    return names.get(type(value), type(value).__name__)


def _culprit(results: Sequence[Any], source: str) -> DataError:
    """Which record lacks what."""
    for i, record in enumerate(results):
        if not isinstance(record, Mapping):
            return DataError(f"{source}: detection {i} (from 0) is a {_kind(record)}, not a mapping.")
        for name in ("image_id", "category_id", "bbox", "score"):
            if name not in record:
                return DataError(f"{source}: detection {i} (from 0) lacks '{name}'.")
    return DataError(f"{source} is not a list of detections as COCO's results are.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _numbers(values: list[Any], shape: tuple[int, ...], name: str, source: str) -> Floats:
    """An array of numbers, or who brings something else."""
    try:
        array = np.array(values)
        if array.shape == shape and array.dtype.kind in "iuf":
            return array.astype(np.float64)
    except (ValueError, OverflowError):
        pass  # told below
    if not values:
        return np.zeros(shape)
    for i, value in enumerate(values):
        parts = value if len(shape) == 2 else [value]
        fits = isinstance(parts, list | tuple | np.ndarray) and len(parts) == (4 if len(shape) == 2 else 1)
        if not fits or not all(map(_is_number, parts)) or any(abs(part) > 1e300 for part in parts):
            wanted = "four numbers x, y, width, height" if len(shape) == 2 else "a number"
            raise DataError(f"{source}: detection {i} (from 0) has {value!r:.80} as '{name}', which must be {wanted}.")
    return np.array([list(map(float, value)) if len(shape) == 2 else float(value) for value in values])


def _optional(values: list[Any], name: str, source: str) -> Floats | None:
    """An array if every detection carries it, None if none does."""
    lacking = [value is None for value in values]
    if all(lacking):
        return None
    if any(lacking):
        raise DataError(
            f"{source}: detection {lacking.index(True)} (from 0) has no '{name}' but others have; give all or none."
        )
    return _numbers(values, (len(values),), name, source)


def _ids(values: list[Any], source: str) -> npt.NDArray[Any]:
    """Numbers as numbers, anything else as objects."""
    for i, value in enumerate(values):
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise DataError(f"{source}: detection {i} (from 0) has {value!r:.80} as 'image_id', no number and no text.")
    try:
        return as_ids(values)
    except OverflowError:  # no annotation has such an id; it will be told as unknown
        return np.array(values, dtype=object)


def _category_ids(values: list[Any], source: str) -> Indices:
    for i, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**62:
            raise DataError(f"{source}: detection {i} (from 0) has {value!r:.80} as 'category_id', no whole number.")
    return np.array(values, dtype=np.int64)


def first_bad_box(boxes: Boxes) -> int | None:
    """The place of a box that is none: not finite, absurdly far away, or inside out. One without area hits nothing."""
    with np.errstate(invalid="ignore"):
        good = (np.abs(boxes) <= LARGEST).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    return None if good.all() else int(np.flatnonzero(~good)[0])


def _refuse_twice(values: Sequence[int | str], what: str, source: str) -> None:
    seen = set[int | str]()
    for value in values:
        if value in seen:
            raise DataError(f"{source}: the {what} {value} occurs twice; keep one of them.")
        seen.add(value)
