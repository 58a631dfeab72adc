"""Pasting: a drawing scaled, turned and lit, its shadow, its edge, and what the camera adds.

All colours here are premultiplied by alpha, so that resampling and blurring an edge brings in no colour from outside
the drawing. Each function takes the random generator it draws from; none keeps state.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from detection.data.scenes.backgrounds import Photograph
from detection.data.scenes.catalogue import Drawing

T = TypeVar("T")
Pixels = npt.NDArray[np.float32]
_RIM = 2  # transparent pixels around every level: an edge at the border is resampled like any other


@dataclass(frozen=True, eq=False)
class Cutout:
    """A drawing ready to be pasted at any size: premultiplied levels, each half as large as the one before."""

    drawing: Drawing
    levels: tuple[Image.Image, ...]

    @classmethod
    def of(cls, drawing: Drawing) -> "Cutout":
        whole = Image.fromarray(drawing.pixels).convert("RGBa")
        levels = [whole]
        while min(levels[-1].size) >= 16:
            levels.append(levels[-1].reduce(2))
        return cls(drawing, tuple(_with_rim(level) for level in levels))


def by_group(drawings: Sequence[Drawing]) -> list[list[Cutout]]:
    """Cut-outs of one class, near-duplicates together; who draws a group first does not favour what has many twins."""
    groups: dict[int, list[Cutout]] = {}
    for drawing in drawings:
        groups.setdefault(drawing.group, []).append(Cutout.of(drawing))
    return list(groups.values())


def one_of(things: Sequence[T], rng: np.random.Generator) -> T:
    return things[int(rng.integers(len(things)))]


@dataclass(frozen=True)
class Pose:
    """Where the outline of a cut-out goes: length of its longer side in pixels, degrees, mirrored or not, stretch."""

    long_side: float
    angle: float = 0.0
    flip: bool = False
    stretch: float = 1.0  # width over height, relative to the drawing


def cut(cutout: Cutout, pose: Pose, blur: float = 0.0) -> Pixels:
    """The drawing in this pose: float32 (4, h, w) in [0, 255], premultiplied, with a rim of transparent pixels."""
    height, width = cutout.drawing.pixels.shape[:2]
    scale = pose.long_side / max(height, width)
    stretch = math.sqrt(pose.stretch)
    across, down = width * scale * stretch, height * scale / stretch
    depth = min(max(int(math.log2(max(1 / scale, 1.0))), 0), len(cutout.levels) - 1)
    level = cutout.levels[depth]
    level_width, level_height = level.width - 2 * _RIM, level.height - 2 * _RIM

    turn = math.radians(pose.angle)
    cos, sin = math.cos(turn), math.sin(turn)
    margin = 2 + math.ceil(3 * blur)
    out_width = math.ceil(abs(across * cos) + abs(down * sin)) + 2 * margin
    out_height = math.ceil(abs(across * sin) + abs(down * cos)) + 2 * margin
    # Output pixel -> offset from the centre -> turned back -> pixel of the level.
    fx = level_width / across * (-1 if pose.flip else 1)
    fy = level_height / down
    a, b, d, e = cos * fx, sin * fx, -sin * fy, cos * fy
    c = level.width / 2 - (a * out_width + b * out_height) / 2
    f = level.height / 2 - (d * out_width + e * out_height) / 2
    enlarging = scale * 2**depth > 1
    resample = Image.Resampling.BICUBIC if enlarging else Image.Resampling.BILINEAR
    image = level.transform((out_width, out_height), Image.Transform.AFFINE, (a, b, c, d, e, f), resample)
    if blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    return planes(image)


def patch(piece: Pixels, mask: Pixels) -> Pixels:
    """A piece of a photograph (3, h, w) in the outline of a cut-out (4, h, w): float32 (4, h, w), premultiplied."""
    return np.concatenate([piece * (mask[3:] * (1 / 255)), mask[3:]])


def window(
    photograph: Photograph, width: int, height: int, rng: np.random.Generator, nearest: float = 0.3
) -> Image.Image:
    """A random piece of a photograph, mirrored or not, as an image of this size.

    `nearest` is how far it may zoom in: the smallest part of the largest window that fits.
    """
    image = photograph.image
    largest = min(image.width / width, image.height / height)
    zoom = largest * math.exp(rng.uniform(math.log(nearest), 0))
    wide, high = width * zoom, height * zoom
    left, top = rng.uniform(0, image.width - wide), rng.uniform(0, image.height - high)
    box = (left, top, min(left + wide, image.width), min(top + high, image.height))
    piece = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else piece


def light(pixels: Pixels, rng: np.random.Generator, strength: float = 1.0) -> Pixels:
    """Brightness, contrast, tint and a gradient of light across a cut-out (in place); `strength` 0 changes nothing."""
    height, width = pixels.shape[1:]
    gain = np.exp(rng.normal(0, 0.2 * strength) + rng.normal(0, 0.06 * strength, 3))
    contrast = math.exp(rng.normal(0, 0.15 * strength))
    slope_x, slope_y = rng.uniform(-0.25 * strength, 0.25 * strength, 2)
    ramp = np.linspace(1 - slope_x, 1 + slope_x, width) + np.linspace(-slope_y, slope_y, height)[:, None]
    ramp = ramp.astype(np.float32)
    alpha = pixels[3]
    grey = alpha * np.float32(0.45 * (1 - contrast))
    for k in range(3):
        colour = pixels[k]
        colour *= np.float32(contrast)
        colour += grey
        colour *= ramp
        colour *= np.float32(gain[k])
        np.maximum(colour, 0, out=colour)
        np.minimum(colour, alpha, out=colour)
    return pixels


def paste(canvas: Pixels, pixels: Pixels, left: int, top: int) -> None:
    """Lay a cut-out (4, h, w) over the canvas (3, H, W), in place; parts outside are cut off."""
    on_canvas, of_cutout = overlap(canvas.shape[1:], pixels.shape[1:], left, top)
    piece, under = pixels[:, *of_cutout], canvas[:, *on_canvas]
    under *= 1 - piece[3] * np.float32(1 / 255)
    under += piece[:3]


def cast_shadow(canvas: Pixels, pixels: Pixels, left: int, top: int, blur: float, depth: float) -> None:
    """Darken the canvas under the (already moved) outline of a cut-out, in place; `depth` in [0, 1]."""
    margin = math.ceil(2.5 * blur)
    alpha = np.pad(pixels[3].astype(np.uint8), margin)
    soft = np.asarray(Image.fromarray(alpha).filter(ImageFilter.BoxBlur(2 * blur)))  # an even penumbra, and cheap
    on_canvas, of_shadow = overlap(canvas.shape[1:], soft.shape, left - margin, top - margin)
    canvas[:, *on_canvas] *= 1 - soft[of_shadow] * np.float32(depth / 255)


def planes(image: Image.Image) -> Pixels:
    """An image's channels as float32 (c, h, w): planes, because arithmetic along three interleaved values is slow."""
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")


