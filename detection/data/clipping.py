"""Boxes against the borders of their images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detection.data.annotations import Boxes, ImageRecord, Mask

Sides = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Clipped:
    """What is so of each of B boxes.

    Attributes:
        boxes: (B, 4) clipped to their images; of no meaning where a box is not finite.
        finite: (B,) all corners are numbers.
        solid: (B,) finite, and with an area.
        inside: (B,) solid, and some of the area is in the image.
        moved: (B,) inside, and reaching out of the image by a pixel or more; less is rounding.
    """

    boxes: Boxes
    finite: Mask
    solid: Mask
    inside: Mask
    moved: Mask


def sides_of(images: Sequence[ImageRecord]) -> Sides:
    """(I, 2) width and height; NaN where a file does not say them."""
    sides = np.array([(image.width, image.height) for image in images], dtype=np.float64).reshape(-1, 2)
    return np.where(sides.all(axis=1, keepdims=True), sides, np.nan)


def clip(boxes: Boxes, sides: Sides) -> Clipped:
    """Boxes (B, 4) against images of (B, 2) width and height; NaN: any box is inside."""
    unknown = np.isnan(np.tile(sides, 2))
    finite: Mask = np.logical_and.reduce(np.isfinite(boxes), axis=1)
    given = np.where(finite[:, None], boxes, 0)
    clipped = np.clip(given, np.where(unknown, -np.inf, 0), np.where(unknown, np.inf, np.tile(sides, 2)))
    solid: Mask = finite & (given[:, 2:] > given[:, :2]).all(axis=1)
    inside: Mask = solid & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    moved: Mask = inside & (np.abs(clipped - given) >= 1).any(axis=1)
    return Clipped(clipped, finite, solid, inside, moved)
