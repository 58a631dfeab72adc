from pathlib import Path

import pytest
import torch

from sslcore.pretrain.data import NO_LABEL, ImageArray, ImageFiles, channel_statistics


def test_statistics_equal_the_definition():
    images = torch.randint(0, 256, (40, 3, 5, 7), dtype=torch.uint8)
    values = images.double().div(255).transpose(0, 1).reshape(3, -1)
    mean, std = channel_statistics(images)
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.float64), values.mean(1))
    torch.testing.assert_close(torch.tensor(std, dtype=torch.float64), values.std(1, correction=0))


def test_statistics_of_one_colour_can_be_divided_by():
    assert channel_statistics(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8))[1][0] > 0


def test_an_array_measures_itself_unless_told():
    images = torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8)
    assert ImageArray(images).mean == channel_statistics(images)[0]
    assert ImageArray(images).channels == 1
    assert ImageArray(images, mean=(0.5,), std=(0.25,)).mean == (0.5,)


def test_subsets_keep_rows_together():
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 2, 2)
    data = ImageArray(images, torch.tensor([0, 1, NO_LABEL, 1, NO_LABEL, 0]), ["x", "y"])
    known = data.labelled()
    assert known.images[:, 0, 0, 0].tolist() == [0, 1, 3, 5]
    assert known.labels.tolist() == [0, 1, 1, 0]
    assert known.mean == data.mean
    files = ImageFiles(Path("r"), ["a", "b", "c"], torch.tensor([2, 0, 1]))
    assert files.labelled() is files
    assert files.subset([2, 0]).paths == ["c", "a"]
    assert files.subset([2, 0]).labels.tolist() == [1, 2]
    assert len(ImageFiles(Path("r"), ["a"]).labelled()) == 0


def test_the_fingerprint_notices_renamed_files():
    one, other = ImageFiles(Path("r"), ["a", "b"]), ImageFiles(Path("elsewhere"), ["a", "c"])
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == ImageFiles(Path("moved"), ["a", "b"]).fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.zeros(2, 3, 4, 4)}, "must be uint8"),
        ({"images": torch.zeros(2, 2, 4, 4, dtype=torch.uint8)}, "c 1 or 3"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "labels": torch.zeros(3)}, "3 labels"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "mean": (0.5,), "std": (0.5,)}, "each of the 3"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageArray(**arguments)


def test_rows_outside_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        ImageFiles(Path("r"), ["a", "b"]).subset([2])
