"""Cropping and resizing with antialiasing, each sample its own box.

Resizing is linear and separable: resized = rows @ image @ columns^T, where a row of either matrix holds the triangle
filter, as wide as the shrinkage, around one output pixel. The crop is the matrix's empty columns and the flip its
reversed rows, so two batched matrix multiplications do all three. That is what a GPU wants (uint8 pixels are exact in
bfloat16, whose products tensor cores add up in float32), and small images on a CPU too. For large images on a CPU
the sparse filter wins: torch's own uint8 kernel, a sample at a time, on the crop only.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor

# Two multiplications a sample up to this size; beyond, the cost of dense filters passes that of a call a sample.
# Measured by benchmarks/augment.py.
DENSE_SIDE_ON_CPU = 48


def resize_crops(
    images: Num[Tensor, "n c h w"], boxes: Int[Tensor, "n 4"], size: int, flip: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n c {size} {size}"]:
    """Cut a box from each image and resize it to a square, antialiased, as torchvision's `resized_crop`.

    Args:
        images: (n, c, h, w) uint8 or floating point.
        boxes: (n, 4) top, left, height, width, inside the image.
        size: side of the result in pixels.
        flip: (n,) whether to mirror left and right.

    Returns:
        (n, c, size, size) float32 on the scale of the input (uint8 gives 0 to 255). Equal to torchvision's up to
        floating-point rounding, to its rounding to whole values for large uint8 images on a CPU, and to bfloat16's
        three digits for uint8 images on CUDA.
    """
    if images.device.type == "cpu" and max(*images.shape[-2:], size) > DENSE_SIDE_ON_CPU:
        return _by_sample(images, boxes, size, flip)
    bfloat16 = images.dtype == torch.uint8 and images.is_cuda
    return _by_matrices(images, boxes, size, flip, torch.bfloat16 if bfloat16 else torch.float32)


def _by_matrices(
    images: Tensor, boxes: Tensor, size: int, flip: Tensor | None, dtype: torch.dtype
) -> Float[Tensor, "n c s s"]:
    height, width = images.shape[-2:]
    top, left, h, w = boxes.unbind(dim=1)
    rows = resize_matrix(top, h, height, size).to(dtype)
    columns = resize_matrix(left, w, width, size, flip).to(dtype)
    return apply_matrices(images.to(dtype), rows, columns).float()


def apply_matrices(
    images: Float[Tensor, "n c h w"], rows: Float[Tensor, "n a h"], columns: Float[Tensor, "n b w"]
) -> Float[Tensor, "n c a b"]:
    """rows[i] @ images[i, k] @ columns[i]^T for every sample i and channel k."""
    n, c, height, width = images.shape
    a, b = rows.shape[1], columns.shape[1]
    narrow = torch.bmm(images.reshape(n, c * height, width), columns.transpose(1, 2))
    rows = rows[:, None].expand(n, c, a, height).reshape(n * c, a, height)
    return torch.bmm(rows, narrow.view(n * c, height, b)).view(n, c, a, b)


def resize_matrix(
    start: Int[Tensor, " n"], length: Int[Tensor, " n"], total: int, size: int, flip: Bool[Tensor, " n"] | None = None
) -> Float[Tensor, "n {size} {total}"]:
    """Weights with which `length` pixels from `start` on, of `total`, make `size` pixels; every row sums to 1."""
    start, length = start[:, None].float(), length[:, None].float()
    order = torch.arange(size, device=start.device).expand(len(start), size)
    if flip is not None:
        order = torch.where(flip[:, None], size - 1 - order, order)
    step = length / size
    support = step.clamp(min=1)  # enlarging interpolates between two pixels, shrinking averages over a step
    centre = (order + 0.5) * step / support
    pixel = torch.arange(total, device=start.device) + 0.5 - start
    pixel = torch.where((pixel > 0) & (pixel < length), pixel / support, torch.inf)  # too far away to weigh anything

    # A triangle upside down: the sum of the row turns it again. Few passes matter, this is larger than small images.
    weights = (pixel[:, None] - centre[:, :, None]).abs_().sub_(1).clamp_(max=0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _by_sample(images: Tensor, boxes: Tensor, size: int, flip: Tensor | None) -> Float[Tensor, "n c s s"]:
    if images.dtype != torch.uint8:
        images = images.float()
    resized = torch.empty(*images.shape[:2], size, size)
    mirrored = [False] * len(images) if flip is None else flip.tolist()
    for i, (top, left, h, w) in enumerate(boxes.tolist()):
        crop = images[i, :, top : top + h, left : left + w]
        if crop.dtype == torch.uint8 and len(crop) == 3 and crop.stride(0) != 1:
            crop = _interleave(crop)
        square = F.interpolate(crop[None], (size, size), mode="bilinear", antialias=True)[0, : images.shape[1]]
        resized[i] = square.flip(-1) if mirrored[i] else square
    return resized


def _interleave(image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "4 h w"]:
    """The same channels and one more, pixel by pixel in memory as the uint8 kernel works: integer arithmetic on whole
    pixels does that five times as fast as the kernel's own copy."""
    red, green, blue = image
    pixels = blue.to(torch.int32).mul_(256).add_(green).mul_(256).add_(red)
    return pixels.view(torch.uint8).view(*pixels.shape, 4).permute(2, 0, 1)