def interleaved(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """uint8 (3, h, w) as an image."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def overlap(
    canvas: tuple[int, ...], piece: tuple[int, ...], left: int, top: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the canvas and of a piece laid on it at (left, top), where the two meet (perhaps empty)."""
    y0, y1 = max(top, 0), max(min(top + piece[0], canvas[0]), max(top, 0))
    x0, x1 = max(left, 0), max(min(left + piece[1], canvas[1]), max(left, 0))
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def soften(canvas: Pixels, blur: float) -> Pixels:
    """The canvas (3, h, w) blurred with this sigma in pixels."""
    return planes(interleaved(np.clip(canvas, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur)))


def develop(canvas: Pixels, rng: np.random.Generator, *, blur: float, noise: float) -> npt.NDArray[np.uint8]:
    """What the camera adds: exposure and white balance, blur (sigma in pixels), noise (sigma in grey levels).

    Takes float32 (3, h, w), which it overwrites; gives uint8 (3, h, w).
    """
    canvas *= np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.04, 3)).astype(np.float32)[:, None, None]
    if blur > 0:
        canvas = soften(canvas, blur)
    if noise > 0:
        grain = rng.standard_normal(canvas.shape, dtype=np.float32)
        grain *= np.float32(noise)
        canvas += grain
    canvas += 0.5
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)


def _with_rim(image: Image.Image) -> Image.Image:
    framed = Image.new("RGBa", (image.width + 2 * _RIM, image.height + 2 * _RIM))
    framed.paste(image, (_RIM, _RIM))
    return framed
