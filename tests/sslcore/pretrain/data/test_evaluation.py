import warnings

import pytest
import torch

from sslcore.augment import EvalView
from sslcore.pretrain.data import ImageArray, iterate_eval, open_images
from sslcore.pretrain.recipe import DataSettings
from sslcore.storage import read_image


@pytest.fixture
def view() -> EvalView:
    return EvalView(16, (0.5,) * 3, (0.25,) * 3, resize=18)


def test_arrays_are_shown_in_order():
    data = ImageArray(torch.randint(0, 256, (10, 1, 20, 20), dtype=torch.uint8), torch.arange(10) % 3)
    view = EvalView(16, data.mean, data.std)
    batches = list(iterate_eval(data, view, 4))
    assert [len(ids) for _, _, ids in batches] == [4, 4, 2]
    assert torch.cat([ids for _, _, ids in batches]).tolist() == list(range(10))
    assert torch.equal(torch.cat([images for images, _, _ in batches]), view(data.images))
    assert torch.equal(torch.cat([labels for _, labels, _ in batches]), data.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_shown_in_order_and_unreadable_ones_left_out(folder, view, workers):
    (folder / "b/04.png").write_bytes(b"broken")
    data = open_images(DataSettings(path=str(folder), hold="files"))
    gone = data.paths.index("b/04.png")
    bad: list[tuple[str, str]] = []
    batches = list(iterate_eval(data, view, 5, workers=workers, timeout=60, bad=bad))
    ids = torch.cat([ids for _, _, ids in batches])
    assert ids.tolist() == [i for i in range(23) if i != gone]
    assert torch.equal(torch.cat([labels for _, labels, _ in batches]), data.labels[ids])
    assert [path for path, _ in bad] == [str(folder / "b/04.png")]
    crops = [view.crop_file_image(read_image(data.root / data.paths[i])) for i in ids]
    assert torch.equal(torch.cat([images for images, _, _ in batches]), view.finish(torch.stack(crops)))


def test_a_choice_of_images(folder, view):
    data = open_images(DataSettings(path=str(folder), hold="files"))
    whole = torch.cat([images for images, _, _ in iterate_eval(data, view, 23)])
    (batch,) = iterate_eval(data, view, 8, ids=range(20, 5, -5))
    assert batch[2].tolist() == [20, 15, 10]
    assert torch.equal(batch[0], whole[batch[2]])
    assert list(iterate_eval(data, view, 8, ids=[])) == []


def test_without_labels():
    data = ImageArray(torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8))
    assert next(iterate_eval(data, EvalView(16, data.mean, data.std), 3))[1] is None


def test_unreadable_images_are_told_in_a_warning(folder, view):
    data = open_images(DataSettings(path=str(folder), hold="files"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(iterate_eval(data, view, 8))
    (folder / "a/00.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"1 images of .* left out, the first is .*00\.png"):
        list(iterate_eval(data, view, 8))


def test_a_reader_is_ended_when_nobody_wants_more(folder, view):
    data = open_images(DataSettings(path=str(folder), hold="files"))
    batches = iterate_eval(data, view, 2, workers=1, timeout=60)
    next(batches)
    batches.close()


def test_a_batch_size_of_zero_is_refused(folder, view):
    data = open_images(DataSettings(path=str(folder), hold="files"))
    with pytest.raises(ValueError, match="at least 1"):
        next(iterate_eval(data, view, 0))
