"""Annotation sets of Pascal VOC and COCO as one: one numbering of images, one of categories, one folder of pictures."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detection.data.annotations import AnnotationSet, ImageRecord
from detection.data.problems import shown
from sslcore.errors import DataError

_OF_2007 = 1_000_000_000
_VOC_NAME = re.compile(r"(?:(\d{4})_)?(\d{6})")


def image_number(image: ImageRecord) -> int | None:
    """A number that no two images of VOC 2007, VOC 2012 and COCO share; None for a name that is none of theirs.

    COCO's images keep their ids (below 1,000,000). Pascal VOC's have names: 2008_000002 becomes 2,008,000,002; a name
    without a year, which only VOC 2007 has, 1,000,000,000 and its number: VOC 2012 has images of 2007 as well, and
    taken as a number, 000139 would be the image 139 of COCO.
    """
    if isinstance(image.id, int):
        return image.id if 0 <= image.id < _OF_2007 else None
    match = _VOC_NAME.fullmatch(image.id)
    if match is None:
        return None
    return int(match[2]) + (int(match[1]) * 1_000_000 if match[1] else _OF_2007)


def joined(parts: Sequence[tuple[str, AnnotationSet]]) -> AnnotationSet:
    """All images of several sets, in order.

    File names get the name of their part in front, boxes are numbered anew from 1. Categories are matched by name; sets
    of COCO, whose categories have ids of meaning, give the ids, and classes that only others have get ids above these.

    Args:
        parts: names, and sets read with the same task set (so that their classes are called alike).

    Raises:
        DataError: an image or a category cannot be numbered; all of one kind are named.
    """
    ids = _category_ids(parts)
    names = list(ids)
    place = {name: i for i, name in enumerate(names)}
    images, columns = list[ImageRecord](), dict[str, list[Any]]()
    for part, ours in parts:
        local = np.array([place[name] for name in ours.categories], dtype=np.int64)
        rows = {
            "box_image": ours.box_image + len(images),
            "boxes": ours.boxes,
            "box_category": local[ours.box_category] if len(local) else ours.box_category,
            "crowd": ours.crowd,
            "difficult": ours.difficult,
            "area": ours.area,
        }
        for key, values in rows.items():
            columns.setdefault(key, []).append(values)
        images += _numbered(part, ours)
    arrays: dict[str, Any] = {key: np.concatenate(values) for key, values in columns.items()}
    return AnnotationSet(
        images=tuple(images),
        categories=tuple(names),
        category_ids=tuple(ids.values()),
        box_ids=np.arange(1, len(arrays["boxes"]) + 1),
        source=", ".join(ours.source for _, ours in parts),
        **arrays,
    )


def _numbered(part: str, ours: AnnotationSet) -> list[ImageRecord]:
    numbers = [image_number(image) for image in ours.images]
    strange = [image for image, number in zip(ours.images, numbers, strict=True) if number is None]
    if strange:
        raise DataError(
            f"{ours.source} has {len(strange):,} images that are not numbered as VOC 2007's (000001), VOC 2012's "
            f"(2008_000001) or COCO's (1 to 999,999,999), {shown(strange[0].id)} for one; give the folders as they "
            "were released"
        )
    return [
        replace(image, id=number, file_name=f"{part}/{image.file_name}")
        for image, number in zip(ours.images, numbers, strict=True)
        if number is not None
    ]


def _category_ids(parts: Sequence[tuple[str, AnnotationSet]]) -> dict[str, int]:
    ids = dict[str, int]()
    with_ids = [ours for _, ours in parts if any(isinstance(image.id, int) for image in ours.images)]
    for ours in with_ids:
        for name, number in zip(ours.categories, ours.category_ids, strict=True):
            if ids.setdefault(name, number) != number:
                raise DataError(
                    f"category {shown(name)} has the id {number} in {ours.source} and {ids[name]} in another file; "
                    "give annotations of one release"
                )
    for _, ours in parts:
        for name in ours.categories:
            ids.setdefault(name, max(ids.values(), default=0) + 1)
    return ids
