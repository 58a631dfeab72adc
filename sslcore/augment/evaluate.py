"""The one view of an image that evaluation and inference see: resize, centre crop, normalise."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, UInt8
from PIL import Image
from torch import Tensor, nn

from sslcore.augment.files import crop_file_image
from sslcore.augment.normalise import check_crops, check_images, check_normalisation, normalise_into, white


class EvalView(nn.Module):
    """torchvision's Resize(resize), CenterCrop(size) and normalisation, on a batch.

    Args:
        size: side of the view in pixels.
        mean, std: per channel (one or three) in units of [0, 1].
        resize: the shorter side before the crop, at least `size` (256 for 224 is usual). None: images keep their size,
            but one whose shorter side is below `size` is enlarged to it.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float], resize: int | None = None) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size is a side in pixels and must be at least 1, not {size}")
        if resize is not None and resize < size:
            raise ValueError(f"resize ({resize}) is the shorter side before a crop of {size} and must not be smaller")
        self.size, self.resize = size, resize
        self.mean, self.std = check_normalisation(mean, std)

    @torch.no_grad()
    def forward(self, images: Num[Tensor, "n c h w"]) -> Float[Tensor, "n c s s"]:
        """(n, c, h, w) uint8, or floating point in [0, 1], to (n, c, size, size) float32, normalised."""
        check_images(images, self.mean)
        height, width = self._resized(*images.shape[-2:])
        if images.dtype != torch.uint8 or images.is_cuda:  # uint8 resizing is the CPU's alone
            images = images.float() * (1 / 255 if images.dtype == torch.uint8 else 1)
        if (height, width) != tuple(images.shape[-2:]):
            images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return self._normalise(images[..., top : top + self.size, left : left + self.size])

    def crop_file_image(self, image: Image.Image) -> UInt8[Tensor, "3 s s"]:
        """The resized centre crop of one decoded image, (3, size, size) uint8; `finish` does the rest for a stack."""
        height, width = self._resized(image.height, image.width)
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        box = round((height - self.size) / 2), round((width - self.size) / 2), self.size, self.size
        return crop_file_image(resized, box, self.size)

    @torch.no_grad()
    def finish(self, crops: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c s s"]:
        """Normalise crops that `crop_file_image` made."""
        check_images(crops, self.mean)
        check_crops(crops, self.size)
        return self._normalise(crops)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        short, long = sorted((height, width))
        target = self.resize if self.resize is not None else max(short, self.size)
        longer = int(target * long / short)
        return (target, longer) if height <= width else (longer, target)

    def _normalise(self, images: Tensor) -> Tensor:
        peak = white(images)
        out = torch.empty(images.shape, device=images.device)
        return normalise_into(out, images, [peak * m for m in self.mean], [peak * s for s in self.std])

    def extra_repr(self) -> str:
        return f"size={self.size}, resize={self.resize}, mean={self.mean}, std={self.std}"
