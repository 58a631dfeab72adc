"""The two shapes in which a set of images comes: all in memory as one uint8 array, or as files that are read as needed.

Both say what training and evaluation must know (labels, class names, channel statistics) in the same words.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sslcore.augment.normalise import IMAGENET_MEAN, IMAGENET_STD
from sslcore.errors import DataError
from sslcore.storage.messages import show_path

NO_LABEL = -1
"""Label of an image without one, in a set of which others are labelled (STL-10)."""


class _Images:
    """What both kinds can do."""

    labels: Tensor | None
    mean: tuple[float, ...]

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """Colour channels of a batch of these images, 1 or 3."""
        return len(self.mean)

    def labelled(self) -> Self:
        """The images that have a label: the set itself when all have, an empty one when `labels` is None."""
        if self.labels is None:
            return self.subset([])
        known = self.labels != NO_LABEL
        return self if bool(known.all()) else self.subset(known.nonzero()[:, 0])

    def subset(self, rows: Tensor | Sequence[int]) -> Self:
        """The images `rows`, in that order; ids of the result count from 0. Raises ValueError for a row outside."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise ValueError(f"rows must be in [0, {len(self)}), not from {int(rows.min())} to {int(rows.max())}")
        return self._subset(rows)

    def _subset(self, rows: Tensor) -> Self:
        raise NotImplementedError

    def _check_labels(self) -> None:
        if self.labels is not None and len(self.labels) != len(self):
            raise ValueError(f"{len(self.labels)} labels do not belong to {len(self)} images")


@dataclass
class ImageArray(_Images):
    """Images of one size, in memory.

    Attributes:
        images: (N, c, h, w) uint8 on the CPU, c 1 or 3. A loader moves them to its device if they fit there.
        labels: (N,) int64 indices into `classes`, `NO_LABEL` where an image has none; or None.
        classes: names of the classes.
        mean, std: per channel, of values in [0, 1]; for normalising. Not given: measured on the images.
        name: for messages.
        bad: (path, reason) of the files that could not be read and are left out.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    name: str = "the data set"
    bad: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise ValueError(
                f"images must be uint8 (N, c, h, w) with c 1 or 3, not {self.images.dtype} {tuple(self.images.shape)}"
            )
        self._check_labels()
        if not self.mean and not self.std:
            self.mean, self.std = channel_statistics(self.images)
        if not len(self.mean) == len(self.std) == self.images.shape[1]:
            raise ValueError(f"mean and std must have a number for each of the {self.images.shape[1]} channels")

    def __len__(self) -> int:
        return len(self.images)

    def _subset(self, rows: Tensor) -> Self:
        return dataclasses.replace(
            self, images=self.images[rows], labels=None if self.labels is None else self.labels[rows]
        )

    @cached_property
    def fingerprint(self) -> str:
        """Changes when images are added or taken away: a resumed run must see the same set."""
        return f"{len(self)} images of {self.images.shape[2]} x {self.images.shape[3]}"


@dataclass
class ImageFiles(_Images):
    """Images in files, of any sizes; read as three channels.

    Attributes:
        root: folder that the paths are relative to.
        paths: N paths relative to `root`.
        labels, classes, name: as in `ImageArray`.
        mean, std: ImageNet's, unless given.
        max_pixels: larger images are refused as decompression bombs.
    """

    root: Path
    paths: list[str]
    labels: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    name: str = "the folder"
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        self._check_labels()

    def __len__(self) -> int:
        return len(self.paths)

    def _subset(self, rows: Tensor) -> Self:
        return dataclasses.replace(
            self,
            paths=[self.paths[i] for i in rows.tolist()],
            labels=None if self.labels is None else self.labels[rows],
        )

    @cached_property
    def fingerprint(self) -> str:
        """Changes when files are added, renamed or taken away."""
        names = chr(0).join(self.paths).encode(errors="surrogateescape")
        return f"{len(self)} files, names {zlib.crc32(names):08x}"


def channel_statistics(images: Tensor, *, limit: int = 10_000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 (N, c, h, w), as values in [0, 1].

    At most `limit` images, evenly spaced, are looked at. A constant channel gets the deviation 1/255: something that
    can be divided by.
    """
    some = images[:: max(1, -(-len(images) // limit))]
    # Histograms keep this exact and free of a float copy of the data set.
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(some[:, channel].reshape(-1).to(torch.int32), minlength=256).double()
        share = counts / counts.sum().clamp(min=1)
        mean = float((share * levels).sum())
        means.append(mean)
        stds.append(max(float((share * (levels - mean) ** 2).sum()) ** 0.5, 1 / 255))
    return tuple(means), tuple(stds)


def too_many_bad(name: str, bad: Sequence[tuple[str, str]], limit: int) -> DataError:
    """The error for more unreadable images than a user allows, with the first few of them."""
    first = "; ".join(f"{path}: {reason}" for path, reason in bad[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    if len(bad) <= limit:  # not too many: all there are
        return DataError(f"none of the {len(bad)} images of {name} can be read ({first}{more}): repair or replace them")
    return DataError(
        f"{len(bad)} images of {name} cannot be read and {limit} are allowed ({first}{more}): "
        "repair or remove them, or raise data.bad_images"
    )


def reason(path: Path, error: DataError) -> str:
    """What is wrong with an image, without its path and the remedy that the reader's message ends with."""
    return str(error).rsplit("; ", 1)[0].replace(show_path(path), "it")
