"""Images of any size to one batch that the network takes, and boxes there and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from detection.structures import Target

LIMITS = (-1.0, 2.0)
"""Pixels are meant to be in [0, 1]; beyond these they are surely something else (0 to 255, normalised already)."""


@dataclass(frozen=True)
class ImageBatch:
    """Images as the network gets them.

    Attributes:
        tensors: (n, 3, H, W), normalised, resized, padded with zeros at the right and below.
        sizes: height and width of each without its padding.
        originals: height and width of each as it was given.
    """

    tensors: Float[Tensor, "n 3 h w"]
    sizes: list[tuple[int, int]]
    originals: list[tuple[int, int]]

    def scale(self, index: int) -> tuple[float, float]:
        """Pixels of the network's image in one of the image given, across and down."""
        (height, width), (h, w) = self.sizes[index], self.originals[index]
        return width / w, height / h

    def to_network(self, boxes: Float[Tensor, "b 4"], index: int) -> Float[Tensor, "b 4"]:
        """Boxes of one image as given, in the network's pixels."""
        if self.sizes[index] == self.originals[index]:
            return boxes
        x, y = self.scale(index)
        return boxes * boxes.new_tensor([x, y, x, y])

    def to_original(self, boxes: Float[Tensor, "b 4"], index: int) -> Float[Tensor, "b 4"]:
        """Boxes of the network, in pixels of the image as given and within it."""
        x, y = self.scale(index)
        return clip_boxes_to_image(boxes / boxes.new_tensor([x, y, x, y]), self.originals[index])

    def targets(self, targets: Sequence[Target]) -> list[Target]:
        """Targets of the images as given, in the network's pixels and on its device."""
        if len(targets) != len(self.sizes):
            raise ValueError(f"{len(self.sizes)} images came with {len(targets)} targets: give one for each")
        there = [target.to(self.tensors.device) for target in targets]
        return [replace(target, boxes=self.to_network(target.boxes, i)) for i, target in enumerate(there)]

    def boxes(self, boxes: Sequence[Float[Tensor, "b 4"]] | None) -> list[Float[Tensor, "b 4"]] | None:
        """Boxes of each of the images as given, in the network's pixels and on its device; None stays None."""
        if boxes is None:
            return None
        return [self.to_network(rows.to(self.tensors), i) for i, rows in enumerate(boxes)]


class ImageTransform(nn.Module):
    """Resize, normalise, pad.

    torchvision's `GeneralizedRCNNTransform` does the same but keeps mean and deviation outside the state, draws a size
    when there are several, and cannot take images that a resize would leave without a row.

    Args:
        min_size: shorter side after the resize, where `max_size` allows it.
        max_size: longest longer side.
        divisible: sides are padded to multiples of this.
        mean, std: per channel, of pixel values in [0, 1]; kept in the state, because they belong to the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, min_size: int, max_size: int, divisible: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.min_size, self.max_size, self.divisible = min_size, max_size, divisible
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> ImageBatch:
        """(3, h, w) images with values in [0, 1], each of its own size, to a batch on this module's device.

        Raises:
            ValueError: no image, or one that is not such an image: the sentence names it and what is wrong.
        """
        _check(images)
        originals = [_size(image) for image in images]
        sizes = [self.resized(size) for size in originals]
        height, width = (_ceil(max(side), self.divisible) for side in zip(*sizes))
        batch = self.mean.new_zeros(len(images), 3, height, width)
        batch = batch.to(memory_format=torch.channels_last)  # the order that convolutions are fastest in
        for image, into, size in zip(images, batch, sizes):
            resized = _resize(image.to(self.mean), size)
            into[:, : size[0], : size[1]] = (resized - self.mean[:, None, None]) / self.std[:, None, None]
        return ImageBatch(batch, sizes, originals)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width that an image of this height and width gets."""
        scale = min(self.min_size / min(size), self.max_size / max(size))
        height, width = (min(max(1, round(side * scale)), self.max_size) for side in size)
        return height, width


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _ceil(side: int, divisor: int) -> int:
    return math.ceil(side / divisor) * divisor


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if _size(image) == size:
        return image
    # Smoothed where it shrinks: else a photograph of 20 megapixels is sampled at every twentieth pixel.
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def _check(images: Sequence[Tensor]) -> None:
    if not len(images):
        raise ValueError("there is no image in the batch: give at least one")
    for i, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise ValueError(f"image {i} has shape {tuple(image.shape)}: give colour images (3, height, width)")
        if not image.is_floating_point():
            raise ValueError(f"image {i} is {image.dtype}: give floating point values in [0, 1], for bytes image / 255")
    # The least and the greatest value carry every nan and infinity; read back once for the whole batch.
    ranges = torch.stack([torch.stack(torch.aminmax(image)) for image in images]).tolist()
    for i, (least, greatest) in enumerate(ranges):
        if not (math.isfinite(least) and math.isfinite(greatest)):
            raise ValueError(f"image {i} has pixels that are nan or infinite: look at how it was read or augmented")
        if least < LIMITS[0] or greatest > LIMITS[1]:
            raise ValueError(f"image {i} has values from {least:.4g} to {greatest:.4g}: scale them to [0, 1]")
