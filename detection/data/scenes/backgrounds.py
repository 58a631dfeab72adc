"""Photographs to paste on: those that ship inside scikit-image and scikit-learn, or anyone's own folder.

Training, validation and test never share a photograph.
"""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from detection.data.scenes.catalogue import SPLITS, Split
from sslcore.errors import DataError
from sslcore.storage import read_image

# Only files inside the wheels, nothing scikit-image would download. Not used: the coins (they are objects themselves),
# the right half of the motorcycle's stereo pair, charts, and drawings.
SHIPPED: dict[Split, tuple[str, ...]] = {
    "train": ("astronaut", "brick", "china", "coffee", "grass", "hubble_deep_field", "ihc", "motorcycle_left"),
    "val": ("camera", "page", "retina"),
    "test": ("chelsea", "flower", "gravel", "moon", "rocket"),
}
_PLACES = {"skimage": "data", "sklearn": "datasets/images"}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_MAX_SIDE = 1024
_MIN_SIDE = 32


@dataclass(frozen=True, eq=False)
class Photograph:
    """One photograph: its name and uint8 (h, w, 3) RGB pixels, at most 1 024 a side."""

    name: str
    pixels: npt.NDArray[np.uint8]

    @cached_property
    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)


class Photographs:
    """Photographs by split.

    Args:
        by_split: "train", "val" and "test" with at least one photograph each, none in two.

    Attributes:
        fingerprint: SHA-256 over splits, names and pixels.
    """

    def __init__(self, by_split: Mapping[Split, Sequence[Photograph]]) -> None:
        self._by_split = {split: tuple(by_split.get(split, ())) for split in SPLITS}
        for split, photographs in self._by_split.items():
            if not photographs:
                raise DataError(f"no photograph is left for the split {split!r}: add more photographs")
        names = [p.name for photographs in self._by_split.values() for p in photographs]
        if len(set(names)) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise DataError(f"the photograph {double} is there twice: splits must not share photographs")

    def of(self, split: Split) -> tuple[Photograph, ...]:
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}, not {split!r}")
        return self._by_split[split]

    @cached_property
    def fingerprint(self) -> str:
        sha = hashlib.sha256()
        for split, photographs in self._by_split.items():
            for p in photographs:
                sha.update(f"{split} {p.name} {p.pixels.shape}\n".encode())
                sha.update(p.pixels.tobytes())
        return sha.hexdigest()

    @classmethod
    def open(cls, backgrounds: "str | Path | Photographs | None") -> "Photographs":
        """Photographs as they are, a folder of them, None as those that ship with scikit-image."""
        if isinstance(backgrounds, Photographs):
            return backgrounds
        return cls.shipped() if backgrounds is None else cls.from_folder(backgrounds)

    @classmethod
    def shipped(cls) -> "Photographs":
        """The sixteen photographs that ship with scikit-image and scikit-learn, in fixed splits.

        Raises DataError if scikit-image is not installed.
        """
        folders = [_package_folder(package) / inside for package, inside in _PLACES.items()]
        return cls({split: [_find(name, folders) for name in names] for split, names in SHIPPED.items()})

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Photographs":
        """Any folder of photographs (searched through), split by a hash of their names: 60 / 20 / 20 per cent.

        Raises DataError for a missing folder, fewer than three photographs, or an unreadable one.
        """
        root = Path(folder)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder: backgrounds= takes a folder of photographs")
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        if len(files) < 3:
            raise DataError(f"{root} holds {len(files)} photographs: at least 3 are needed, one for each split")
        names = [p.relative_to(root).as_posix() for p in files]
        shuffled = sorted(zip(names, files), key=lambda pair: hashlib.sha256(pair[0].encode()).digest())
        part = max(1, round(len(files) * 0.2))
        cut: dict[Split, list[tuple[str, Path]]] = {
            "test": shuffled[:part],
            "val": shuffled[part : 2 * part],
            "train": shuffled[2 * part :],
        }
        return cls({split: [read_photograph(path, name) for name, path in pairs] for split, pairs in cut.items()})


def read_photograph(path: Path, name: str | None = None) -> Photograph:
    """Read one, upright, as RGB, at most 1 024 pixels a side. Raises DataError for what is no usable picture."""
    image = read_image(path, min_side=_MAX_SIDE)
    if min(image.size) < _MIN_SIDE:
        raise DataError(
            f"{path} is only {image.width} x {image.height}: a photograph needs at least {_MIN_SIDE} a side"
        )
    image.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.LANCZOS)
    return Photograph(name or path.stem, np.array(image))


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # finds the folder without the seconds its import would take
    if spec is None or spec.origin is None:
        missing = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        raise DataError(
            f"the demo's photographs ship with {missing}, which is not installed: run pip install {missing}, or "
            "from Python give a folder of your own, make_crops(..., backgrounds=folder)"
        )
    return Path(spec.origin).parent


def _find(name: str, folders: Sequence[Path]) -> Photograph:
    for folder in folders:
        for suffix in (".png", ".jpg"):
            if (folder / f"{name}{suffix}").is_file():
                return read_photograph(folder / f"{name}{suffix}", name)
    raise DataError(
        f"the photograph {name} is not in the installed scikit-image: "
        "run pip install --upgrade scikit-image, or from Python give a folder of your own, "
        "make_crops(..., backgrounds=folder)"
    )
