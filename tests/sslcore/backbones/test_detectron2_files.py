"""Files of detectron2's model zoo, without detectron2: what is read of them, and what is refused."""

import os
import pickle

import numpy as np
import pytest
import torch

from sslcore.backbones.detectron2_files import read_detectron2
from sslcore.errors import CheckpointError

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def written(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_file_of_the_zoo_is_arrays_under_names_and_an_author(tmp_path, protocol):
    content = {"model": {"stem.conv1.weight": WEIGHT, "count": np.array(7)}, "__author__": "MSRA", "other": [1, "x"]}
    tensors, author = read_detectron2(written(tmp_path / "R-50.pkl", content, protocol))
    assert author == "MSRA" and set(tensors) == {"stem.conv1.weight", "count"}
    assert torch.equal(tensors["stem.conv1.weight"], torch.arange(6.0).view(2, 3)) and tensors["count"].item() == 7


def test_text_of_python_2_is_read(tmp_path):
    """Many files of the zoo were pickled by Python 2, whose texts are bytes."""
    raw = pickle.dumps({"model": {"w": WEIGHT}, "__author__": "MSRA"}, protocol=2)
    for word in (b"model", b"w", b"__author__", b"MSRA"):
        raw = raw.replace(b"X" + len(word).to_bytes(4, "little") + word, b"U" + bytes([len(word)]) + word)
    (tmp_path / "old.pkl").write_bytes(raw)
    tensors, author = read_detectron2(tmp_path / "old.pkl")
    assert author == "MSRA" and list(tensors) == ["w"]


def test_what_the_checkpointer_saves_is_read_too(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "iteration": 5}, tmp_path / "model_final.pth")
    tensors, author = read_detectron2(tmp_path / "model_final.pth")
    assert author == "" and torch.equal(tensors["w"], torch.ones(2))


class Wish:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {"w": Wish()}}, "asks for posix.system"),
        ({"model": {"w": [1.0, 2.0]}}, "'w' in .* is no array of numbers"),
        ({"model": {"w": np.array([None, "x"], dtype=object)}}, "'w' in .* is no array of numbers"),
        ({"blobs": {"w": WEIGHT}}, "no weights under 'model'"),
        ([1, 2], "no weights under 'model'"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, said):
    with pytest.raises(CheckpointError, match=said):
        read_detectron2(written(tmp_path / "w.pkl", content))


def test_a_damaged_file_is_refused(tmp_path):
    whole = written(tmp_path / "w.pkl", {"model": {"w": WEIGHT}}).read_bytes()
    (tmp_path / "half.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"half\.pkl is not a whole weight file"):
        read_detectron2(tmp_path / "half.pkl")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_detectron2(tmp_path / "none.pkl")
