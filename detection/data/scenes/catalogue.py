"""Drawings by class: what can be pasted into a scene, which drawings look alike, and which are kept for the test.

Drawings of one class are put into groups of near-duplicates (frames of a walk, a second torch flame). A group goes as a
whole to training, validation or test; so a drawing met in the test has no twin in training.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from sslcore.errors import DataError
from sslcore.storage import read_image

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_VISIBLE = 16  # alpha from which a pixel counts as drawn
_MAX_SIDE = 512  # scenes paste nothing larger: bigger sprites are shrunk when read
_MAX_PIXELS = 50_000_000
_ALIKE = 0.2  # relative root-mean-square difference of thumbnails (see `_grouped`) below which two drawings are alike


@dataclass(frozen=True, eq=False)
class Drawing:
    """One cut-out.

    Attributes:
        id: unique in its catalogue, "class/file".
        class_name, supercategory: what it shows.
        group: drawings of a class with the same number are near-duplicates.
        pixels: uint8 (h, w, 4), red, green, blue (not premultiplied) and alpha, cut to what is visible.
    """

    id: str
    class_name: str
    supercategory: str
    pixels: npt.NDArray[np.uint8]
    group: int = 0


class ArtCatalogue:
    """Drawings by class, in a fixed order of classes.

    Args:
        drawings: at least one; near-duplicates are grouped here (`Drawing.group` is overwritten).

    Attributes:
        drawings: in order of class, then natural order of names.
        classes: class names in order of first appearance; category ids of scenes count from 1 in this order.
        fingerprint: SHA-256 over ids and pixels.
    """

    def __init__(self, drawings: Iterable[Drawing]) -> None:
        given = list(drawings)
        if not given:
            raise DataError("the art catalogue is empty: it needs at least one drawing")
        by_class: dict[str, list[Drawing]] = {}
        for drawing in given:
            by_class.setdefault(drawing.class_name, []).append(drawing)
        self._by_class = {name: _grouped(sorted(ones, key=_natural)) for name, ones in by_class.items()}

    @property
    def classes(self) -> list[str]:
        return list(self._by_class)

    @cached_property
    def drawings(self) -> tuple[Drawing, ...]:
        return tuple(d for ones in self._by_class.values() for d in ones)

    @cached_property
    def fingerprint(self) -> str:
        sha = hashlib.sha256()
        for d in self.drawings:
            sha.update(f"{d.id} {d.supercategory} {d.pixels.shape}\n".encode())
            sha.update(d.pixels.tobytes())
        return sha.hexdigest()

    def supercategory(self, class_name: str) -> str:
        return self.of(class_name)[0].supercategory

    def of(self, class_name: str, split: Split | None = None) -> tuple[Drawing, ...]:
        """Drawings of a class; with `split`, those that split may show (see `split_of`)."""
        if class_name not in self._by_class:
            raise DataError(f"no drawings of the class {class_name!r}; there are: {', '.join(self._by_class)}")
        ones = self._by_class[class_name]
        if split is None:
            return ones
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
        groups = 1 + max(d.group for d in ones)
        mine = tuple(d for d in ones if split_of_group(d.group, groups) == split)
        # A class too small to be divided shows the same drawings everywhere; its photographs still differ.
        return mine or tuple(d for d in ones if split_of_group(d.group, groups) == "train")

    def is_held_out(self, class_name: str, split: Split = "test") -> bool:
        """Whether the class has drawings that only `split` shows."""
        train = {d.id for d in self.of(class_name, "train")}
        return train.isdisjoint(d.id for d in self.of(class_name, split))

    def subset(self, classes: Sequence[str]) -> "ArtCatalogue":
        """The same drawings of these classes only, in the order given; groups and splits stay as they are."""
        chosen = ArtCatalogue.__new__(ArtCatalogue)
        chosen._by_class = {name: self.of(name) for name in classes}
        if not chosen._by_class:
            raise DataError("a subset of the art catalogue needs at least one class")
        return chosen

    @classmethod
    def open(cls, sprites: "str | Path | ArtCatalogue | None") -> "ArtCatalogue":
        """A catalogue as it is, a folder as a catalogue, None as the demo's art."""
        if isinstance(sprites, ArtCatalogue):
            return sprites
        return cls.kenney() if sprites is None else cls.from_folder(sprites)

    @classmethod
    def kenney(cls, *, art_wheel: str | Path | None = None, cache: str | Path | None = None) -> "ArtCatalogue":
        """The demo's art, from the `arcade` wheel (fetched once, then from the cache); see `art.kenney_folder`."""
        from detection.data.scenes import art

        return cls(art.read_kenney(art.kenney_folder(art_wheel=art_wheel, cache=cache)))

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ArtCatalogue":
        """Anyone's own art: `DIR/<class>/*.png` or `DIR/<super-category>/<class>/*.png`, with transparency.

        Raises DataError for a missing or empty folder and for a file that is no picture with an alpha channel.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder: sprites= takes a folder of class folders with transparent PNGs")
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in (".png", ".webp") and p.is_file())
        files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(root).parts)]
        drawings = []
        for path in files:
            *above, class_name, name = path.relative_to(root).parts[-3:] if path.parent != root else (None, path.name)
            if class_name is None or len(path.relative_to(root).parts) > 3:
                raise DataError(f"{path} lies outside a class folder: put sprites in {root}/<class>/")
            drawings.append(
                Drawing(
                    f"{class_name}/{Path(name).stem}", class_name, above[0] if above else "sprites", read_sprite(path)
                )
            )
        if not drawings:
            raise DataError(f"{root} holds no transparent PNG in a class folder: put sprites in {root}/<class>/*.png")
        _refuse_doubles(drawings, root)
        return cls(drawings)


def split_of_group(group: int, groups: int) -> Split:
    """Which split shows the group-th of `groups` clearly distinct drawings of a class.

    From three on every third is for the test only, from five on every sixth (the fifth, ...) for validation only.
    """
    if groups >= 3 and group % 3 == 2:
        return "test"
    return "val" if groups >= 5 and group % 6 == 4 else "train"


def read_sprite(path: Path) -> npt.NDArray[np.uint8]:
    """A picture with transparency as uint8 (h, w, 4), cut to what is visible, at most 512 pixels a side."""
    rgba = read_image(path, max_pixels=_MAX_PIXELS, alpha=True)
    if rgba.mode != "RGBA":
        raise DataError(f"{path} has no transparency: a sprite needs an alpha channel around its outline")
    box = rgba.getchannel("A").point(lambda alpha: 255 * (alpha >= _VISIBLE)).getbbox()
    if box is None:
        raise DataError(f"{path} is wholly transparent: remove it")
    rgba = rgba.crop(box)
    rgba.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BOX)
    return np.array(rgba)


def _refuse_doubles(drawings: Sequence[Drawing], root: Path) -> None:
    seen: dict[str, str] = {}
    supers: dict[str, str] = {}
    for d in drawings:
        if d.id in seen:
            raise DataError(f"{root} has two sprites called {d.id}: rename one of them")
        if supers.setdefault(d.class_name, d.supercategory) != d.supercategory:
            raise DataError(f"{root} has the class {d.class_name} in two super-categories: rename one of the folders")
        seen[d.id] = d.class_name


def _natural(drawing: Drawing) -> list[tuple[int, str]]:
    """Sort key under which walk10 comes after walk9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", drawing.id)]


