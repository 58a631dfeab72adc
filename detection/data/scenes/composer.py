"""Scenes with boxes: drawings pasted on photographs as a camera might have seen them, annotated completely.

Image i of a set depends on the art, the photographs, the configuration, the seed and i only; never on how many images
are made, in which order or by how many processes. Pasting must not give objects away, so edges are blended, shadows
cast, and noise and JPEG laid over everything; and **distractors**, pieces of other photographs cut out with the same
outlines, lie between the objects, labelled nowhere.
"""

import io
import math
import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from detection.data.scenes import cutouts
from detection.data.scenes.backgrounds import Photograph, Photographs
from detection.data.scenes.cache import digest, source_digest
from detection.data.scenes.catalogue import SPLITS, ArtCatalogue, Split
from detection.data.scenes.cutouts import Pixels, Pose
from sslcore.errors import DataError

_FREE = -1  # owner of a pixel that shows the background or a distractor
_TRIES = 12


@dataclass(frozen=True)
class ObjectGroup:
    """Classes that share a number of objects per image.

    Several groups in one image make an open-world scene: a few objects of the classes a task labels, two to four of
    others.

    Args:
        classes: class names.
        count: fewest and most objects per image, both included.
        tail: 0 makes classes equally frequent; t > 0 gives the k-th class (from 1) the weight k ** -t, a long tail in
            the order of `classes`.
        name: written into the annotations of these objects.
    """

    classes: tuple[str, ...]
    count: tuple[int, int] = (3, 6)
    tail: float = 0.0
    name: str = "objects"

    def __post_init__(self) -> None:
        low, high = self.count
        if not self.classes or not 0 <= low <= high or self.tail < 0:
            raise ValueError(f"a group needs classes, a count 0 <= low <= high and tail >= 0, not {self}")

    @cached_property
    def frequencies(self) -> npt.NDArray[np.float64]:
        weights = np.arange(1, len(self.classes) + 1, dtype=np.float64) ** -self.tail
        return weights / weights.sum()


@dataclass(frozen=True)
class SceneConfig:
    """What scenes look like. Lengths are in pixels unless said otherwise.

    Args:
        groups: what is pasted.
        split: whose photographs and drawings are used.
        held_out: of a class with drawings that only this split shows, the share of objects that show one of these; the
            others show what training shows. 1: all of them.
        width, height: of the images.
        distractors: fewest and most pieces of other photographs per image, labelled nowhere.
        object_size: shortest and longest allowed longer side of an object, relative to the image's shorter side; drawn
            log-uniformly.
        min_side: no object's longer side is shorter than this.
        min_short_side: nor its shorter side than this (both of the outline before it is turned, hidden or cut off).
        rotation: standard deviation of the angle, degrees.
        truncation: share of objects that may reach over the border.
        min_visible: at least this share of every object stays visible: no box lies on too small a part to recognise.
        shadow: share of objects with a shadow.
        blur: greatest sigma of an object's and of the whole image's blur.
        noise: greatest standard deviation of the sensor's noise, in grey levels.
        jpeg: lowest and highest JPEG quality; every image is compressed once, whatever format it is kept in.
    """

    groups: tuple[ObjectGroup, ...]
    split: Split = "train"
    held_out: float = 1.0
    width: int = 160
    height: int = 160
    distractors: tuple[int, int] = (0, 2)
    object_size: tuple[float, float] = (0.14, 0.5)
    min_side: int = 14
    min_short_side: int = 0
    rotation: float = 20.0
    truncation: float = 0.15
    min_visible: float = 0.4
    shadow: float = 0.6
    blur: float = 0.9
    noise: float = 6.0
    jpeg: tuple[int, int] = (70, 95)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {self.split!r}")
        if not 0 <= self.held_out <= 1:
            raise ValueError(f"held_out is a share in [0, 1], not {self.held_out}")
        if min(self.width, self.height) < 32:
            raise ValueError(f"scenes are at least 32 pixels a side, not {self.width} x {self.height}")
        if not 0 <= self.distractors[0] <= self.distractors[1]:
            raise ValueError(f"distractors is a count 0 <= low <= high, not {self.distractors}")
        if not 0 < self.object_size[0] <= self.object_size[1] <= 1:
            raise ValueError(f"object_size is 0 < low <= high <= 1, not {self.object_size}")
        if not 0 < self.min_visible <= 1:
            raise ValueError(f"min_visible is in (0, 1], not {self.min_visible}")
        if not 1 <= self.jpeg[0] <= self.jpeg[1] <= 95:
            raise ValueError(f"jpeg is 1 <= low <= high <= 95, not {self.jpeg}")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Placed:
    """One object or distractor of a scene.

    Attributes:
        drawing: id of the drawing (of a distractor: the one whose outline cut it).
        class_name: None for a distractor.
        group: the `ObjectGroup`'s name, or the photograph a distractor was cut from.
        bbox: (x, y, w, h) of the visible pixels.
        full_bbox: of all pixels, hidden and cut-off ones included; may reach over the border.
        area: number of visible pixels.
        visible: visible pixels / all pixels, in (0, 1].
        truncated: whether it reaches over the border.
    """

    drawing: str
    class_name: str | None
    group: str
    bbox: tuple[int, int, int, int]
    full_bbox: tuple[int, int, int, int]
    area: int
    visible: float
    truncated: bool


