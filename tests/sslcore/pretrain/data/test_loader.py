import itertools
import json

import pytest
import torch

from sslcore.errors import DataError
from sslcore.pretrain.data import ImageArray, TrainLoader, open_images
from sslcore.pretrain.recipe import DataSettings


def array(n=23, labels=True):
    """Image i is filled with the number i."""
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 4, 4).contiguous()
    return ImageArray(images, torch.arange(n) % 5 if labels else None)


def loader(data=None, **options):
    return TrainLoader(array() if data is None else data, **{"batch_size": 8, "seed": 7, **options})


def ids(batches):
    return [batch.ids.tolist() for batch in batches]


def test_batches_follow_the_order():
    ours = loader()
    for epoch in range(3):
        order = ours.order.epoch(epoch).tolist()
        batches = list(ours)
        assert ids(batches) == [order[0:8], order[8:16]]
        assert [batch.step for batch in batches] == [2 * epoch, 2 * epoch + 1]
        for batch in batches:
            assert batch.images[:, 0, 0, 0].tolist() == batch.ids.tolist()
            assert batch.labels.tolist() == (batch.ids % 5).tolist()
            assert batch.crops is None
            assert batch.bad == []
    assert len(ours) == 2


def test_images_without_labels():
    assert next(iter(loader(array(labels=False)))).labels is None


@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_see_what_one_sees(world):
    alone = ids(loader())
    shares = [ids(loader(rank=rank, world=world)) for rank in range(world)]
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == alone


@pytest.mark.parametrize("stop", range(7))
def test_a_restored_loader_goes_on_with_the_next_batch(stop):
    whole = loader()
    expected = ids(batch for _ in range(4) for batch in whole)
    seen, state = [], None
    for _ in range(3):  # interrupted several times, also twice within one epoch
        ours = loader()
        if state is not None:
            ours.load_state_dict(json.loads(json.dumps(state)))
        take(ours, stop, seen)
        state = ours.state_dict()
    ours = loader()
    ours.load_state_dict(state)
    take(ours, 8 - len(seen), seen)
    assert ids(seen) == expected
    assert [batch.step for batch in seen] == list(range(8))


def take(ours, count, seen):
    """Up to `count` batches, but no more than 8 in all."""
    while count > 0 and len(seen) < 8:
        for batch in ours:
            seen.append(batch)
            count -= 1
            if count == 0 or len(seen) == 8:
                break


def test_an_iterator_begins_where_the_loader_stands_when_it_is_first_asked():
    ours = loader()
    early = iter(ours)
    ours.load_state_dict({**ours.state_dict(), "epoch": 3, "position": 1})
    assert next(early).step == 7


def test_the_epoch_can_be_set_from_outside_but_not_restarted():
    ours = loader()
    next(iter(ours))
    ours.set_epoch(0)
    assert next(iter(ours)).step == 1
    ours.set_epoch(5)
    assert next(iter(ours)).step == 10
    with pytest.raises(ValueError, match="negative"):
        ours.set_epoch(-1)


@pytest.mark.parametrize(
    ("other", "what"), [({"data": array(24)}, "images"), ({"batch_size": 4}, "batch size"), ({"seed": 8}, "seed")]
)
def test_another_run_s_state_is_refused(other, what):
    with pytest.raises(DataError, match=f"cannot resume exactly: the {what}"):
        loader().load_state_dict(loader(**other).state_dict())


def test_too_few_images_for_a_batch():
    with pytest.raises(DataError, match="at most 23"):
        loader(batch_size=24)


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(DataError, match="multiple of 3"):
        loader(world=3)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"world": 0}, {"rank": 1}, {"rank": -1}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        loader(**wrong)


def test_files_need_views(folder):
    with pytest.raises(ValueError, match="views"):
        loader(open_images(DataSettings(path=str(folder))))


def test_unreadable_files_of_an_array_are_reported_once_over_all_runs():
    data = array()
    data.bad = [("a.png", "it is damaged"), ("b.png", "it is empty")]
    ours = loader(data, bad_images=2)
    assert [batch.bad for batch in ours] == [data.bad, []]
    again = loader(data, bad_images=2)
    again.load_state_dict(ours.state_dict())
    assert [batch.bad for batch in again] == [[], []]
    assert again.bad == data.bad


def test_one_process_has_nothing_to_merge():
    ours = loader()
    ours.merge_bad()
    ours.close()
    assert ours.bad == []


def test_processes_make_their_lists_of_unreadable_images_one(monkeypatch):
    def gather(lists, mine):
        lists[:] = [mine, {"b.png": "it is empty"}]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    data = array()
    data.bad = [("a.png", "it is damaged")]
    ours, strict = loader(data, bad_images=2), loader(data, bad_images=1)
    for each in (ours, strict):
        next(iter(each))
    ours.merge_bad()
    assert ours.state_dict()["bad"] == [["a.png", "it is damaged"], ["b.png", "it is empty"]]
    with pytest.raises(DataError, match="2 images"):
        strict.merge_bad()
