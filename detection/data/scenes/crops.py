"""The demo's pictures for pretraining: crops filled by one object each, on blurred photographs.

What made such crops learnable in a prototype: the object fills the crop and the background is out of focus (small
objects on sharp photographs end below raw pixels). Pose and light vary so much that raw pixels tell little. Labels are
there for evaluation only; pretraining does not see them.
"""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from detection.data.scenes import cutouts
from detection.data.scenes.backgrounds import Photograph, Photographs
from detection.data.scenes.cache import build_folder, cache_folder, digest, read_manifest, source_digest
from detection.data.scenes.catalogue import SPLITS, ArtCatalogue, Drawing, Split
from detection.data.scenes.cutouts import Cutout, Pose
from detection.data.scenes.kenney import FAR
from sslcore.errors import DataError

BACKGROUND = -1  # label of a crop without an object


@dataclass(frozen=True, eq=False)
class CropSet:
    """Crops of one split.

    Attributes:
        images: uint8 (N, 3, s, s), RGB.
        labels: int64 (N,), index into `classes`, `BACKGROUND` (-1) for crops without an object.
        classes: class names.
        drawings: id of the drawing each crop shows, "" without an object; N long.
        split: "train", "val" or "test".
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: list[str]
    drawings: list[str]
    split: Split

    def __len__(self) -> int:
        return len(self.labels)

    def objects(self) -> "CropSet":
        """The crops that show an object: what an evaluation by class uses."""
        shown = np.flatnonzero(self.labels != BACKGROUND)
        if len(shown) == len(self):
            return self
        drawings = [self.drawings[k] for k in shown]
        return CropSet(self.images[shown], self.labels[shown], self.classes, drawings, self.split)


def make_crops(
    split: Split,
    count: int,
    seed: int,
    size: int = 48,
    sprites: str | Path | ArtCatalogue | None = None,
    backgrounds: str | Path | Photographs | None = None,
    *,
    background_count: int = 0,
    cache: bool = True,
) -> CropSet:
    """Crops with one object each, then `background_count` crops without any.

    Crop i depends on the art, the photographs, `split`, `size`, `seed` and i only: a longer set begins like a shorter
    one. Splits share no photograph, and where a class has at least three clearly distinct drawings, test shows drawings
    that training and validation never do (from five on, validation has its own, too).

    Args:
        split: "train", "val" (for choosing recipes) or "test".
        count: crops with an object, classes equally likely.
        size: side in pixels, at least 8.
        sprites: a folder whose folders are classes, or a catalogue; None takes the demo's 32 classes.
        backgrounds: a folder of photographs, or Photographs; None takes those that ship with scikit-image.
        cache: keep the result in `cache_folder()` and use it again (checked against its hashes).

    Raises DataError if art or photographs are missing, ValueError for a size or count that makes no sense.
    """
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
    if count < 0 or background_count < 0 or size < 8:
        raise ValueError(f"counts are at least 0 and size at least 8, not {count}, {background_count} and {size}")
    art = ArtCatalogue.open(sprites)
    if sprites is None:
        art = art.subset(demo_classes(art))
    photographs = Photographs.open(backgrounds)
    request = {
        "recipe": source_digest(sys.modules[__name__], cutouts),
        "split": split,
        "count": count,
        "background_count": background_count,
        "seed": seed,
        "size": size,
        "art": art.fingerprint,
        "photographs": photographs.fingerprint,
    }
    folder = cache_folder() / "crops" / f"{split}-{digest(request)[:16]}"
    if cache and (kept := _read(folder, request)) is not None:
        return kept
    made = _render(art, photographs, split, count, background_count, seed, size)
    if cache:
        build_folder(folder, request, lambda temporary: _write(temporary, made))
    return made


def write_crop_folder(crops: CropSet, folder: str | Path, *, with_background: bool = False) -> Path:
    """The same crops as a folder of PNGs in class folders, `FOLDER/<class>/<index>.png`, as `surnia pretrain` reads.

    Crops without an object are left out unless `with_background`; then they lie in `FOLDER/background`.
    The folder appears whole or not at all and replaces one that this function made before. Raises DataError if
    something else is there.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()) and read_manifest(target) is None:
        raise DataError(f"{target} already holds something else: name a new folder, or empty this one")
    request = {"crops": crops.split, "count": len(crops), "pixels": digest(crops.images.shape)}

    def build(temporary: Path) -> None:
        for name in crops.classes:
            (temporary / name).mkdir()
        if with_background:
            (temporary / "background").mkdir()
        for k, label in enumerate(crops.labels):
            if label != BACKGROUND or with_background:
                name = crops.classes[label] if label != BACKGROUND else "background"
                image = Image.fromarray(crops.images[k].transpose(1, 2, 0))
                image.save(temporary / name / f"{k:06d}.png", compress_level=1)

    build_folder(target, request, build)
    return target


