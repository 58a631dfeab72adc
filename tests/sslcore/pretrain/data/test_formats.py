"""Published data sets, fabricated in the layout of their authors' files."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from sslcore.errors import DataError
from sslcore.pretrain.data import NO_LABEL, open_images
from sslcore.pretrain.data.formats import read_idx
from sslcore.pretrain.recipe import DataSettings


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    with gzip.open(path, "wb") if path.suffix == ".gz" else open(path, "wb") as file:
        file.write(header + array.tobytes())


def write_fashion(folder: Path, suffix: str = ".gz", n: int = 12) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    images = random_bytes(n, 28, 28)
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(n, dtype=np.uint8) % 10)
    return images


def write_cifar10_binary(folder: Path, n: int = 4) -> np.ndarray:
    folder.mkdir(parents=True)
    rows = random_bytes(6, n, 3073)
    rows[..., 0] %= 10
    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(rows[i].tobytes())
    (folder / "test_batch.bin").write_bytes(rows[5].tobytes())
    return rows


def write_cifar10_python(folder: Path, monkeypatch, n: int = 4) -> np.ndarray:
    """As torchvision expects it, with the checksums it is told to expect."""
    folder.mkdir(parents=True)
    rows = random_bytes(6, n, 3072)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    sums = []
    for name, data in zip(names, rows, strict=True):
        content = pickle.dumps({"data": data, "labels": [i % 10 for i in range(n)]})
        (folder / name).write_bytes(content)
        sums.append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta).hexdigest()})
    return rows


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["auto", "cifar10"])
def test_cifar10_binary(tmp_path, kind, inside):
    folder = tmp_path / "cifar-10-batches-bin"
    rows = write_cifar10_binary(folder)
    settings = DataSettings(kind=kind, path=str(folder if inside else tmp_path))
    train, test = open_images(settings), open_images(settings, "test")
    assert train.images.shape == (20, 3, 32, 32)
    assert np.array_equal(train.images.flatten(1).numpy(), rows[:5, :, 1:].reshape(20, -1))
    assert train.labels.tolist() == rows[:5, :, 0].ravel().tolist()
    assert np.array_equal(test.images.flatten(1).numpy(), rows[5, :, 1:])
    assert train.classes[:2] == ["airplane", "automobile"]
    assert train.mean == (0.4914, 0.4822, 0.4465)


def test_cifar100_binary_gives_the_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    rows = random_bytes(5, 3074)
    rows[:, 0], rows[:, 1] = 7, np.arange(5) + 90
    for name in ("train.bin", "test.bin"):
        (folder / name).write_bytes(rows.tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(f"fine{i}" for i in range(100)))
    data = open_images(DataSettings(path=str(tmp_path)))
    assert data.labels.tolist() == [90, 91, 92, 93, 94]
    assert data.classes[90] == "fine90"
    assert np.array_equal(data.images.flatten(1).numpy(), rows[:, 2:])


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_python_with_the_right_checksums(tmp_path, monkeypatch, inside):
    folder = tmp_path / "cifar-10-batches-py"
    rows = write_cifar10_python(folder, monkeypatch)
    settings = DataSettings(path=str(folder if inside else tmp_path))
    train, test = open_images(settings), open_images(settings, "test")
    assert np.array_equal(train.images.flatten(1).numpy(), rows[:5].reshape(20, -1))
    assert np.array_equal(test.images.flatten(1).numpy(), rows[5])
    assert train.labels.tolist() == [0, 1, 2, 3] * 5
    assert train.classes[0] == "class 0"


class _Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    ("folder", "kind", "real"),
    [("cifar-10-batches-py", "cifar10", CIFAR10), ("cifar-100-python", "cifar100", CIFAR100)],
)
def test_a_pickle_with_another_checksum_is_not_opened(tmp_path, folder, kind, real):
    marker = tmp_path / "executed"
    (tmp_path / folder).mkdir()
    for name, _ in [*real.train_list, *real.test_list, [real.meta["filename"], ""]]:
        (tmp_path / folder / name).write_bytes(pickle.dumps(_Payload(marker)))
    with pytest.raises(DataError, match="binary"):
        open_images(DataSettings(kind=kind, path=str(tmp_path)))
    assert not marker.exists()


def test_stl10_adds_the_unlabelled_images_to_training(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    labelled, unlabelled = random_bytes(3, 3, 96, 96), random_bytes(2, 3, 96, 96, seed=1)
    (folder / "train_X.bin").write_bytes(labelled.tobytes())
    (folder / "train_y.bin").write_bytes(bytes([1, 10, 3]))
    (folder / "test_X.bin").write_bytes(labelled[:1].tobytes())
    (folder / "test_y.bin").write_bytes(bytes([2]))
    (folder / "unlabeled_X.bin").write_bytes(unlabelled.tobytes())
    settings = DataSettings(path=str(tmp_path))
    train, test = open_images(settings), open_images(settings, "test")
    assert train.labels.tolist() == [0, 9, 2, NO_LABEL, NO_LABEL]
    assert train.labelled().labels.tolist() == [0, 9, 2]
    # Columns come first in the file.
    assert torch.equal(train.images[1], torch.from_numpy(labelled[1]).transpose(1, 2))
    assert torch.equal(train.images[4], torch.from_numpy(unlabelled[1]).transpose(1, 2))
    assert test.labels.tolist() == [1]
    assert test.mean == train.mean


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", [".", "FashionMNIST/raw"])
def test_fashion_mnist(tmp_path, suffix, below):
    images = write_fashion(tmp_path / below, suffix)
    for kind in ("auto", "fashion_mnist"):
        data = open_images(DataSettings(kind=kind, path=str(tmp_path)))
        assert np.array_equal(data.images[:, 0].numpy(), images)
        assert data.labels[:11].tolist() == [*range(10), 0]
        assert data.classes[9] == "Ankle boot"
        assert data.mean == (0.2860,)


def test_fashion_mnist_of_debian_is_found_without_a_path(tmp_path, monkeypatch):
    write_fashion(tmp_path)
    monkeypatch.setattr("sslcore.pretrain.data.opening.DEBIAN_FASHION_MNIST", tmp_path)
    assert len(open_images(DataSettings(kind="fashion_mnist"))) == 12
    monkeypatch.setattr("sslcore.pretrain.data.opening.DEBIAN_FASHION_MNIST", tmp_path / "none")
    with pytest.raises(DataError, match="dataset-fashion-mnist"):
        open_images(DataSettings(kind="fashion_mnist"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("stl10", "train_X.bin"),
        ("fashion_mnist", "dataset-fashion-mnist"),
    ],
)
def test_the_wrong_kind_is_told_with_the_files_expected(tmp_path, kind, expected):
    with pytest.raises(DataError, match=expected):
        open_images(DataSettings(kind=kind, path=str(tmp_path)))


def test_a_short_record_file_is_told(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar10_binary(folder)
    with (folder / "data_batch_3.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="data_batch_3"):
        open_images(DataSettings(path=str(tmp_path)))
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match="data_batch_3"):
        open_images(DataSettings(path=str(tmp_path)))


def test_labels_beyond_the_classes_are_told(tmp_path):
    write_fashion(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.full(12, 10, np.uint8))
    with pytest.raises(DataError, match="labels outside"):
        open_images(DataSettings(path=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\x0d\x01\0\0\0\x01aaaa", b"\0\0\x08\x01\0\0\0\x05abc",
                                     b"\0\0\x08\x01\0\0\0\x02abc", b"\0\0\x08\x03" + b"\xff" * 12])  # fmt: skip
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_idx_file_is_told(tmp_path, content, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match="get it again"):
        read_idx(path)


def test_any_cut_of_a_packed_idx_file_is_told(tmp_path):
    whole = tmp_path / "whole.gz"
    write_idx(whole, random_bytes(40))
    content = whole.read_bytes()
    for length in range(len(content) - 8):  # the last 8 bytes are gzip's own sum of what was unpacked
        cut = tmp_path / "cut.gz"
        cut.write_bytes(content[:length])
        with pytest.raises(DataError):
            read_idx(cut)
