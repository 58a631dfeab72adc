"""A folder of images: which files belong to which split and class, and reading them all into memory."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sslcore.errors import DataError
from sslcore.pretrain.data.datasets import ImageArray, ImageFiles, reason, too_many_bad
from sslcore.storage.images import image_size, list_images, read_image

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
_SPLIT_NAMES = {name for names in _SPLITS.values() for name in names}


class NoSuchSplit(DataError):
    """A data set has no images set apart for what was asked."""


def open_folder(root: Path, split: str, *, max_pixels: int = 100_000_000) -> ImageFiles:
    """The image files of one split of a folder.

    If `root` has a subfolder train/ and no other than those of splits (val/ or test/), each split is what is in its
    subfolder, and val/ stands in for a missing test/; otherwise all of `root` is the training split. If the training
    images are in two or more subfolders, with none beside them, those are the classes (ImageNet's layout; what is
    deeper belongs to the class above it); loose images have no labels.

    Raises:
        NoSuchSplit: there is no such split.
        DataError: there is no such folder, or no image in it, or a class that the training split lacks.
    """
    train, folder = _split_folder(root, "train"), _split_folder(root, split)
    paths = _relative_images(folder)
    classes = _classes(paths if folder == train else _relative_images(train))
    labels = _labels(paths, classes, folder, train) if classes else None
    return ImageFiles(
        root=folder, paths=paths, labels=labels, classes=classes, max_pixels=max_pixels, name=f"the folder {folder}"
    )


def _split_folder(root: Path, split: str) -> Path:
    try:
        inside = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError as error:
        raise DataError(
            f"{root} cannot be listed ({error.strerror}); give a folder of images that you may read"
        ) from error
    has_splits = any(name.lower() in _SPLITS["train"] for name in inside) and all(
        n.lower() in _SPLIT_NAMES for n in inside
    )
    if not has_splits:
        if split == "train":
            return root
        raise NoSuchSplit(
            f"{root} has no {split} images: it is one undivided folder; divide it into train/ and {split}/, or hold "
            "out a share with data.validation"
        )
    for name in _SPLITS[split]:
        for found in inside:
            if found.lower() == name:
                return root / found
    raise NoSuchSplit(f"{root} has no {split}/ beside its train/; add one, or hold out a share with data.validation")


def _relative_images(folder: Path) -> list[str]:
    prefix = os.path.join(folder, "")
    return [
        path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, folder)
        for path in map(str, list_images(folder))
    ]


def _top(path: str) -> str:
    """The first folder of a relative path; empty for a loose file."""
    return path.split(os.sep, 1)[0] if os.sep in path else ""


def _classes(paths: list[str]) -> list[str]:
    """Names of the class folders; none unless there are two or more and all images are in them."""
    tops = sorted({_top(path) for path in paths})
    return [] if len(tops) < 2 or "" in tops else tops


def _labels(paths: list[str], classes: list[str], folder: Path, train: Path) -> Tensor | None:
    """Of the images of any split, by the training split's classes; None if some are loose."""
    number = {name: i for i, name in enumerate(classes)}
    tops = [_top(path) for path in paths]
    if "" in tops:
        return None
    unknown = next((top for top in tops if top not in number), None)
    if unknown is not None:
        raise DataError(f"{folder} has the class folder {unknown!r}, which {train} lacks; use the same in both")
    return torch.tensor([number[top] for top in tops])


class DifferentSize(DataError):
    """Images that were to be of one size are not."""


# --- into memory ---------------------------------------------------------------------------------------------------


def common_size(files: ImageFiles, *, looks: int = 64) -> tuple[int, int] | None:
    """(height, width) if `looks` images, evenly spaced over the set, all have the same; None if they differ."""
    sizes: set[tuple[int, int]] = set()
    for i in range(0, len(files), max(1, len(files) // looks)):
        try:
            width, height = image_size(files.root / files.paths[i], max_pixels=files.max_pixels)
        except DataError:
            continue
        sizes.add((height, width))
        if len(sizes) > 1:
            return None
    return sizes.pop() if sizes else None


def load_folder(files: ImageFiles, size: int | tuple[int, int], *, threads: int, bad_images: int) -> ImageArray:
    """Decode all files once.

    Args:
        files: N images.
        size: an int: resize each image so that its short side is this (antialiased), then take the central square; or
            the (height, width) that all images are to have already.
        threads: decoding threads.
        bad_images: unreadable files that are left out, in `ImageArray.bad`; one more is an error.

    Raises:
        DataError: too many unreadable files. DifferentSize: an image has another size than (height, width).
    """
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.empty(len(files), 3, height, width, dtype=torch.uint8)
    prepare = (lambda image: square(image, size)) if isinstance(size, int) else _exactly(height, width)

    min_side = size if isinstance(size, int) else None

    def load(i: int) -> str | None:
        path = files.root / files.paths[i]
        try:
            images[i] = to_tensor(prepare(read_image(path, max_pixels=files.max_pixels, min_side=min_side)))
        except DifferentSize:
            raise
        except DataError as error:
            return reason(path, error)
        return None

    bad: list[tuple[str, str]] = []
    keep: list[int] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        # In pieces: after an error only the piece at hand is finished.
        for start in range(0, len(files), 1024):
            rows = range(start, min(start + 1024, len(files)))
            for i, wrong in zip(rows, pool.map(load, rows), strict=True):
                if wrong is None:
                    keep.append(i)
                else:
                    bad.append((str(files.root / files.paths[i]), wrong))
            if len(bad) > bad_images:
                raise too_many_bad(files.name, bad, bad_images)
    if not keep:
        raise too_many_bad(files.name, bad, bad_images)
    return ImageArray(
        images=images if len(keep) == len(files) else images[keep],
        labels=files.labels if files.labels is None else files.labels[keep],
        classes=files.classes,
        mean=files.mean,
        std=files.std,
        name=files.name,
        bad=bad,
    )


def square(image: Image.Image, size: int) -> Image.Image:
    """Resize so that the short side is `size`, antialiased, then cut out the central size x size."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    """(3, h, w) uint8 of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _exactly(height: int, width: int) -> Callable[[Image.Image], Image.Image]:
    def check(image: Image.Image) -> Image.Image:
        if (image.height, image.width) != (height, width):
            raise DifferentSize(
                f"an image has {image.height} x {image.width} pixels, others {height} x {width}; set data.size to "
                "resize all, or data.hold to files"
            )
        return image

    return check