def demo_classes(art: ArtCatalogue) -> list[str]:
    """All classes but the far unknown ones (those are for the detector's test)."""
    return [name for name in art.classes if art.supercategory(name) != FAR]


class _CropMaker:
    """What all crops of a split share: cut-outs by class and drawing group, and photographs out of focus."""

    def __init__(self, art: ArtCatalogue, photographs: Sequence[Photograph], split: Split, size: int) -> None:
        self.size = size
        self.classes = art.classes
        self.cutouts = [cutouts.by_group(art.of(name, split)) for name in self.classes]
        self.soft = [plane for photograph in photographs for plane in _at_scales(photograph, size, (0.03, 0.08))]
        self.sharp = [plane for photograph in photographs for plane in _at_scales(photograph, size, (0.0,))]

    def with_object(self, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], int, Drawing]:
        label = int(rng.integers(len(self.classes)))
        cutout = self._some_cutout(label, rng)
        canvas = self._background(rng)
        blur = rng.uniform(0.4, 1.2) if rng.random() < 0.4 else 0.0
        pixels = cutouts.light(cutouts.cut(cutout, self._pose(rng), blur), rng, strength=1.7)
        # Off the centre: some objects are cut off at the border.
        shift = rng.uniform(-0.16, 0.16, 2) * self.size
        left, top = (round(s + (self.size - n) / 2) for s, n in zip(shift, pixels.shape[:0:-1]))
        if rng.random() < 0.6:
            dx, dy = rng.uniform(-0.08, 0.08) * self.size, rng.uniform(0.02, 0.1) * self.size
            depth = rng.uniform(0.2, 0.55)
            cutouts.cast_shadow(canvas, pixels, left + round(dx), top + round(dy), 0.04 * self.size, depth)
        cutouts.paste(canvas, pixels, left, top)
        if rng.random() < 0.15:
            self._occlude(canvas, rng)
        return self._develop(canvas, rng), label, cutout.drawing

    def without_object(self, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        return self._develop(self._background(rng), rng)

    def _some_cutout(self, label: int, rng: np.random.Generator) -> Cutout:
        return cutouts.one_of(cutouts.one_of(self.cutouts[label], rng), rng)

    def _pose(self, rng: np.random.Generator) -> Pose:
        return Pose(
            long_side=self.size * rng.uniform(0.55, 1.1),
            angle=rng.normal(0, 15),
            flip=bool(rng.random() < 0.5),
            stretch=float(np.exp(rng.normal(0, 0.15))),
        )

    def _background(self, rng: np.random.Generator) -> cutouts.Pixels:
        gain = np.exp(rng.normal(0, 0.3) + rng.normal(0, 0.12, 3)).astype(np.float32)
        return _piece(self.soft, self.size, self.size, rng) * gain[:, None, None]

    def _occlude(self, canvas: cutouts.Pixels, rng: np.random.Generator) -> None:
        """A piece of another photograph, in the outline of some drawing, comes in from the border."""
        cutout = self._some_cutout(int(rng.integers(len(self.cutouts))), rng)
        mask = cutouts.cut(cutout, Pose(self.size * rng.uniform(0.3, 0.55), rng.uniform(0, 360)))
        piece = cutouts.patch(_piece(self.sharp, mask.shape[2], mask.shape[1], rng), mask)
        turn = rng.uniform(0, 2 * np.pi)
        centre = self.size / 2 + 0.48 * self.size * np.array([np.cos(turn), np.sin(turn)])
        left, top = (round(c - n / 2) for c, n in zip(centre, mask.shape[:0:-1]))
        cutouts.paste(canvas, piece, left, top)

    def _develop(self, canvas: cutouts.Pixels, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        image = cutouts.develop(canvas, rng, blur=0.0, noise=rng.uniform(0, 5))
        if rng.random() < 0.4:
            file = io.BytesIO()
            cutouts.interleaved(image).save(file, "JPEG", quality=int(rng.integers(55, 95)))
            image = np.asarray(Image.open(file)).transpose(2, 0, 1)
        return image


def _render(
    art: ArtCatalogue, photographs: Photographs, split: Split, count: int, empty: int, seed: int, size: int
) -> CropSet:
    maker = _CropMaker(art, photographs.of(split), split, size)
    images = np.empty((count + empty, 3, size, size), dtype=np.uint8)
    labels = np.full(count + empty, BACKGROUND, dtype=np.int64)
    shown = [""] * (count + empty)
    for i in range(count):
        images[i], labels[i], drawing = maker.with_object(_generator(seed, split, 0, i))
        shown[i] = drawing.id
    for i in range(empty):
        images[count + i] = maker.without_object(_generator(seed, split, 1, i))
    return CropSet(images, labels, maker.classes, shown, split)


def _generator(seed: int, split: Split, kind: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), kind, index]))


