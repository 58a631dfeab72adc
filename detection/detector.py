"""A trained open-world detector, ready to be asked.

>>> detector = OpenWorldDetector.load("runs/openscenes")  # doctest: +SKIP
>>> found = detector.predict("street.jpg")[0]  # doctest: +SKIP
>>> [(detector.names[label], score) for label, score in zip(found.labels.tolist(), found.scores.tolist())]
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from detection.structures import FIRST_KNOWN, Detections
from detection.tasks import TaskSet
from detection.training.model import restore_engine, tasks_of
from sslcore.errors import CheckpointError
from sslcore.storage import list_checkpoints, read_image
from sslcore.storage.messages import show_path

Picture = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8] | Tensor
"""A file, a PIL image, (h, w, 3) uint8, or a (3, h, w) tensor, uint8 or floating point in [0, 1]."""


class OpenWorldDetector:
    """Finds objects of the classes it was taught, and others as unknown. Use `load`.

    Attributes:
        engine: the network with its open-world parts.
        names: of the labels: background, unknown, then the known classes.
        tasks: the task set it was trained with.
        task: the last task it has learned, from 1.
        path: the checkpoint it came from; None if it was made in memory.
    """

    def __init__(self, engine: Any, tasks: TaskSet, task: int, *, path: Path | None = None) -> None:
        self.engine = engine.eval()
        self.tasks, self.task, self.path = tasks, task, path
        self.names = tasks.label_names(task)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, task: int | None = None, device: torch.device | str = "cpu") -> Self:
        """A detector from disk. Warns if its unknown decision was never fitted.

        Args:
            path: the directory of a run (the newest task that is finished is taken), of one of its tasks, or of a
                checkpoint.
            task: of a run's tasks this one.
            device: where it goes.

        Raises:
            CheckpointError: there is no such thing, or it is damaged or not a detector.
        """
        checkpoint = find_model(Path(path), task)
        engine, info = restore_engine(checkpoint)
        detector = cls(engine, tasks_of(info, checkpoint), info["task"], path=checkpoint).to(device)
        if not detector.fitted:
            warnings.warn(f"{show_path(checkpoint)}: {detector.status}", stacklevel=2)
        return detector

    @property
    def known(self) -> tuple[str, ...]:
        """The classes it was taught."""
        return self.names[FIRST_KNOWN:]

    @property
    def fitted(self) -> bool:
        """Whether the decision between known and unknown was fitted; if not, the classifier alone decides."""
        return bool(self.engine.head.scorer.fitted)

    @property
    def status(self) -> str:
        """What the decision rests on, in a sentence."""
        return str(self.engine.head.status())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the fit of the decision found wanting, in sentences; empty if nothing."""
        return tuple(self.engine.head.scorer.notes)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.engine.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the network. ValueError if this machine has no such device."""
        try:
            self.engine.to(device)
        except (RuntimeError, AssertionError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"the detector cannot go to the device {device}: {reason}") from error
        return self

    def predict(self, images: Picture | Iterable[Picture], *, batch_size: int = 8) -> list[Detections]:
        """What is in each picture.

        Args:
            images: one or several; files are turned upright as their EXIF orientation says.
            batch_size: pictures that the network gets at a time.

        Returns:
            One `Detections` a picture, also for a single one, on the CPU; boxes in pixels of the picture as given.

        Raises:
            DataError: a file is missing or damaged.
            ValueError: something is no picture.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {batch_size}")
        several = _several(images)
        found: list[Detections] = []
        for first in range(0, len(several), batch_size):
            batch = [as_tensor(image).to(self.device) for image in several[first : first + batch_size]]
            found += [detections.to("cpu") for detections in self.engine.predict(batch)]
        return found

    def __repr__(self) -> str:
        return (
            f"OpenWorldDetector({len(self.known)} classes after task {self.task} of {self.tasks.name}, {self.device})"
        )


def find_model(path: Path, task: int | None = None) -> Path:
    """The checkpoint that is meant by a run's directory, a task's, or its own.

    Raises:
        CheckpointError: there is none.
    """
    shown = show_path(path)
    if not path.is_dir():
        raise CheckpointError(
            f"there is no folder {shown}; give a run of `surnia detect train`, or a checkpoint in one"
        )
    if (path / "manifest.json").exists():
        return path
    if (path / "model").is_dir():
        return path / "model"
    tasks = {int(p.name): p / "model" for p in path.glob("tasks/*") if p.name.isdecimal() and (p / "model").is_dir()}
    if task is not None and tasks and task not in tasks:
        raise CheckpointError(f"{shown} has no finished task {task}; there are {', '.join(map(str, sorted(tasks)))}")
    if tasks:
        return tasks[max(tasks) if task is None else task]
    stages = [found for stage in sorted(path.glob("tasks/*/*/checkpoints")) for found in list_checkpoints(stage)]
    if stages:
        raise CheckpointError(
            f"no task of {shown} is finished: resume the run, or give one of its checkpoints, as "
            f"{show_path(stages[-1])}"
        )
    raise CheckpointError(f"{shown} holds no detector; give a run of `surnia detect train`, or a checkpoint in one")


def as_tensor(image: Picture) -> Tensor:
    """(3, h, w) float32 in [0, 1] of any of the forms a picture may have; for errors see `predict`."""
    if isinstance(image, str | os.PathLike):
        image = read_image(image)
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise ValueError(
                f"a tensor is a picture if it is (3, h, w), uint8 or floating point in [0, 1]; this one is "
                f"{tuple(image.shape)} {str(image.dtype).removeprefix('torch.')}"
            )
        values = image.detach().float()
        values = values / 255 if image.dtype == torch.uint8 else values
    elif isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an array is a picture if it is (h, w, 3) uint8; this one is {image.shape} {image.dtype}")
        values = torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255  # torch warns of read-only arrays
    else:
        raise ValueError(f"a picture is a path, a PIL image, a numpy array or a tensor, not {type(image).__name__}")
    if not values.numel():
        raise ValueError(f"a picture needs at least one pixel; this one is {tuple(values.shape)}")
    return values.contiguous()


def _several(images: Picture | Iterable[Picture]) -> Sequence[Picture]:
    single = isinstance(images, str | os.PathLike | Image.Image) or (
        isinstance(images, np.ndarray | Tensor) and images.ndim == 3
    )
    if single:
        return [images]  # type: ignore[list-item]
    try:
        return list(images)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(
            f"pictures are paths, PIL images, arrays or tensors, or a list of them, not {type(images).__name__}"
        ) from None
