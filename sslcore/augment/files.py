"""The part of a view that is done where a file is decoded, so that images of mixed size can be stacked."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor


def crop_file_image(image: Image.Image, box: Sequence[int | float], size: int) -> UInt8[Tensor, "3 {size} {size}"]:
    """Cut a box from a decoded image and resize it to a square, antialiased.

    Args:
        image: any mode; converted to RGB.
        box: top, left, height, width in pixels (the order of `RandomView.crop_box`). Whole numbers cut the box out
            first, as torchvision's `resized_crop`; fractions are resampled from the surrounding image.
        size: side of the result in pixels.

    Returns:
        (3, size, size) uint8.
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    top, left, height, width = box
    right, bottom = left + width, top + height
    slack = 1e-6  # sums of fractions may pass the border by a rounding
    if min(height, width) <= 0 or min(left, top) < 0 or right > image.width + slack or bottom > image.height + slack:
        raise ValueError(f"box {tuple(box)} (top, left, height, width) must lie inside the {image.size} image")
    corners = (left, top, min(right, image.width), min(bottom, image.height))
    if all(float(side).is_integer() for side in box):
        image = image.crop(corners).resize((size, size), Image.Resampling.BILINEAR)
    else:
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=corners)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