def _at_scales(photograph: Photograph, size: int, blurs: Sequence[float]) -> list[cutouts.Pixels]:
    """A photograph at three scales with each blur (sigma in crop sides): float32 (3, h, w), larger than a crop."""
    made = []
    for short_side in (1.3, 2.5, 5.0):
        scale = max(short_side * size, size + 12) / min(photograph.image.size)  # room for a rim at any size
        wide, high = (round(n * scale) for n in photograph.image.size)
        image = photograph.image.resize((wide, high), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
        made += [
            cutouts.planes(image.filter(ImageFilter.GaussianBlur(blur * size)) if blur else image) for blur in blurs
        ]
    return made


def _piece(photographs: Sequence[cutouts.Pixels], width: int, height: int, rng: np.random.Generator) -> cutouts.Pixels:
    """A random (3, height, width) piece of one of the photographs, mirrored or not."""
    plane = cutouts.one_of(photographs, rng)
    top, left = int(rng.integers(plane.shape[1] - height + 1)), int(rng.integers(plane.shape[2] - width + 1))
    piece = plane[:, top : top + height, left : left + width]
    return piece[:, :, ::-1] if rng.random() < 0.5 else piece


def _write(folder: Path, crops: CropSet) -> None:
    np.save(folder / "images.npy", crops.images, allow_pickle=False)
    np.save(folder / "labels.npy", crops.labels, allow_pickle=False)
    about = {"classes": crops.classes, "drawings": crops.drawings, "split": crops.split}
    (folder / "crops.json").write_text(json.dumps(about), encoding="utf-8")


def _read(folder: Path, request: dict[str, Any]) -> CropSet | None:
    """The crops in a cached folder, None if it is not there, damaged, or made for something else."""
    manifest = read_manifest(folder)
    if manifest is None or manifest["request"] != request:
        return None
    about = json.loads((folder / "crops.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy", allow_pickle=False)
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    return CropSet(images, labels, about["classes"], about["drawings"], about["split"])
