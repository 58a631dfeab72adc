import pytest
from PIL import Image

from sslcore.errors import DataError
from sslcore.pretrain.probes.splits import open_splits
from sslcore.pretrain.recipe import DataSettings


def fill(folder, classes=("cat", "dog"), count=5):
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", (10 + i, 10), (10 * i, 0, 0)).save(folder / name / f"{i}.png")


def settings(path):
    return DataSettings(path=str(path), kind="folder", workers=0)


@pytest.mark.parametrize("second", ["val", "test"])
def test_a_divided_folder_gives_its_own_parts(tmp_path, second):
    fill(tmp_path / "train")
    fill(tmp_path / second, count=3)
    splits = open_splits(settings(tmp_path))
    assert (len(splits.train), len(splits.test)) == (10, 6)
    assert splits.classes == ["cat", "dog"]
    assert f"scored on the folder {tmp_path / second}" in splits.note


def test_an_undivided_folder_is_divided_with_a_seed_and_says_so(tmp_path):
    fill(tmp_path, count=10)
    first, again, other = (open_splits(settings(tmp_path), seed=seed) for seed in (0, 0, 1))
    assert first.train.labels.bincount().tolist() == [8, 8]
    assert first.test.labels.bincount().tolist() == [2, 2]
    assert not set(first.train.paths) & set(first.test.paths)
    assert first.test.paths == again.test.paths
    assert first.test.paths != other.test.paths
    assert "scored on 20% of each class (seed 0)" in first.note


def test_what_has_no_labels_cannot_be_evaluated(tmp_path):
    fill(tmp_path / "a", classes=[""])
    with pytest.raises(DataError, match="has no labels, and an evaluation needs them"):
        open_splits(settings(tmp_path / "a"))
    fill(tmp_path / "b" / "train")
    fill(tmp_path / "b" / "val", classes=[""])
    with pytest.raises(DataError, match="use the same class folders in both"):
        open_splits(settings(tmp_path / "b"))
    fill(tmp_path / "c" / "train")
    with pytest.raises(DataError, match="has no test/ beside its train"):
        open_splits(settings(tmp_path / "c"))