@dataclass(frozen=True, eq=False)
class Scene:
    """One composed image.

    Attributes:
        jpeg: the image as it is kept in a file.
        background: name of the photograph.
        objects, distractors: from back to front.
    """

    jpeg: bytes
    background: str
    objects: tuple[Placed, ...]
    distractors: tuple[Placed, ...]

    @cached_property
    def image(self) -> npt.NDArray[np.uint8]:
        """uint8 (h, w, 3), RGB."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg)).convert("RGB"))


class SceneComposer:
    """Makes scenes one at a time.

    Args:
        config: what they look like.
        art: the drawings; must have every class the groups name.
        photographs: for backgrounds and distractors; those of `config.split` are used.
        seed: another seed, other scenes.

    Example:
        >>> config = SceneConfig(groups=(ObjectGroup(("robot", "coin"), count=(2, 4)),))
        >>> composer = SceneComposer(config, ArtCatalogue.kenney(), Photographs.shipped(), seed=0)  # doctest: +SKIP
        >>> [thing.bbox for thing in composer.scene(7).objects]  # doctest: +SKIP
    """

    def __init__(self, config: SceneConfig, art: ArtCatalogue, photographs: Photographs, seed: int) -> None:
        self.config, self.art, self.photographs, self.seed = config, art, photographs, seed
        self._names = list(dict.fromkeys(name for group in config.groups for name in group.classes))
        self._cutouts = {name: cutouts.by_group(art.of(name, config.split)) for name in self._names}
        self._trained = {name: cutouts.by_group(art.of(name, "train")) for name in self._names}
        self._photographs = photographs.of(config.split)
        if config.distractors[1] and len(self._photographs) < 2:
            raise DataError(f"distractors are cut from other photographs: add one to the split {config.split!r}")

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything the images depend on (this code included), but their number."""
        return digest(
            {
                "recipe": source_digest(sys.modules[__name__], cutouts),
                "config": self.config.as_dict(),
                "seed": self.seed,
                "art": self.art.fingerprint,
                "photographs": self.photographs.fingerprint,
            }
        )

    def scene(self, index: int) -> Scene:
        """The scene with this number (0 or more)."""
        config = self.config
        rng = np.random.Generator(np.random.PCG64([self.seed, SPLITS.index(config.split), index]))
        background = self._photographs[int(rng.integers(len(self._photographs)))]
        stage = _Stage(cutouts.planes(cutouts.window(background, config.width, config.height, rng)), config.min_visible)
        stage.canvas *= np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.05, 3)).astype(np.float32)[:, None, None]
        if rng.random() < 0.3:
            stage.canvas = cutouts.soften(stage.canvas, rng.uniform(0.5, 2.5))
        for name, group in self._cast(rng):
            self._add(stage, name, group, background, rng)
        blur = config.blur * rng.random() if rng.random() < 0.4 else 0.0
        image = cutouts.develop(stage.canvas, rng, blur=blur, noise=config.noise * rng.random())
        jpeg = io.BytesIO()
        cutouts.interleaved(image).save(jpeg, "JPEG", quality=int(rng.integers(config.jpeg[0], config.jpeg[1] + 1)))
        placed = stage.placed()
        objects = tuple(p for p in placed if p.class_name is not None)
        return Scene(jpeg.getvalue(), background.name, objects, tuple(p for p in placed if p.class_name is None))

    def _cast(self, rng: np.random.Generator) -> list[tuple[str | None, str]]:
        """(class, group name) of everything to paste, from back to front; class None for a distractor."""
        cast: list[tuple[str | None, str]] = []
        for group in self.config.groups:
            count = int(rng.integers(group.count[0], group.count[1] + 1))
            chosen = rng.choice(len(group.classes), size=count, p=group.frequencies)
            cast += [(group.classes[k], group.name) for k in chosen]
        low, high = self.config.distractors
        cast += [(None, "distractor")] * int(rng.integers(low, high + 1))
        return [cast[k] for k in rng.permutation(len(cast))]

    def _add(
        self, stage: "_Stage", name: str | None, group: str, background: Photograph, rng: np.random.Generator
    ) -> None:
        """Paste one thing where it hides nothing too much, smaller after some tries; leave it out if nowhere."""
        config = self.config
        outline = name if name is not None else self._names[int(rng.integers(len(self._names)))]
        shown = self._cutouts if config.held_out == 1 or rng.random() < config.held_out else self._trained
        cutout = cutouts.one_of(cutouts.one_of(shown[outline], rng), rng)
        low, high = (math.log(s * min(config.width, config.height)) for s in config.object_size)
        height, width = cutout.drawing.pixels.shape[:2]
        slender = config.min_short_side * max(height, width) / min(height, width)
        shortest = max(config.min_side, min(slender, math.exp(high)))
        long_side = math.exp(rng.uniform(low, high))
        angle, flip, stretch = rng.normal(0, config.rotation), bool(rng.random() < 0.5), math.exp(rng.normal(0, 0.08))
        blur = config.blur * rng.random() if rng.random() < 0.5 else 0.0
        may_leave = bool(rng.random() < config.truncation)
        for shrink in (1.0, 0.8, 0.6):
            pose = Pose(max(long_side * shrink, shortest), angle, flip, stretch)
            pixels = cutouts.cut(cutout, pose, blur)
            place = stage.find_place(pixels, may_leave, rng)
            if place is None:
                continue
            if name is None:
                other = cutouts.one_of([p for p in self._photographs if p is not background], rng)
                group = other.name
                piece = cutouts.window(other, pixels.shape[2], pixels.shape[1], rng)
                pixels = cutouts.patch(cutouts.planes(piece), pixels)
            cutouts.light(pixels, rng)
            if rng.random() < config.shadow:
                _shadow(stage.canvas, pixels, place, pose.long_side, rng)
            stage.put(pixels, place, cutout.drawing.id, name, group)
            return


