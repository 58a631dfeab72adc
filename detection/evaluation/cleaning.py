"""Annotated boxes as each mode takes them: `strict` as training does, `ore` as the file has them."""

from dataclasses import replace
from typing import Any

import numpy as np

from detection.data.clipping import clip
from detection.evaluation.arrays import GroundTruth, first_bad_box
from sslcore.errors import DataError


def cleaned(truth: GroundTruth) -> tuple[GroundTruth, dict[str, Any]]:
    """Boxes clipped to their images, without those that have no area or lie outside, as `open_data` leaves them; and
    how many of both there were. Of images whose size is not known, boxes without area go, and none is clipped."""
    sides = np.full((len(truth.image_ids), 2), np.nan) if truth.sides is None else truth.sides
    found = clip(truth.boxes, sides[truth.box_image])
    rows = np.flatnonzero(found.inside)
    kept = replace(
        truth,
        box_image=truth.box_image[rows],
        boxes=found.boxes[rows],
        box_category=truth.box_category[rows],
        crowd=truth.crowd[rows],
        difficult=truth.difficult[rows],
    )
    return kept, {"boxes_clipped": int(found.moved.sum()), "boxes_ignored": len(found.inside) - len(rows)}


def as_given(truth: GroundTruth) -> tuple[GroundTruth, dict[str, Any]]:
    """The same boxes, none of them clipped or ignored."""
    return truth, {"boxes_clipped": 0, "boxes_ignored": 0}


def refuse_bad_boxes(truth: GroundTruth) -> None:
    """DataError if a box that is to be scored is inside out or too far away to compute with."""
    bad = first_bad_box(truth.boxes)
    if bad is not None:
        image = truth.image_ids[truth.box_image[bad]]
        raise DataError(
            f"{truth.source}: the image {image!r} has an object with the box {truth.boxes[bad].tolist()} (left, top, "
            "right, bottom), which is none; correct it."
        )
