"""Images for evaluation: each once, in order, all seen alike."""

import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sslcore.augment import EvalView
from sslcore.pretrain.data.datasets import ImageArray, ImageFiles
from sslcore.pretrain.data.readers import ReaderPool
from sslcore.pretrain.data.reading import CentreReader


def iterate_eval(
    dataset: ImageArray | ImageFiles,
    view: EvalView,
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    timeout: float = 120,
    ids: Iterable[int] | None = None,
    bad: list[tuple[str, str]] | None = None,
) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Batches (images, labels, ids), all on `device`: (n, c, size, size) float32 normalised; (n,) int64 or None; (n,)
    int64. n is `batch_size` or, at the end and where images cannot be read, less.

    Args:
        dataset: the images.
        view: how they are shown.
        batch_size: images a batch.
        device: where the batches are wanted.
        workers: processes that read files; arrays need none.
        timeout: seconds without a batch from them.
        ids: only these images, in this order.
        bad: gets (path, reason) of every unreadable image; without it a warning tells their number at the end. They are
            left out.

    Raises:
        DataError: a reading process died or did not answer in time.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    device = torch.device(device)
    numbers = torch.arange(len(dataset)) if ids is None else torch.as_tensor(list(ids), dtype=torch.int64)
    if isinstance(dataset, ImageArray):
        for rows in numbers.split(batch_size):
            if len(rows):
                images = dataset.images[rows].to(device, non_blocking=True)
                yield view(images), _labels(dataset, rows, device), rows.to(device)
        return

    met: list[tuple[str, str]] = [] if bad is None else bad
    pool = ReaderPool(
        CentreReader(dataset, view, batch_size), workers=workers, timeout=timeout, pin=device.type == "cuda"
    )
    try:
        for _, (read, unreadable), (crops,) in pool.run(
            [rows.tolist() for rows in numbers.split(batch_size) if len(rows)]
        ):
            met.extend(unreadable)
            if read:
                rows = torch.tensor(read)
                images = crops[: len(read)].to(device, non_blocking=True)
                yield view.finish(images), _labels(dataset, rows, device), rows.to(device)
    finally:
        pool.close()
    if bad is None and met:
        path, reason = met[0]
        warnings.warn(
            f"{len(met)} images of {dataset.name} cannot be read and are left out, the first is {path} "
            f"({reason}); repair or remove them",
            stacklevel=2,
        )


def _labels(dataset: ImageArray | ImageFiles, rows: Tensor, device: torch.device) -> Tensor | None:
    return None if dataset.labels is None else dataset.labels[rows].to(device)