class _Stage:
    """The canvas, and which thing each of its pixels shows."""

    def __init__(self, canvas: Pixels, min_visible: float) -> None:
        self.canvas = canvas
        self.min_visible = min_visible
        self.owner: npt.NDArray[np.int16] = np.full(canvas.shape[1:], _FREE, dtype=np.int16)
        self.things: list[dict[str, Any]] = []
        self.seen: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # visible pixels of each thing
        self.all: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # its pixels, hidden ones included

    def find_place(self, pixels: Pixels, may_leave: bool, rng: np.random.Generator) -> tuple[int, int] | None:
        """(left, top) at which the new thing and all earlier ones stay visible enough; None if none was found."""
        mask: npt.NDArray[np.bool_] = pixels[3] > 127
        total = int(mask.sum())
        if not total:
            return None
        (y0, y1), (x0, x1) = _extent(mask)
        height, width = self.owner.shape
        for _ in range(_TRIES):
            if may_leave:  # its centre stays inside
                left = int(rng.integers(0, width)) - (x0 + x1) // 2
                top = int(rng.integers(0, height)) - (y0 + y1) // 2
            elif x1 - x0 > width or y1 - y0 > height:
                return None
            else:
                left = int(rng.integers(0, width - (x1 - x0) + 1)) - x0
                top = int(rng.integers(0, height - (y1 - y0) + 1)) - y0
            on_canvas, of_mask = cutouts.overlap(self.owner.shape, mask.shape, left, top)
            inside = mask[of_mask]
            if inside.sum() < self.min_visible * total:
                continue
            hidden = np.bincount(self.owner[on_canvas][inside] + 1, minlength=len(self.seen) + 1)[1:]
            if np.all(self.seen - hidden >= self.min_visible * self.all):
                return left, top
        return None

    def put(self, pixels: Pixels, place: tuple[int, int], drawing: str, class_name: str | None, group: str) -> None:
        left, top = place
        mask: npt.NDArray[np.bool_] = pixels[3] > 127
        on_canvas, of_mask = cutouts.overlap(self.owner.shape, mask.shape, left, top)
        cutouts.paste(self.canvas, pixels, left, top)
        self.owner[on_canvas][mask[of_mask]] = len(self.things)
        (y0, y1), (x0, x1) = _extent(mask)
        full = (left + x0, top + y0, x1 - x0, y1 - y0)
        truncated = full[0] < 0 or full[1] < 0 or left + x1 > self.owner.shape[1] or top + y1 > self.owner.shape[0]
        self.things.append(
            {"drawing": drawing, "class_name": class_name, "group": group, "full_bbox": full, "truncated": truncated}
        )
        self.all = np.append(self.all, mask.sum())
        self.seen = np.bincount(self.owner.ravel() + 1, minlength=len(self.things) + 1)[1:]

    def placed(self) -> list[Placed]:
        found = []
        for k, thing in enumerate(self.things):
            (y0, y1), (x0, x1) = _extent(self.owner == k)
            visible = round(float(self.seen[k] / self.all[k]), 4)
            found.append(Placed(**thing, bbox=(x0, y0, x1 - x0, y1 - y0), area=int(self.seen[k]), visible=visible))
        return found


def _shadow(canvas: Pixels, pixels: Pixels, place: tuple[int, int], long_side: float, rng: np.random.Generator) -> None:
    across, down = rng.uniform(-0.08, 0.08) * long_side, rng.uniform(0.02, 0.1) * long_side
    blur = max(1.0, rng.uniform(0.02, 0.06) * long_side)
    left, top = place[0] + round(across), place[1] + round(down)
    cutouts.cast_shadow(canvas, pixels, left, top, blur, rng.uniform(0.2, 0.55))


def _extent(mask: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and one past the last row, first and one past the last column with a set pixel of a bool (h, w) array."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)