def _grouped(drawings: Sequence[Drawing]) -> tuple[Drawing, ...]:
    """Number the groups of near-duplicates in order of their first drawings.

    Single linkage on the root-mean-square difference of thumbnails, mirrored or not, relative to the area drawn (a key
    fills little of its frame). At 0.2 the frames of a walk stay apart where legs cross, recolours stay apart, spades go
    with clubs.
    """
    thumbs = np.stack([_thumbnail(d.pixels) for d in drawings])
    drawn = thumbs[..., 3].sum((1, 2))
    group = list(range(len(drawings)))
    for i in range(len(drawings) - 1):
        later = thumbs[i + 1 :]
        squares = [((t - thumbs[i]) ** 2).sum((1, 2, 3)) for t in (later, later[:, :, ::-1])]
        differ = np.sqrt(np.minimum(*squares) / np.maximum(drawn[i + 1 :], drawn[i]))
        for j in np.flatnonzero(differ < _ALIKE) + i + 1:
            old, new = group[j], group[i]
            group = [new if g == old else g for g in group]
    number = {g: k for k, g in enumerate(dict.fromkeys(group))}
    return tuple(replace(d, group=number[g]) for d, g in zip(drawings, group))


def _thumbnail(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(24, 24, 4) in [0, 1]: premultiplied, the longer side filling the frame, so that size does not matter."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = Image.new("RGBa", (side, side))
    square.paste(Image.fromarray(pixels).convert("RGBa"), ((side - width) // 2, (side - height) // 2))
    return np.asarray(square.resize((24, 24), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)
