"""What reading processes do with files: random crops for training, central ones for evaluation."""

import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from sslcore.augment import EvalView, RandomView, crop_file_image
from sslcore.errors import DataError
from sslcore.pretrain.data.datasets import ImageFiles, reason
from sslcore.pretrain.data.order import SampleOrder
from sslcore.pretrain.data.readers import Note
from sslcore.pretrain.data.shared import Shape, SharedStrings
from sslcore.storage.images import image_size, read_image

Bad = list[tuple[str, str]]
Box = tuple[int, int, int, int]
Result = TypeVar("Result")


# Files of more bytes are worth a look at their size: most of a large JPEG's decoding can be saved when its crops are
# shrunk anyway.
_LARGE = 150_000


@dataclass
class _Picture:
    """An image as decoded, perhaps smaller than the (height, width) it has in its file."""

    image: Image.Image
    height: int
    width: int

    def crop(self, box: Box, size: int) -> Tensor:
        """(3, size, size) of a box in pixels of the file's image."""
        y, x = self.image.height / self.height, self.image.width / self.width
        if y == x == 1:
            return crop_file_image(self.image, box, size)
        top, left = box[0] * y, box[1] * x
        height, width = min(box[2] * y, self.image.height - top), min(box[3] * x, self.image.width - left)
        return crop_file_image(self.image, (top, left, height, width), size)


class _FileReader:
    """Opens images by their number, and remembers those that it could not read."""

    def __init__(self, files: ImageFiles) -> None:
        self._root, self._max_pixels = files.root, files.max_pixels
        self._paths = SharedStrings(files.paths)
        self._unreadable: dict[int, str] = {}

    def path(self, image: int) -> Path:
        return Path(self._root, self._paths[image])

    def describe(self, image: int) -> str:
        return str(self.path(image))

    def attempt(self, image: int, read: Callable[[Path], Result], bad: Bad, note: Note) -> Result | None:
        """`read` of an image's path, or None; then the path and what is wrong with it are added to `bad`."""
        path = self.path(image)
        if image not in self._unreadable:
            note(image)
            try:
                return read(path)
            except DataError as error:
                self._unreadable[image] = reason(path, error)
        bad.append((str(path), self._unreadable[image]))
        return None


class CropReader(_FileReader):
    """Reads a process's share of a training batch and cuts out every view's crop; job: (epoch, index of the batch).

    An unreadable image is replaced by the first readable one of `SampleOrder.stand_ins`, whichever process reads it.
    Its words are (ids of the images that were taken, unreadable ones met); fewer ids than the share if more than
    `limit` images in a row were unreadable.
    """

    def __init__(self, files: ImageFiles, views: Sequence[RandomView], order: SampleOrder, *, limit: int) -> None:
        super().__init__(files)
        self._views, self._order, self._limit = list(views), order, limit
        share = order.batch // order.world
        self.shapes: list[Shape] = [(share, 3, view.spec.size, view.spec.size) for view in self._views]
        self._epoch: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def read(self, job: tuple[int, int], out: list[Tensor], note: Note) -> tuple[list[int], Bad]:
        epoch, index = job
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._order.epoch(epoch)
        step = epoch * self._order.steps + index
        ids: list[int] = []
        bad: Bad = []
        for row, position in enumerate(self._order.slots(index)):
            image = self._first_readable(index, position, step, [views[row] for views in out], bad, note)
            if image is None:
                break
            ids.append(image)
        return ids, bad

    def _first_readable(
        self, index: int, position: int, step: int, out: list[Tensor], bad: Bad, note: Note
    ) -> int | None:
        positions = itertools.chain([position], self._order.stand_ins(index, position))
        for each in itertools.islice(positions, self._limit + 1):
            image = int(self._epoch[1][each])
            if self.attempt(image, lambda path, image=image: self._cut(path, image, step, out), bad, note):  # type: ignore[misc]
                return image
        return None

    def _cut(self, path: Path, image: int, step: int, out: list[Tensor]) -> bool:
        picture = None
        if _bytes(path) > _LARGE:
            width, height = image_size(path, max_pixels=self._max_pixels)
        else:
            picture = read_image(path, max_pixels=self._max_pixels)
            width, height = picture.size
        boxes = [
            view.crop_box(self._order.seed, step, image, number, height, width)
            for number, view in enumerate(self._views)
        ]
        if picture is None:
            # No crop may be enlarged because the image was decoded smaller.
            needed = max(view.spec.size / min(box[2:]) for view, box in zip(self._views, boxes, strict=True))
            min_side = math.ceil(needed * min(width, height)) if needed < 1 else None
            picture = read_image(path, max_pixels=self._max_pixels, min_side=min_side)
        decoded = _Picture(picture, height, width)
        for view, box, crop in zip(self._views, boxes, out, strict=True):
            crop.copy_(decoded.crop(box, view.spec.size))
        return True


class CentreReader(_FileReader):
    """Reads images for evaluation, as `view` sees them; job: their numbers, at most `batch`. Its words are (the numbers
    that could be read, the unreadable ones); the first rows of the slot hold the former."""

    def __init__(self, files: ImageFiles, view: EvalView, batch: int) -> None:
        super().__init__(files)
        self._view = view
        self.shapes: list[Shape] = [(batch, 3, view.size, view.size)]

    def read(self, job: Sequence[int], out: list[Tensor], note: Note) -> tuple[list[int], Bad]:
        ids: list[int] = []
        bad: Bad = []
        for image in job:
            crop = self.attempt(image, self._crop, bad, note)
            if crop is not None:
                out[0][len(ids)] = crop
                ids.append(image)
        return ids, bad

    def _crop(self, path: Path) -> Tensor:
        return self._view.crop_file_image(read_image(path, max_pixels=self._max_pixels, min_side=self._view.resize))


def _bytes(path: Path) -> int:
    """Size of a file; 0 if it is not there, which reading it will tell."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
