"""The detector on a whole set of images: detections, and the embeddings of objects for a map of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from detection.data.annotations import AnnotationSet, LabeledSet
from detection.structures import Detections
from detection.training.reading import File, Reader
from sslcore.errors import SurniaError

Progress = Callable[[int, int], None]
"""Is told how many images are done, and how many there are."""


class Interrupted(SurniaError):
    """A signal asked to stop while nothing was trained; what was done is on disk."""


def image_batches(
    images: AnnotationSet | Sequence[File],
    numbers: Sequence[int],
    *,
    batch_size: int,
    workers: int = 0,
    device: torch.device | str = "cpu",
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda done, total: None,
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """(image numbers, (3, h, w) float32 images in [0, 1] on the device), in order.

    Args:
        images: a set, or files with their sizes.
        numbers: which of them.
        batch_size: images at a time.
        workers: processes that read, where the images are many.
        device: where the images go.
        stop, progress: polled and told at each batch.

    Raises:
        DataError: a file cannot be read; it is named.
        Interrupted: `stop` said so.
    """
    jobs = [list(numbers[first : first + batch_size]) for first in range(0, len(numbers), batch_size)]
    files = _files(images) if isinstance(images, AnnotationSet) else images
    reader, done = Reader(files, workers=workers, keep=False), 0
    for job, read in zip(jobs, reader.read(jobs), strict=True):
        if stop():
            raise Interrupted("stopped while looking at images; resume the run to go on")
        yield job, [image.to(device, non_blocking=True).float().div_(255) for image in read]
        done += len(job)
        progress(done, len(numbers))


def _files(images: AnnotationSet) -> list[File]:
    return [(images.path(i), (record.height, record.width)) for i, record in enumerate(images.images)]


def detect(
    engine: Any,
    images: AnnotationSet,
    numbers: Sequence[int] | None = None,
    *,
    embeddings: bool = False,
    batch_size: int = 8,
    **reading: Any,
) -> list[Detections]:
    """What the detector finds in each image; its labels are not looked at.

    Batches are of consecutive images, so that the same call gives the same numbers.

    Args:
        engine: predicts; see `detection.engines`.
        images: a set of images.
        numbers: which of them; None: all.
        embeddings: keep them; otherwise they have no columns.
        batch_size: images at a time.
        reading: see `image_batches`; `device` is where the engine is.

    Returns:
        Detections on the CPU, one an image, in the order of `numbers`.
    """
    chosen = range(len(images.images)) if numbers is None else numbers
    found: list[Detections] = []
    for _, batch in image_batches(images, chosen, batch_size=batch_size, **reading):
        for detections in engine.predict(batch):
            if not embeddings:
                detections = replace(detections, embeddings=detections.embeddings[:, :0])
            found.append(detections.to("cpu"))
    return found


@torch.no_grad()
def object_embeddings(
    found: Sequence[Detections], labeled: LabeledSet, numbers: Sequence[int], *, limit: int = 2000
) -> dict[str, Tensor]:
    """Embeddings of detections that lie on an annotated object, with what it is and what it was taken for.

    Args:
        found: with their embeddings, one an image.
        labeled: the test view of the same set.
        numbers: which images of the set these are.
        limit: at most so many; the first.

    Returns:
        "features" (m, d), "labels" (m,) of the object, "predicted" (m,), "images" (m,) image numbers, "boxes" (m, 4).
    """
    parts: list[tuple[Tensor, ...]] = []
    count = 0
    for number, each in zip(numbers, found, strict=True):
        rows = labeled.of_image(number)
        sound = torch.from_numpy(~labeled.ignore[rows])
        truth = torch.from_numpy(labeled.boxes[rows]).float()[sound]
        labels = torch.from_numpy(labeled.labels[rows])[sound]
        if count >= limit or not len(truth) or not len(each):
            continue
        overlap, which = box_iou(each.boxes, truth).max(dim=1)
        hit = overlap >= 0.5
        parts.append(
            (each.embeddings[hit], labels[which[hit]], each.labels[hit], torch.full((int(hit.sum()),), number),
             each.boxes[hit])
        )  # fmt: skip
        count += int(hit.sum())
    names = ("features", "labels", "predicted", "images", "boxes")
    if not parts:
        return {"features": torch.zeros(0, 0), **{n: torch.zeros(0, dtype=torch.int64) for n in names[1:4]},
                "boxes": torch.zeros(0, 4)}  # fmt: skip
    return {name: torch.cat(values)[:limit] for name, values in zip(names, zip(*parts, strict=True), strict=True)}
