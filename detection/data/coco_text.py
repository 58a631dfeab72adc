"""A COCO json written row by row: hundreds of megabytes without a dict for each box."""

import json
from collections.abc import Iterator
from itertools import islice

import numpy as np

from detection.data.annotations import AnnotationSet

_ROWS = 20_000
_DIGITS = 6
"""Of a box's sides; what COCO's files round to two would otherwise grow fifteen."""
_DIFFICULT = ', "difficult": 1'


def coco_text(annotations: AnnotationSet) -> Iterator[bytes]:
    """The bytes of a file that `read_coco` reads back as the same set, in pieces."""
    ids = np.array([json.dumps(image.id) for image in annotations.images], dtype=object)
    images = (
        f'{{"id": {number}, "file_name": {json.dumps(image.file_name)}, "width": {image.width}, '
        f'"height": {image.height}}}'
        for number, image in zip(ids.tolist(), annotations.images, strict=True)
    )
    yield b'{"images": [\n'
    yield from _listed(images)
    yield b'\n],\n"annotations": [\n'
    yield from _listed(_boxes(annotations, ids))
    categories = [
        {"id": number, "name": name}
        for number, name in zip(annotations.category_ids, annotations.categories, strict=True)
    ]
    yield b'\n],\n"categories": ' + json.dumps(categories).encode() + b"}\n"


def _boxes(annotations: AnnotationSet, ids: np.ndarray) -> Iterator[str]:
    corners = annotations.boxes
    sides = np.round(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1), _DIGITS)
    numbers = np.array(annotations.category_ids, dtype=np.int64)
    for first in range(0, len(corners), _ROWS):
        rows = slice(first, first + _ROWS)
        columns = zip(
            annotations.box_ids[rows].tolist(),
            ids[annotations.box_image[rows]].tolist(),
            numbers[annotations.box_category[rows]].tolist(),
            sides[rows].tolist(),
            np.round(annotations.area[rows], _DIGITS).tolist(),
            annotations.crowd[rows].tolist(),
            annotations.difficult[rows].tolist(),
            strict=True,
        )
        for box, image, category, bbox, area, crowd, difficult in columns:
            yield (
                f'{{"id": {box}, "image_id": {image}, "category_id": {category}, "bbox": {bbox}, "area": {area}, '
                f'"iscrowd": {int(crowd)}{_DIFFICULT if difficult else ""}}}'
            )


def _listed(rows: Iterator[str]) -> Iterator[bytes]:
    before = ""
    while some := list(islice(rows, _ROWS)):
        yield (before + ",\n".join(some)).encode()
        before = ",\n"
