"""Images of batches, read ahead by worker processes, or held in memory where they are few.

Workers are torch's `DataLoader`, with a timeout. They hand over arrays through pipes and not tensors through shared
memory, of which containers often have little; and before a file is opened its number is noted, so that a worker that
never comes back can be blamed on a file.
"""

import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from sslcore.errors import DataError
from sslcore.storage import read_image
from sslcore.storage.messages import show_path

IN_MEMORY = 2 << 30
"""Bytes of pixels up to which this process reads all files itself, and can keep them."""
TIMEOUT = 120
"""Seconds without an answer after which a worker is given up."""

_POLL = 2.0  # seconds between two looks at the workers

Pixels = npt.NDArray[np.uint8]
File = tuple[Path, tuple[int, int] | None]
"""An image file, and the height and width that its annotation gives."""


def read_pixels(path: Path, size: tuple[int, int] | None = None) -> Pixels:
    """(3, h, w) of an image file.

    Args:
        path: the file.
        size: (height, width) that its annotation gives, or None if there is none.

    Raises:
        DataError: it cannot be read, or is of another size than its annotation says.
    """
    pixels = np.asarray(read_image(path)).transpose(2, 0, 1)
    if size is not None and pixels.shape[1:] != size:
        raise DataError(
            f"{show_path(path)} is {pixels.shape[2]} x {pixels.shape[1]} pixels, but its annotation says {size[1]} x "
            f"{size[0]}, so its boxes cannot be right; correct the annotation, or take the image out"
        )
    return np.ascontiguousarray(pixels)


class Reader:
    """Reads the images of one batch after the other.

    Args:
        files: what is read, by number; a file may be there twice.
        workers: processes that read ahead; 0: this one reads. None are started if all images together are small.
        keep: hold images that were read in memory, if all images together are small.
        small: bytes; see `IN_MEMORY`.
        timeout: seconds without an answer after which a worker is given up.
    """

    def __init__(
        self,
        files: Sequence[File],
        *,
        workers: int = 0,
        keep: bool = True,
        small: int = IN_MEMORY,
        timeout: float = TIMEOUT,
    ) -> None:
        self.files = files
        self.timeout = timeout
        sizes = dict(files)
        few = all(sizes.values()) and sum(3 * size[0] * size[1] for size in sizes.values() if size) <= small
        self.workers = 0 if few else workers
        self._kept: dict[Path, Pixels] | None = {} if few and keep else None

    def read(self, jobs: Sequence[Sequence[int]]) -> Iterator[list[Tensor]]:
        """(3, h, w) uint8 images of each job, a list of file numbers.

        Raises:
            DataError: a file cannot be read, or a worker died or did not answer; the file is named.
        """
        if self.workers:
            yield from self._from_workers(jobs)
            return
        for job in jobs:
            yield [torch.from_numpy(self._read(number)) for number in job]

    def _read(self, number: int) -> Pixels:
        path, size = self.files[number]
        if self._kept is None:
            return read_pixels(path, size)
        if path not in self._kept:
            self._kept[path] = read_pixels(path, size)
        return self._kept[path]

    def _from_workers(self, jobs: Sequence[Sequence[int]]) -> Iterator[list[Tensor]]:
        opened = RawArray("q", [-1] * self.workers)  # whoever reads marks the file here; -1: none
        files = {number: self.files[number] for number in sorted({number for job in jobs for number in job})}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # how many is the recipe's choice
            loader: DataLoader[Any] = DataLoader(
                _Reading(jobs, files, opened), batch_size=None, collate_fn=_as_it_is, num_workers=self.workers,
                timeout=min(_POLL, self.timeout), multiprocessing_context=_context(), prefetch_factor=2,
            )  # fmt: skip
            batches = iter(loader)
        for job in jobs:
            read = self._next(batches, job, opened)
            if isinstance(read, str):
                raise DataError(read)
            yield [torch.from_numpy(pixels) for pixels in read]

    def _next(self, batches: Any, job: Sequence[int], opened: Sequence[int]) -> Any:
        """The next result. torch looks whether its workers live only when it has waited in vain: so it waits in short
        spells."""
        end = time.monotonic() + self.timeout
        while True:
            try:
                return next(batches)
            except RuntimeError as error:  # torch's word for a worker that died or kept silent
                silent = "timed out" in str(error)
                if silent and time.monotonic() < end:
                    continue
                for worker in getattr(batches, "_workers", ()):  # one that is stopped would not end by itself
                    worker.kill()
                raise DataError(self._lost(opened, job, silent)) from error

    def _lost(self, opened: Sequence[int], job: Sequence[int], silent: bool) -> str:
        what = f"did not answer for {self.timeout:g} seconds" if silent else "died"
        at = [show_path(self.files[number][0]) for number in opened if number >= 0]
        near = f"at {' or '.join(at)}" if at else f"near {show_path(self.files[job[0]][0])}"
        return (
            f"a process that reads images {what}, {near}; look at that file, its disk and the free memory, or lower "
            "data.workers, then resume the run"
        )


class _Reading(Dataset[Any]):
    """Job i: all images of one batch, or the sentence that says why not. What it holds is pickled to each worker."""

    def __init__(self, jobs: Sequence[Sequence[int]], files: dict[int, File], opened: Any) -> None:
        self.jobs, self.files, self.opened = jobs, files, opened

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> list[Pixels] | str:
        info = get_worker_info()
        slot = info.id if info is not None else 0
        read = []
        for number in self.jobs[index]:
            self.opened[slot] = number
            try:
                read.append(read_pixels(*self.files[number]))
            except DataError as error:  # as a value: torch would wrap it in a traceback
                return str(error)
        self.opened[slot] = -1
        return read


def _as_it_is(batch: Any) -> Any:
    return batch


def _context() -> Any:
    """Workers come from a fork server where there is one: they inherit no thread's locks and no CUDA context."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["detection.training.reading"])
    return context
