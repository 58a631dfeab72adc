"""The small published data sets, read from the files their authors distribute. Nothing is downloaded.

CIFAR comes in two forms. The binary version is a plain array of records. The Python version is a pickle, and a pickle
can execute anything: it is opened only by torchvision, which first compares every file with the published MD5 sums.
"""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslcore.errors import DataError
from sslcore.pretrain.data.datasets import NO_LABEL, ImageArray, channel_statistics

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

FASHION_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
STL10_CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


@dataclass(frozen=True)
class Format:
    """A data set whose files are known.

    Attributes:
        title: its name.
        find: folder that holds its files, looked for in and under a path; None if they are not there.
        read: the images of a split, "train" or "test", from that folder.
        expected: which files must be there, and where to get them, for the error message.
    """

    title: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path, str], ImageArray]
    expected: str


# --- CIFAR ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cifar:
    """What differs between CIFAR-10 and CIFAR-100."""

    title: str
    python_folder: str
    binary_folder: str
    binary_files: dict[str, tuple[str, ...]]
    label_bytes: int  # before each image; the last of them is the (fine) label
    names_file: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def find(self, path: Path) -> Path | None:
        for folder in (path / self.python_folder, path / self.binary_folder, path):
            if folder.name == self.python_folder and folder.is_dir():
                return folder
            if (folder / self.binary_files["test"][0]).is_file():
                return folder
        return None

    def read(self, folder: Path, split: str) -> ImageArray:
        if folder.name == self.python_folder:
            images, labels, names = self._python(folder, split)
        else:
            images, labels, names = self._binary(folder, split)
        return ImageArray(
            images=images, labels=labels, classes=names, mean=self.mean, std=self.std, name=f"{self.title} in {folder}"
        )

    def _python(self, folder: Path, split: str) -> tuple[Tensor, Tensor, list[str]]:
        from torchvision.datasets import CIFAR10, CIFAR100

        try:
            data = (CIFAR10 if self.classes == 10 else CIFAR100)(str(folder.parent), train=split == "train")
        except (RuntimeError, OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{folder} is incomplete or differs from the published files of {self.title}, which are pickles and "
                "therefore opened only when their checksums are right; unpack the archive again, or use the binary "
                f"version ({self.binary_folder})"
            ) from error
        images = torch.from_numpy(np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)))
        return images, torch.tensor(data.targets), list(data.classes)

    def _binary(self, folder: Path, split: str) -> tuple[Tensor, Tensor, list[str]]:
        record = self.label_bytes + 3 * 32 * 32
        rows = np.concatenate([_records(folder / name, record) for name in self.binary_files[split]])
        labels = torch.from_numpy(rows[:, self.label_bytes - 1].astype(np.int64))
        _check_labels(labels, self.classes, folder)
        images = torch.from_numpy(rows[:, self.label_bytes :].reshape(-1, 3, 32, 32).copy())
        return images, labels, self._names(folder / self.names_file)

    def _names(self, path: Path) -> list[str]:
        names = path.read_text(errors="replace").split() if path.is_file() else []
        if len(names) == self.classes:
            return names
        return CIFAR10_CLASSES if self.classes == 10 else [str(i) for i in range(self.classes)]


