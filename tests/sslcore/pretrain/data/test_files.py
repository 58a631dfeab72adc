"""Training from files: the same batches for every number of reading processes, whatever is broken."""

import json

import pytest
import torch
from PIL import Image

from sslcore.augment import RandomView, ViewSpec, crop_file_image
from sslcore.errors import DataError
from sslcore.pretrain.data import ImageFiles, TrainLoader, open_images
from sslcore.pretrain.recipe import DataSettings
from sslcore.storage import read_image


def files(folder) -> ImageFiles:
    return open_images(DataSettings(path=str(folder), hold="files"))


def loader(data, views, **options):
    return TrainLoader(data, **{"batch_size": 8, "views": views, "seed": 7, "worker_timeout": 60, **options})


def take(ours, count):
    batches = []
    while len(batches) < count:
        for batch in ours:
            batches.append(batch)
            if len(batches) == count:
                break
    ours.close()
    return batches


def same(one, other):
    return (
        torch.equal(one.ids, other.ids)
        and torch.equal(one.labels, other.labels)
        and one.step == other.step
        and one.bad == other.bad
        and all(torch.equal(a, b) for a, b in zip(one.crops, other.crops, strict=True))
    )


def test_crops_are_the_boxes_of_the_views(folder, views):
    data = files(folder)
    for batch in take(loader(data, views), 3):
        assert [crop.shape for crop in batch.crops] == [(8, 3, 16, 16), (8, 3, 12, 12)]
        assert batch.images is None
        assert batch.labels.tolist() == data.labels[batch.ids].tolist()
        for row, image in enumerate(batch.ids.tolist()):
            picture = read_image(data.root / data.paths[image])
            for number, view in enumerate(views):
                box = view.crop_box(7, batch.step, image, number, picture.height, picture.width)
                assert torch.equal(batch.crops[number][row], crop_file_image(picture, box, view.spec.size))


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_readers_gives_the_same_batches(folder, views, workers):
    (folder / "a/03.png").write_bytes(b"broken")
    here = take(loader(files(folder), views), 7)
    there = take(loader(files(folder), views, workers=workers), 7)
    assert all(map(same, here, there))
    assert sum(len(batch.bad) for batch in there) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_read_ahead_is_not_consumed(folder, views, workers):
    (folder / "b/07.png").write_bytes(b"broken")
    whole = take(loader(files(folder), views), 9)
    seen, state = [], None
    for count in (1, 2, 3, 3):
        ours = loader(files(folder), views, workers=workers)
        if state:
            ours.load_state_dict(json.loads(json.dumps(state)))
        seen += take(ours, count)
        state = ours.state_dict()
    assert all(map(same, whole, seen))
    assert (state["epoch"], state["position"]) == (4, 1)
    assert [path[-6:] for path, _ in state["bad"]] == ["07.png"]


def test_processes_together_see_what_one_sees(folder, views):
    alone = take(loader(files(folder), views), 4)
    shares = [take(loader(files(folder), views, rank=rank, world=4), 4) for rank in range(4)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert torch.equal(whole.ids, torch.cat([part.ids for part in parts]))
        assert torch.equal(whole.crops[1], torch.cat([part.crops[1] for part in parts]))


def test_a_jump_to_another_epoch_drops_what_was_read_ahead(folder, views):
    whole = take(loader(files(folder), views), 5)
    ours = loader(files(folder), views, workers=1)
    next(iter(ours))
    ours.set_epoch(2)
    assert same(next(iter(ours)), whole[4])
    ours.close()


def test_the_global_random_state_is_left_alone(folder, views):
    before = torch.get_rng_state()
    take(loader(files(folder), views, workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unreadable_image_is_replaced_by_one_of_another_batch(folder, views):
    data = files(folder)
    order = loader(data, views).order
    first = order.epoch(0).tolist()
    for position in (2, 10):  # and the first that would stand in for it
        (data.root / data.paths[first[position]]).write_bytes(b"broken")
    one, two = take(loader(data, views), 2)
    assert one.ids.tolist() == [*first[:2], first[11], *first[3:8]]
    assert two.ids.tolist() == [*first[8:10], first[18], *first[11:16]]
    assert [path for path, _ in one.bad] == [str(data.root / data.paths[first[p]]) for p in (2, 10)]
    assert two.bad == []
    assert "not an image" in one.bad[0][1]


@pytest.mark.parametrize("workers", [0, 1])
def test_one_more_unreadable_image_than_allowed_ends_the_run(folder, views, workers):
    for name in ("a/00.png", "b/01.png", "c/02.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
    assert len(take(loader(files(folder), views, bad_images=3, workers=workers), 8)) == 8
    with pytest.raises(DataError, match=r"3 images .* 2 are allowed \(.*\.png.*raise data\.bad_images"):
        take(loader(files(folder), views, bad_images=2, workers=workers), 8)


def test_the_count_goes_on_after_a_resume(folder, views):
    ours = loader(files(folder), views, bad_images=1)
    state = {**ours.state_dict(), "bad": [["gone.png", "it was damaged"]]}
    (folder / "a/00.png").write_bytes(b"")
    ours.load_state_dict(state)
    with pytest.raises(DataError, match="2 images"):
        take(ours, 4)
    with pytest.raises(DataError, match="0 are allowed"):
        loader(files(folder), views, bad_images=0).load_state_dict(state)


def test_a_folder_of_rubbish_ends_the_run_soon(folder, views):
    for path in folder.glob("*/*.png"):
        path.write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"5 images .* 4 are allowed"):
        take(loader(files(folder), views, bad_images=4), 1)
    with pytest.raises(DataError, match="no image that can be read"):
        take(loader(files(folder), views, bad_images=100), 1)


def test_large_photos_are_decoded_smaller_without_enlarging_crops(tmp_path):
    ramp = Image.linear_gradient("L").resize((2400, 1800))
    photo = Image.merge("RGB", [ramp, ramp.rotate(180), Image.effect_noise((2400, 1800), 60)])
    for i in range(4):
        photo.rotate(90 * i, expand=True).save(tmp_path / f"{i}.jpg", quality=95)
    assert (tmp_path / "0.jpg").stat().st_size > 150_000
    view = RandomView(ViewSpec(size=32, scale=(0.3, 1.0)), (0.5,) * 3, (0.25,) * 3)
    (batch,) = take(loader(files(tmp_path), [view], batch_size=4), 1)
    for row, image in enumerate(batch.ids.tolist()):
        whole = read_image(tmp_path / f"{image}.jpg")
        box = view.crop_box(7, 0, image, 0, whole.height, whole.width)
        exact = crop_file_image(whole, box, 32).float()
        # Only the two smooth channels: noise is averaged differently.
        assert (batch.crops[0][row].float() - exact)[:2].abs().mean() < 2


def test_a_small_pixel_limit_makes_images_unreadable(folder, views):
    with pytest.raises(DataError, match="cannot be read"):
        take(loader(files(folder), views, max_pixels=100, bad_images=3), 1)
