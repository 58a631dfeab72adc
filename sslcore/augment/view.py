"""One random view of every image of a batch: crop and resize, flip, colour, grayscale, blur, solarize, normalise."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn

from sslcore.augment import colour
from sslcore.augment.blur import blur_radius, gaussian_blur
from sslcore.augment.crop import DRAWS as BOX_DRAWS
from sslcore.augment.crop import Range, crop_box, crop_boxes
from sslcore.augment.normalise import check_crops, check_images, check_normalisation, normalise_into, white
from sslcore.augment.resize import resize_crops
from sslcore.augment.select import change_some_
from sslcore.random import uniform, uniform_row

# Values worked on at a time. On a CPU about what stays in its cache from pass to pass, and no less: every kernel of
# every piece starts and joins the threads anew. Elsewhere what bounds the memory.
_CHUNK_ON_CPU, _CHUNK = 1 << 20, 1 << 27


@dataclass(frozen=True)
class ViewSpec:
    """How a random view is made. Probabilities are per image; strengths are those of torchvision's ColorJitter.

    Attributes:
        size: side in pixels.
        scale: range of the crop's share of the image area.
        ratio: range of the crop's width / height.
        flip, jitter, grayscale, blur, solarize: probabilities.
        brightness, contrast, saturation: factors are drawn from [max(0, 1 - strength), 1 + strength].
        hue: the turn is drawn from [-hue, hue]; at most 0.5.
        blur_sigma: range of the standard deviation, in pixels of a 224-pixel view; scaled with `size`.
    """

    size: int = 224
    scale: Range = (0.2, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter: float = 0.8
    grayscale: float = 0.2
    blur: float = 0.0
    blur_sigma: Range = (0.1, 2.0)
    solarize: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is a side in pixels and must be at least 1, not {self.size}")
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability and must be in [0, 1], not {getattr(self, name)}")
        for name, highest in (("brightness", None), ("contrast", None), ("saturation", None), ("hue", 0.5)):
            strength = getattr(self, name)
            if strength < 0 or (highest is not None and strength > highest):
                raise ValueError(f"{name} must be {'at least 0' if highest is None else 'in [0, 0.5]'}, not {strength}")
        for name, highest in (("scale", 1), ("ratio", None), ("blur_sigma", None)):
            low, high = getattr(self, name)
            if not 0 <= low <= high or high == 0 or (name != "scale" and low == 0) or (highest and high > highest):
                limit = " within [0, 1]" if highest else " of positive numbers"
                raise ValueError(f"{name} must be a range (low, high){limit}, not {getattr(self, name)}")


@dataclass
class _Draws:
    """What is done to each sample after the crop, one number a sample."""

    flip: Bool[Tensor, " n"]
    brightness: Float[Tensor, " n"]
    contrast: Float[Tensor, " n"]
    saturation: Float[Tensor, " n"]
    hue: Float[Tensor, " n"]
    grey: Bool[Tensor, " n"]
    blur: Bool[Tensor, " n"]
    sigma: Float[Tensor, " n"]
    solarize: Bool[Tensor, " n"]

    def __getitem__(self, rows: slice) -> "_Draws":
        return _Draws(*(getattr(self, field.name)[rows] for field in fields(self)))


class RandomView(nn.Module):
    """Random views of a batch on the device it is on, without reading anything back from a GPU.

    A sample's parameters depend on (seed, step, id, view) and on nothing else. Multi-crop is several RandomViews, each
    called with its own `view`. Images of mixed size: loader workers call `crop_box` and `crop_file_image`, and the
    stacked crops go through `finish`, which gives the same view as `forward` up to the rounding of the crop to uint8.

    Args:
        spec: what is drawn.
        mean, std: per channel (one or three) in units of [0, 1], for the normalisation at the end.

    Example:
        >>> view = RandomView(ViewSpec(size=32), mean=[0.5] * 3, std=[0.25] * 3)
        >>> images = torch.randint(0, 256, (8, 3, 40, 40), dtype=torch.uint8)
        >>> view(images, seed=0, step=5, ids=torch.arange(8), view=0).shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(self, spec: ViewSpec, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.spec = spec
        self.mean, self.std = check_normalisation(mean, std)

    @torch.no_grad()
    def forward(
        self, images: Num[Tensor, "n c h w"], *, seed: int, step: int, ids: Int[Tensor, " n"], view: int
    ) -> Float[Tensor, "n c s s"]:
        """Make view number `view` of each image.

        Args:
            images: (n, c, h, w) uint8, or floating point in [0, 1]; 1 or 3 channels.
            seed, step: the run's seed and the training step.
            ids: (n,) which samples these are.
            view: which of a sample's views this is.

        Returns:
            (n, c, size, size) float32, normalised.
        """
        check_images(images, self.mean)
        ids = ids.to(images.device, non_blocking=True)
        draws = self._draw(seed, step, ids, view)
        height, width = images.shape[-2:]
        box_draws = uniform(seed, step, ids, stream=2 * view, draws=BOX_DRAWS)
        boxes = crop_boxes(box_draws, height, width, scale=self.spec.scale, ratio=self.spec.ratio)

        size = self.spec.size
        out = torch.empty(*images.shape[:2], size, size, device=images.device)
        peak = white(images)
        with torch.autocast(images.device.type, enabled=False):
            for rows in _chunks(images, size):
                crops = resize_crops(images[rows], boxes[rows], size, draws.flip[rows])
                self._finish_(crops, peak, draws[rows], out[rows])
        return out

    def crop_box(
        self, seed: int, step: int, sample_id: int, view: int, height: int, width: int
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of the box that `forward` cuts from this sample; for one file in a worker."""
        draws = uniform_row(seed, step, sample_id, stream=2 * view, draws=BOX_DRAWS)
        return crop_box(draws, height, width, scale=self.spec.scale, ratio=self.spec.ratio)

    @torch.no_grad()
    def finish(
        self, crops: UInt8[Tensor, "n c h w"], *, seed: int, step: int, ids: Int[Tensor, " n"], view: int
    ) -> Float[Tensor, "n c s s"]:
        """What `forward` does after cropping and resizing, for crops made elsewhere with `crop_box`.

        Args:
            crops: (n, c, size, size) uint8.
            seed, step, ids, view: as in `forward`.

        Returns:
            (n, c, size, size) float32, normalised.
        """
        check_images(crops, self.mean)
        check_crops(crops, self.spec.size)
        draws = self._draw(seed, step, ids.to(crops.device, non_blocking=True), view)
        out = torch.empty(crops.shape, device=crops.device)
        with torch.autocast(crops.device.type, enabled=False):
            for rows in _chunks(crops, self.spec.size):
                chunk = crops[rows].to(torch.float32, memory_format=torch.contiguous_format, copy=True)
                change_some_(chunk, draws.flip[rows], lambda some, _: some.flip(-1))
                self._finish_(chunk, white(crops), draws[rows], out[rows])
        return out

    def _draw(self, seed: int, step: int, ids: Tensor, view: int) -> _Draws:
        spec = self.spec
        flip, jitter, b, c, s, h, grey, blur, sigma, solarize = uniform(
            seed, step, ids, stream=2 * view + 1, draws=10
        ).unbind(dim=1)
        jittered = jitter < spec.jitter

        def factor(draw: Tensor, strength: float) -> Tensor:
            low = max(0.0, 1 - strength)
            return torch.where(jittered, low + (1 + strength - low) * draw, 1.0)

        low, high = (pixels * spec.size / 224 for pixels in spec.blur_sigma)
        return _Draws(
            flip=flip < spec.flip,
            brightness=factor(b, spec.brightness),
            contrast=factor(c, spec.contrast),
            saturation=factor(s, spec.saturation),
            hue=torch.where(jittered, spec.hue * (2 * h - 1), 0.0),
            grey=grey < spec.grayscale,
            blur=blur < spec.blur,
            sigma=low + (high - low) * sigma,
            solarize=solarize < spec.solarize,
        )

    def _finish_(self, images: Tensor, peak: float, draws: _Draws, out: Tensor) -> None:
        """From crops in [0, peak], which are overwritten, to normalised views in `out`."""
        spec = self.spec
        if spec.jitter:
            colour.adjust_colour_(images, draws.brightness, draws.contrast, draws.saturation, peak=peak)
            if spec.hue:
                colour.adjust_hue_(images, draws.hue)
        elif peak != 1:
            images.div_(peak)
        if spec.grayscale:
            colour.grayscale_(images, draws.grey)
        if spec.blur:
            radius = blur_radius(spec.blur_sigma[1] * spec.size / 224)
            change_some_(images, draws.blur, lambda some, rows: gaussian_blur(some, draws.sigma[rows], radius=radius))
        if spec.solarize:
            colour.solarize_(images, draws.solarize)
        normalise_into(out, images, self.mean, self.std)

    def extra_repr(self) -> str:
        return f"{self.spec}, mean={self.mean}, std={self.std}"


def _chunks(images: Tensor, size: int) -> list[slice]:
    """Slices of the batch that are worked on one after the other."""
    n, c, height, width = images.shape
    if images.device.type == "cpu":
        rows = max(1, _CHUNK_ON_CPU // (c * size * size))
    else:
        rows = max(1, _CHUNK // (c * max(height * width, size * size)))
    return [slice(start, start + rows) for start in range(0, n, rows)]
