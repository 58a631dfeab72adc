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
from sslcore.augment.resize import resize_crops
from sslcore.random import uniform, uniform_row

# Values worked on at a time: what stays in a CPU's cache from pass to pass; elsewhere what bounds the memory.
_CHUNK_ON_CPU, _CHUNK = 1 << 19, 1 << 27


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
    grey: Float[Tensor, " n"]
    sigma: Float[Tensor, " n"]  # 0: no blur
    solarize: Float[Tensor, " n"]

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
        peak = _peak(images)
        with torch.autocast(images.device.type, enabled=False):
            for rows in _chunks(images, size):
                crops = resize_crops(images[rows], boxes[rows], size, draws.flip[rows])
                out[rows] = self._recolour(crops, peak, draws[rows])
        return out

    def crop_box(
        self, seed: int, step: int, sample_id: int, view: int, height: int, width: int
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of the box that `forward` cuts from this sample; for one file in a worker."""
        draws = uniform_row(seed, step, sample_id, stream=2 * view, draws=BOX_DRAWS)
        return crop_box(draws, height, width, scale=self.spec.scale, ratio=self.spec.ratio)

    @torch.no_grad()
    def finish(
        self, crops: UInt8[Tensor, "n c s s"], *, seed: int, step: int, ids: Int[Tensor, " n"], view: int
    ) -> Float[Tensor, "n c s s"]:
        """What `forward` does after cropping and resizing, for crops made elsewhere with `crop_box`.

        Args:
            crops: (n, c, size, size) uint8.
            seed, step, ids, view: as in `forward`.

        Returns:
            (n, c, size, size) float32, normalised.
        """
        check_images(crops, self.mean)
        if crops.shape[-2:] != (self.spec.size, self.spec.size):
            raise ValueError(f"crops must be {self.spec.size} pixels a side as the view is, not {tuple(crops.shape)}")
        draws = self._draw(seed, step, ids.to(crops.device, non_blocking=True), view)
        out = torch.empty(crops.shape, device=crops.device)
        with torch.autocast(crops.device.type, enabled=False):
            for rows in _chunks(crops, self.spec.size):
                chunk = crops[rows].float()
                flipped = torch.where(draws.flip[rows, None, None, None], chunk.flip(-1), chunk)
                out[rows] = self._recolour(flipped, _peak(crops), draws[rows])
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
            grey=(grey < spec.grayscale).float(),
            sigma=torch.where(blur < spec.blur, low + (high - low) * sigma, 0.0),
            solarize=(solarize < spec.solarize).float(),
        )

    def _recolour(self, images: Tensor, peak: float, draws: _Draws) -> Tensor:
        spec = self.spec
        images = colour.adjust_colour(
            images, brightness=draws.brightness, contrast=draws.contrast, saturation=draws.saturation, peak=peak
        )
        if spec.jitter and spec.hue:
            images = colour.adjust_hue(images, draws.hue)
        images = colour.grayscale_and_normalise(images, draws.grey, self.mean, self.std)
        if spec.blur:
            images = self._blur(images, draws.sigma)
        if spec.solarize:
            images = colour.solarize(images, draws.solarize, self.mean, self.std)
        return images

    def _blur(self, images: Tensor, sigma: Tensor) -> Tensor:
        radius = blur_radius(self.spec.blur_sigma[1] * self.spec.size / 224)
        if images.device.type != "cpu":  # picking out the blurred ones would wait for the GPU
            return gaussian_blur(images, sigma, radius=radius)
        rows = sigma.nonzero()[:, 0]
        images[rows] = gaussian_blur(images[rows], sigma[rows], radius=radius)
        return images

    def extra_repr(self) -> str:
        return f"{self.spec}, mean={self.mean}, std={self.std}"


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    mean, std = [float(m) for m in mean], [float(s) for s in std]
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise ValueError(f"mean and std must both have 1 or 3 values, one a channel, not {len(mean)} and {len(std)}")
    if min(std) <= 0:
        raise ValueError(f"std must be positive, not {std}")
    return mean, std


def check_images(images: Tensor, mean: list[float]) -> None:
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images must be uint8, or floating point in [0, 1], not {images.dtype}")
    if images.shape[1] != len(mean):
        raise ValueError(f"images have {images.shape[1]} channels but mean and std {len(mean)}; give one a channel")
    if 0 in images.shape[2:]:
        raise ValueError(f"images must have at least one pixel, not the shape {tuple(images.shape)}")


def _peak(images: Tensor) -> float:
    return 255.0 if images.dtype == torch.uint8 else 1.0


def _chunks(images: Tensor, size: int) -> list[slice]:
    """Slices of the batch that are worked on one after the other."""
    n, c, height, width = images.shape
    if images.device.type == "cpu":
        rows = max(1, _CHUNK_ON_CPU // (c * size * size))
    else:
        rows = max(1, _CHUNK // (c * max(height * width, size * size)))
    return [slice(start, start + rows) for start in range(0, n, rows)]
