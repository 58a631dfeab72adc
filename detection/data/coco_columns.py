"""COCO's list of annotations as columns: made and judged in one pass, searched for offenders only if that fails."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detection.data.annotations import Boxes
from detection.data.problems import shown

FIELDS = ("bbox", "image_id", "category_id", "iscrowd", "difficult", "area", "id")
UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What `as_columns` raises when an entry is not as it should be."""


def as_columns(entries: Sequence[Any]) -> dict[str, Any]:
    """The entries' values by key: arrays of bbox (n, 4), iscrowd, difficult and area (n,), lists of ids.

    A missing area is the box's, a missing iscrowd or difficult (which VOC has) 0, a missing id None. Raises one of
    `UNUSABLE` if any entry is not as it should be.
    """
    rows = [
        (e["bbox"], e["image_id"], e["category_id"], get("iscrowd", 0), get("difficult", 0), get("area"), get("id"))
        for e in entries
        for get in (e.get,)
    ]
    columns: dict[str, Any] = dict(zip(FIELDS, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
    columns = columns or {key: [] for key in FIELDS}
    columns["bbox"] = _numeric(columns["bbox"], (len(rows), 4))
    for key in ("iscrowd", "difficult"):
        flags = _numeric(columns[key], (len(rows),))
        if not np.isin(flags, (0, 1)).all():
            raise ValueError(key)
        columns[key] = flags != 0
    with np.errstate(over="ignore", invalid="ignore"):
        own = columns["bbox"][:, 2] * columns["bbox"][:, 3] if None in columns["area"] else None
    given = columns["area"] if own is None else [0 if area is None else area for area in columns["area"]]
    area = _numeric(given, (len(rows),))
    columns["area"] = area if own is None else np.where([a is None for a in columns["area"]], own, area)
    if (area < 0).any():
        raise ValueError("area")
    for key in columns["image_id"]:
        hash(key)
    for key in columns["category_id"]:
        hash(key)
    return columns


def _numeric(values: list[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    array = np.asarray(values if values else np.zeros(shape))
    if array.dtype.kind not in "iufb" or array.shape != shape:
        raise ValueError("not numbers")
    return array.astype(np.float64)


def offenders(entries: Sequence[Any], first: int = 0) -> list[int]:
    """Places, counted from `first`, of the entries that cannot be used; found by halving."""
    try:
        as_columns(entries)
    except UNUSABLE:
        if len(entries) == 1:
            return [first]
        half = len(entries) // 2
        return offenders(entries[:half], first) + offenders(entries[half:], first + half)
    return []


def complaint(entry: Any) -> str:
    """What is wrong with an entry, as the second half of a sentence."""
    if not isinstance(entry, dict):
        return f"is no object but {shown(entry)}"
    missing = [key for key in ("image_id", "category_id", "bbox") if key not in entry]
    if missing:
        return f"has no {' and no '.join(missing)}"
    box, area = entry["bbox"], entry.get("area", 0)
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
        return f"has a bbox that is not four numbers: {shown(box)}"
    for key in ("iscrowd", "difficult"):
        if isinstance(entry.get(key, 0), str) or entry.get(key, 0) not in (0, 1):
            return f"has {key} {shown(entry[key])}, which must be 0 or 1"
    if type(area) not in (int, float) or area < 0:
        return f"has area {shown(area)}, which must be a number of at least 0"
    return f"has values out of range: {shown(entry)}"


def corners(boxes: npt.NDArray[np.float64]) -> Boxes:
    """(n, 4) left, top, right, bottom of x, y, width, height."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