_CIFAR10 = _Cifar(
    title="CIFAR-10",
    python_folder="cifar-10-batches-py",
    binary_folder="cifar-10-batches-bin",
    binary_files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    label_bytes=1,
    names_file="batches.meta.txt",
    classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_CIFAR100 = _Cifar(
    title="CIFAR-100",
    python_folder="cifar-100-python",
    binary_folder="cifar-100-binary",
    binary_files={"train": ("train.bin",), "test": ("test.bin",)},
    label_bytes=2,
    names_file="fine_label_names.txt",
    classes=100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)


# --- STL-10 --------------------------------------------------------------------------------------------------------


def _find_stl10(path: Path) -> Path | None:
    for folder in (path / "stl10_binary", path):
        if (folder / "train_X.bin").is_file() or (folder / "unlabeled_X.bin").is_file():
            return folder
    return None


def _read_stl10(folder: Path, split: str) -> ImageArray:
    """Labelled images first; the training split goes on with the unlabelled ones where their file is there."""
    parts, labels = [], []
    for part in ("train", "unlabeled") if split == "train" else ("test",):
        if part != "unlabeled" or (folder / "unlabeled_X.bin").is_file():
            images = _records(folder / f"{part}_X.bin", 3 * 96 * 96)
            parts.append(images)
            labels.append(_stl10_labels(folder, part, len(images)))
    # The file has the columns of each channel one after the other.
    array = np.concatenate(parts).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
    mean, std = _stl10_statistics(folder)
    return ImageArray(
        images=torch.from_numpy(np.ascontiguousarray(array)),
        labels=torch.cat(labels),
        classes=_stl10_names(folder / "class_names.txt"),
        mean=mean,
        std=std,
        name=f"STL-10 in {folder}",
    )


def _stl10_labels(folder: Path, part: str, count: int) -> Tensor:
    if part == "unlabeled":
        return torch.full((count,), NO_LABEL)
    labels = torch.from_numpy(_records(folder / f"{part}_y.bin", 1)[:, 0].astype(np.int64)) - 1
    _check_labels(labels, 10, folder)
    if len(labels) != count:
        raise DataError(f"{folder} has {count} {part} images and {len(labels)} labels; unpack the archive again")
    return labels


def _stl10_statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the labelled training images, whichever split is read, so that all splits are normalised alike."""
    path = folder / "train_X.bin"
    if not path.is_file():
        path = folder / "unlabeled_X.bin"
    images = _records(path, 3 * 96 * 96)
    some = images[:: max(1, len(images) // 1000)].reshape(-1, 3, 96, 96)
    return channel_statistics(torch.from_numpy(some.copy()))


def _stl10_names(path: Path) -> list[str]:
    names = path.read_text(errors="replace").split() if path.is_file() else []
    return names if len(names) == 10 else STL10_CLASSES


# --- Fashion-MNIST -------------------------------------------------------------------------------------------------


def _find_fashion_mnist(path: Path) -> Path | None:
    for folder in (path, path / "FashionMNIST" / "raw", path / "raw"):
        if any(file.is_file() for file in _idx_candidates(folder, "train-images-idx3-ubyte")):
            return folder
    return None


def _read_fashion_mnist(folder: Path, split: str) -> ImageArray:
    prefix = {"train": "train", "test": "t10k"}[split]
    images = read_idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_idx_file(folder, f"{prefix}-labels-idx1-ubyte")).long()
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder} has {prefix} images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}, "
            "which do not belong together; get the four files again"
        )
    _check_labels(labels, 10, folder)
    return ImageArray(
        images=images[:, None],
        labels=labels,
        classes=FASHION_CLASSES,
        mean=(0.2860,),
        std=(0.3530,),
        name=f"Fashion-MNIST in {folder}",
    )


def _idx_candidates(folder: Path, name: str) -> Iterator[Path]:
    yield folder / name
    yield folder / f"{name}.gz"


def _idx_file(folder: Path, name: str) -> Path:
    for path in _idx_candidates(folder, name):
        if path.is_file():
            return path
    raise DataError(f"{folder} lacks {name} (or {name}.gz); get the four files of Fashion-MNIST again")


def read_idx(path: Path) -> Tensor:
    """A uint8 array from an IDX file, packed with gzip or not; no more is unpacked than the header announces.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
                raise DataError(f"{path} is not an IDX file of bytes; get it again")
            shape = [int.from_bytes(file.read(4), "big") for _ in range(magic[3])]
            size = math.prod(shape)
            if size > 1 << 32:
                raise DataError(f"{path} announces {size} bytes, more than any data set of this kind; get it again")
            values = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); get it again") from error
    if len(values) != size:
        raise DataError(
            f"{path} announces {size} bytes and holds {'fewer' if len(values) < size else 'more'}; get it again"
        )
    return torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(shape) if size else torch.empty(shape).byte()


# --- shared --------------------------------------------------------------------------------------------------------


def _records(path: Path, size: int) -> np.ndarray:
    """(n, size) bytes of a file of records, mapped, not read. Raises DataError if it is not a whole number of them."""
    try:
        length = path.stat().st_size
        if length == 0 or length % size:
            raise DataError(
                f"{path} has {length} bytes, not a whole number of records of {size}; unpack the archive again"
            )
        return np.memmap(path, np.uint8, "r").reshape(-1, size)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); unpack the archive again") from error


def _check_labels(labels: Tensor, classes: int, folder: Path) -> None:
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise DataError(f"{folder} has labels outside of 0 to {classes - 1}; get the files again")


FORMATS: dict[str, Format] = {
    "cifar10": Format(
        "CIFAR-10",
        _CIFAR10.find,
        _CIFAR10.read,
        "the folder cifar-10-batches-py (from cifar-10-python.tar.gz) or cifar-10-batches-bin (from "
        "cifar-10-binary.tar.gz); unpack one of these archives of https://www.cs.toronto.edu/~kriz/cifar.html there",
    ),
    "cifar100": Format(
        "CIFAR-100",
        _CIFAR100.find,
        _CIFAR100.read,
        "the folder cifar-100-python (from cifar-100-python.tar.gz) or cifar-100-binary (from "
        "cifar-100-binary.tar.gz); unpack one of these archives of https://www.cs.toronto.edu/~kriz/cifar.html there",
    ),
    "stl10": Format(
        "STL-10",
        _find_stl10,
        _read_stl10,
        "the folder stl10_binary with train_X.bin, train_y.bin, test_X.bin, test_y.bin and unlabeled_X.bin; unpack "
        "stl10_binary.tar.gz of https://cs.stanford.edu/~acoates/stl10 there",
    ),
    "fashion_mnist": Format(
        "Fashion-MNIST",
        _find_fashion_mnist,
        _read_fashion_mnist,
        "train-images-idx3-ubyte.gz and its three companions; install Debian's package dataset-fashion-mnist and leave "
        "data.path empty, or point data.path at the files",
    ),
}
