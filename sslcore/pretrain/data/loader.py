"""Batches of training images. Where a run stands in the order of its images is two numbers, (epoch, position): a
resumed run continues with the very next batch."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sslcore.augment import RandomView
from sslcore.errors import DataError
from sslcore.pretrain.data.datasets import ImageArray, ImageFiles, too_many_bad
from sslcore.pretrain.data.order import SampleOrder
from sslcore.pretrain.data.readers import ReaderPool
from sslcore.pretrain.data.reading import CropReader


@dataclass
class RawBatch:
    """One step's images of this process, before the views are finished.

    Attributes:
        ids: (n,) int64, which images of the data set these are.
        step: steps from the start of the run: epoch * steps an epoch + index in the epoch.
        images: (n, c, h, w) uint8, for the views to crop from; None if `crops` are given.
        crops: one (n, 3, s, s) uint8 a view, in the order of the views, cropped and resized in the reading workers;
            None if `images` are given.
        labels: (n,) int64, or None.
        bad: (path, reason) of every unreadable image that this run meets for the first time with this batch.
    """

    ids: Tensor
    step: int
    images: Tensor | None = None
    crops: list[Tensor] | None = None
    labels: Tensor | None = None
    bad: list[tuple[str, str]] = field(default_factory=list)


class TrainLoader:
    """Yields `RawBatch`es for ever-new epochs; knows where it stands, exactly, in the middle of an epoch too.

    `for batch in loader` gives the rest of the current epoch from the current position, then stands at the start of the
    next; a batch that was handed out counts as consumed, one that was only read ahead does not. `len()` is always the
    steps of a whole epoch.

    Args:
        dataset: an array is held on `device` if it fits into a quarter of what is free there; files are read and
            cropped by `workers` processes.
        batch_size: images a step over all processes.
        views: one per view of an image, in the method's order; those of files are cropped for.
        seed: of the order and of the crops.
        rank, world: which of how many training processes this is.
        device: where batches are wanted.
        workers: processes that read files; 0 reads in this one.
        worker_timeout: seconds without a batch from them before giving up.
        bad_images: unreadable images that are replaced; one more is an error.
        max_pixels: larger images count as unreadable; None: as the data set says.

    Raises:
        DataError: fewer images than a batch; a batch that processes cannot share; while iterating, too many unreadable
            images, or a reading process that died or did not answer.
    """

    def __init__(
        self,
        dataset: ImageArray | ImageFiles,
        *,
        batch_size: int,
        views: Sequence[RandomView] = (),
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        workers: int = 0,
        worker_timeout: float = 120,
        bad_images: int = 100,
        max_pixels: int | None = None,
    ) -> None:
        if batch_size < 1 or world < 1 or not 0 <= rank < world:
            raise ValueError(
                f"batch_size ({batch_size}) and world ({world}) must be positive, and rank ({rank}) in [0, world)"
            )
        if batch_size % world:
            raise DataError(
                f"a batch of {batch_size} images cannot be shared equally by {world} processes; "
                f"set batch_size to a multiple of {world}"
            )
        if len(dataset) < batch_size:
            raise DataError(
                f"{dataset.name} has {len(dataset)} images, fewer than one batch of {batch_size}; set batch_size to at "
                f"most {len(dataset)}, or give more images"
            )
        if isinstance(dataset, ImageFiles) and not views:
            raise ValueError("images in files are cropped as they are read: give the views")
        self.dataset = dataset
        self.device = torch.device(device)
        self.order = SampleOrder(len(dataset), batch_size, seed, rank, world)
        self.bad_images = bad_images
        self.epoch = 0
        self.position = 0
        self._bad: dict[str, str] = {}
        self._labels = None if dataset.labels is None else dataset.labels.to(self.device)
        self._source: _ArraySource | _FileSource
        if isinstance(dataset, ImageArray):
            self._source = _ArraySource(dataset, self.order, self.device)
        else:
            files = dataset if max_pixels is None else dataclasses.replace(dataset, max_pixels=max_pixels)
            reader = CropReader(files, views, self.order, limit=bad_images)
            pin = self.device.type == "cuda"
            self._source = _FileSource(ReaderPool(reader, workers=workers, timeout=worker_timeout, pin=pin), self.order)

    def __len__(self) -> int:
        return self.order.steps

    @property
    def step(self) -> int:
        """Batches handed out since the start of the run."""
        return self.epoch * len(self) + self.position

    @property
    def bad(self) -> list[tuple[str, str]]:
        """(path, reason) of all unreadable images met so far."""
        return list(self._bad.items())

    def __iter__(self) -> Iterator[RawBatch]:
        """The rest of the epoch. Where it begins is looked up when the first batch is asked for, not before: Lightning
        makes its iterator first and restores the loader's state afterwards."""
        self._enter_epoch()
        epoch = self.epoch
        while self.epoch == epoch and self.position < len(self):
            batch = self._read(epoch, self.position)
            self.position += 1
            yield batch
        if self.epoch == epoch:
            self._enter_epoch()

    def _enter_epoch(self) -> None:
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0

    def _read(self, epoch: int, index: int) -> RawBatch:
        images, crops, rows, bad = self._source.read(epoch, index)
        new = self._count_bad(bad)
        if len(rows) < self.order.batch // self.order.world:
            raise DataError(f"{self.dataset.name} holds no image that can be read; give other images")
        ids = rows.to(self.device, non_blocking=True)
        return RawBatch(
            ids=ids,
            step=epoch * len(self) + index,
            images=None if images is None else images.to(self.device, non_blocking=True),
            crops=None if crops is None else [crop.to(self.device, non_blocking=True) for crop in crops],
            labels=None if self._labels is None else self._labels.index_select(0, ids),
            bad=new,
        )

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing happens if that is the current one, wherever in it the loader stands."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, not {epoch}")
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch is, and the unreadable images counted so far; plain values."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "bad": [list(entry) for entry in self.bad],
            "batch_size": self.order.batch,
            "seed": self.order.seed,
            "data": self.dataset.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises DataError if the images, batch size or seed are others."""
        here = self.state_dict()
        for key, what in (("data", "images"), ("batch_size", "batch size"), ("seed", "seed")):
            if state.get(key, here[key]) != here[key]:
                raise DataError(
                    f"cannot resume exactly: the {what} of the interrupted run were {state[key]!r} and are now "
                    f"{here[key]!r} ({self.dataset.name}); restore them, or start a new run from the old one's weights"
                )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self._bad = {str(path): str(reason) for path, reason in state.get("bad", [])}
        self._check_limit()

    def _count_bad(self, met: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Remember unreadable images, each once; those that are new. Raises DataError above the limit."""
        new = [(path, reason) for path, reason in met if path not in self._bad]
        self._bad.update(new)
        if new:
            self._check_limit()
        return list(dict(new).items())

    def _check_limit(self) -> None:
        if len(self._bad) > self.bad_images:
            raise too_many_bad(self.dataset.name, self.bad, self.bad_images)

    def merge_bad(self) -> None:
        """Make the lists of unreadable images of all processes one; every process must call this, before a checkpoint
        for instance, since each meets only its own share of the images. The limit then holds for all together."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return
        lists: list[dict[str, str]] = [{} for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(lists, self._bad)
        self._bad = {path: reason for each in lists for path, reason in each.items()}
        self._check_limit()

    def close(self) -> None:
        """End the reading processes, if there are any."""
        self._source.close()


Read = tuple[Tensor | None, list[Tensor] | None, Tensor, list[tuple[str, str]]]
"""Images or crops, which images they are, and the unreadable ones met."""


class _ArraySource:
    """Cuts batches out of an array, on the training device if the array fits there."""

    def __init__(self, dataset: ImageArray, order: SampleOrder, device: torch.device) -> None:
        self._images, self._order, self._bad = dataset.images, order, dataset.bad
        if device.type == "cuda" and self._images.numel() <= torch.cuda.mem_get_info(device)[0] // 4:
            self._images = self._images.to(device)
        self._epoch: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def read(self, epoch: int, index: int) -> Read:
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._order.epoch(epoch).to(self._images.device)
        slots = self._order.slots(index)
        rows = self._epoch[1][slots.start : slots.stop]
        return self._images.index_select(0, rows), None, rows, self._bad

    def close(self) -> None:
        pass


class _FileSource:
    """Keeps a pool of readers ahead of the training loop, across the borders of epochs."""

    def __init__(self, pool: ReaderPool, order: SampleOrder) -> None:
        self._pool, self._order = pool, order
        self._results: Iterator[Any] | None = None
        self._next: tuple[int, int] | None = None

    def read(self, epoch: int, index: int) -> Read:
        if self._results is None or self._next != (epoch, index):
            self._results = self._pool.run(self._from(epoch, index))
        job, (ids, bad), crops = next(self._results)
        assert job == (epoch, index)
        self._next = (epoch, index + 1) if index + 1 < self._order.steps else (epoch + 1, 0)
        return None, crops, torch.tensor(ids, dtype=torch.int64), bad

    def _from(self, epoch: int, index: int) -> Iterator[tuple[int, int]]:
        for later in itertools.count(epoch):
            for i in range(index if later == epoch else 0, self._order.steps):
                yield later, i

    def close(self) -> None:
        self._results = None
        self._pool.close()
