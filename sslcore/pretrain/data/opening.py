"""`open_images`: from what a recipe says to a set of images."""

import contextlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sslcore.errors import DataError
from sslcore.pretrain.data.datasets import ImageArray, ImageFiles
from sslcore.pretrain.data.folder import DifferentSize, NoSuchSplit, common_size, load_folder, open_folder
from sslcore.pretrain.data.formats import DEBIAN_FASHION_MNIST, FORMATS
from sslcore.pretrain.recipe import DataSettings
from sslcore.random import uniform

Split = Literal["train", "validation", "test"]

# Settings are compared on the same held-out images whatever seed they run with.
_HOLDOUT_SEED, _HOLDOUT_STREAM = 0, 0x5641


def open_images(
    settings: DataSettings,
    split: Split = "train",
    *,
    device: torch.device | str = "cpu",
    processes: int = 1,
    room: int | None = None,
) -> ImageArray | ImageFiles:
    """The images that `settings` names.

    Args:
        settings: the recipe's group `data`.
        split: "train"; "test"; or "validation", the share `settings.validation` that "train" then leaves out, chosen
            image by image from a hash of its index (of a folder with val/ and no such share: what is in val/).
        device: where training will hold them: `hold: auto` asks whether they fit there too.
        processes: training processes on this machine, which share its memory.
        room: bytes that may be held in memory; None: half of what is free here, and a quarter of what is free on
            `device`.

    Returns:
        `ImageArray`: all in memory, always for the published sets; a folder's images if `hold` and `size` say so.
        `ImageFiles`: to be read when needed.

    Raises:
        NoSuchSplit: there is something, but not this split of it.
        DataError: nothing there, not what `kind` says, no images, too many unreadable ones.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split must be train, validation or test, not {split!r}")
    kind, path = _recognise(settings)
    hashed = settings.validation > 0 and split != "test"
    if kind == "folder":
        files = open_folder(path, "train" if hashed else split, max_pixels=settings.max_pixels)
        if hashed:
            files = files.subset(_share(len(files), settings.validation, split, files.name))
        return _hold(files, settings, _room(torch.device(device), processes) if room is None else room)
    if split == "validation" and not hashed:
        raise NoSuchSplit(f"{FORMATS[kind].title} has no validation images of its own; set data.validation to a share")
    array = FORMATS[kind].read(path, "test" if split == "test" else "train")
    return array.subset(_share(len(array), settings.validation, split, array.name)) if hashed else array


def recognise(path: Path) -> str:
    """Which kind of data `path` holds: one of the published sets by its files, else "folder"."""
    return next((kind for kind, known in FORMATS.items() if known.find(path) is not None), "folder")


def _recognise(settings: DataSettings) -> tuple[str, Path]:
    """Kind, and the folder with its files."""
    if not settings.path and settings.kind == "fashion_mnist":
        path = DEBIAN_FASHION_MNIST
    elif not settings.path:
        raise DataError("data.path is empty; set it to the folder that holds the images")
    else:
        path = Path(settings.path).expanduser()
    if not path.is_dir():
        wrong = "is a file, not a folder (unpack archives first)" if path.exists() else "does not exist"
        known = FORMATS.get(settings.kind)
        remedy = (
            f"{known.title} needs {known.expected}" if known else "set data.path to the folder that holds the images"
        )
        raise DataError(f"{path} {wrong}; {remedy}")
    kind = recognise(path) if settings.kind == "auto" else settings.kind
    if kind == "folder":
        return kind, path
    found = FORMATS[kind].find(path)
    if found is None:
        raise DataError(f"{path} does not hold {FORMATS[kind].title}: it needs {FORMATS[kind].expected}")
    return kind, found


def _share(images: int, share: float, split: Split, name: str) -> Tensor:
    """Rows of the held-out share, or of the others."""
    draws = uniform(_HOLDOUT_SEED, 0, torch.arange(images), stream=_HOLDOUT_STREAM, draws=1)[:, 0]
    rows = ((draws < share) == (split == "validation")).nonzero()[:, 0]
    if len(rows) == 0:
        raise DataError(
            f"data.validation = {share} leaves no {split} images of {name} ({images}); choose another share"
        )
    return rows


def _hold(files: ImageFiles, settings: DataSettings, room: int) -> ImageArray | ImageFiles:
    """The files, or all they hold, as `settings.hold` asks."""
    if settings.hold == "files" or (
        settings.hold == "auto" and settings.size and len(files) * 3 * settings.size**2 > room
    ):
        return files
    size = settings.size or common_size(files)
    if size is None:
        if settings.hold == "auto":
            return files
        raise DataError(
            f"{files.name} has images of different sizes, which data.hold = memory cannot hold as they are; set "
            "data.size to resize all, or data.hold to files"
        )
    needed = len(files) * 3 * (size**2 if isinstance(size, int) else size[0] * size[1])
    if needed > room:
        if settings.hold == "auto":
            return files
        raise DataError(
            f"{files.name} needs {needed / 1e9:.1f} GB in memory and {room / 1e9:.1f} GB may be used; set data.hold to "
            "files, or data.size to less"
        )
    try:
        return load_folder(files, size, threads=settings.workers, bad_images=settings.bad_images)
    except DifferentSize:  # `common_size` looked at some images only
        if settings.hold == "auto":
            return files
        raise


def _room(device: torch.device, processes: int) -> int:
    """Bytes of images that may be held: half of the host's free memory, shared by its processes, and a quarter of the
    device's."""
    room = _free_memory() // 2 // processes
    if device.type == "cuda":
        room = min(room, torch.cuda.mem_get_info(device)[0] // 4)
    return room


def _free_memory() -> int:
    """Bytes, as the kernel and the container's limit allow; 8 GB where neither says."""
    free = 8 << 30
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    with contextlib.suppress(OSError, ValueError):  # no such file outside of a container; "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free = min(free, max(0, limit - int((group / "memory.current").read_text())))
    return free
