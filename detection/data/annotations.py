"""Annotations as arrays: what a reader makes of a file, and what a label view makes of that."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageRecord:
    """One image of a set: its id in the file, its name relative to the set's folder, its size in pixels.

    Where only ids matter (`read_coco` with `by_ids`), the name may be "" and the sides 0: the file does not say them.
    """

    id: int | str
    file_name: str
    width: int
    height: int


def _no_boxes() -> Boxes:
    return np.zeros((0, 4))


def _no_indices() -> Indices:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class AnnotationSet:
    """Images and everything that is annotated in them. Boxes stand grouped by image, in the images' order.

    Attributes:
        images: every image, also those without a box.
        categories: names, canonical (`TaskSet.canonical`) or as the file has them.
        category_ids: the file's ids of the same.
        box_image: (B,) index into `images`.
        boxes: (B, 4) left, top, right, bottom: COCO's x, y, x + w, y + h.
        box_category: (B,) index into `categories`.
        crowd: (B,) COCO's iscrowd: a region of many objects.
        difficult: (B,) VOC's difficult.
        area: (B,) as annotated (COCO: of the mask), in pixels.
        box_ids: (B,) the file's ids.
        folder: where the image files are, or None for annotations alone.
        distractor_image, distractors: (D,) and (D, 4): what was pasted without being an object; scenes only.
        source: the file or folder, for messages.
    """

    images: tuple[ImageRecord, ...]
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    box_image: Indices
    boxes: Boxes
    box_category: Indices
    crowd: Mask
    difficult: Mask
    area: npt.NDArray[np.float64]
    box_ids: Indices
    folder: Path | None = None
    distractor_image: Indices = field(default_factory=_no_indices)
    distractors: Boxes = field(default_factory=_no_boxes)
    source: str = "annotations"

    def path(self, index: int) -> Path:
        """The file of an image."""
        return (self.folder or Path()) / self.images[index].file_name

    def select(self, images: Sequence[int] | Indices) -> "AnnotationSet":
        """The same for some of the images, in the order given; each at most once."""
        chosen = np.asarray(images, dtype=np.int64)
        rows, box_image = _rows_of(self.box_image, chosen, len(self.images))
        distracting, distractor_image = _rows_of(self.distractor_image, chosen, len(self.images))
        per_box: dict[str, Any] = {
            name: getattr(self, name)[rows]
            for name in ("boxes", "box_category", "crowd", "difficult", "area", "box_ids")
        }
        return replace(
            self,
            images=tuple(self.images[i] for i in chosen.tolist()),
            box_image=box_image,
            distractor_image=distractor_image,
            distractors=self.distractors[distracting],
            **per_box,
        )


@dataclass(frozen=True, eq=False)
class LabeledSet:
    """What a label view (train, val, finetune, test, oracle) leaves: boxes with labels of the label space.

    Attributes:
        annotations: the complete annotation of the same images; for evaluation and for measuring pseudo-labels only.
        names: of the label space: background, unknown, then the known classes.
        box_image: (B,) index into `images`.
        boxes: (B, 4) left, top, right, bottom.
        labels: (B,) `UNKNOWN` or a known class.
        ignore: (B,) crowds and difficult objects.
        rows: (B,) index of each box among the boxes of `annotations`.
    """

    annotations: AnnotationSet
    names: tuple[str, ...]
    box_image: Indices
    boxes: Boxes
    labels: Indices
    ignore: Mask
    rows: Indices

    @property
    def images(self) -> tuple[ImageRecord, ...]:
        return self.annotations.images

    def __len__(self) -> int:
        return len(self.images)

    def of_image(self, index: int) -> slice:
        """Which boxes are those of an image."""
        first, last = np.searchsorted(self.box_image, [index, index + 1])
        return slice(int(first), int(last))


def _rows_of(groups: Indices, chosen: Indices, count: int) -> tuple[Indices, Indices]:
    """Rows that belong to the chosen groups, in the groups' new order; and each row's new group."""
    place = np.full(count, -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    new = place[groups]
    rows = np.flatnonzero(new >= 0)
    rows = rows[np.argsort(new[rows], kind="stable")]
    return rows, new[rows]
